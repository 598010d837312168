"""A decorator that applies NumPy's broadcasting and promotion rules, whatever JAX's settings are."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import jax

P = ParamSpec("P")
R = TypeVar("R")


def promoting(function: Callable[P, R]) -> Callable[P, R]:
    """Run the function with JAX's default rank and dtype promotion."""

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
            return function(*args, **kwargs)

    return run
