"""Rules for dtypes: the dtypes of sums and averages, and a decorator that allows implicit promotion."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import jax
import jax.numpy as jnp

Array = jax.Array
P = ParamSpec("P")
R = TypeVar("R")


def accumulation_dtype(x: Array) -> Any:
    """Return the dtype for sums of averages: float32 for 16-bit and integer input."""
    return x.dtype if jnp.issubdtype(x.dtype, jnp.inexact) and x.dtype.itemsize >= 4 else jnp.dtype(jnp.float32)


def average_dtype(x: Array) -> Any:
    """Return the dtype of an average: that of the input, float32 for integers."""
    return x.dtype if jnp.issubdtype(x.dtype, jnp.inexact) else jnp.dtype(jnp.float32)


def promoting(function: Callable[P, R]) -> Callable[P, R]:
    """Run the function with JAX's default rank and dtype promotion."""

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
            return function(*args, **kwargs)

    return run
