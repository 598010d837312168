"""Functions that broadcast and promote as NumPy does, however strict JAX is set outside of them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import jax

P = ParamSpec("P")
R = TypeVar("R")


def promoting(function: Callable[P, R]) -> Callable[P, R]:
    """The function, its body run with JAX's own rules: arrays meet in a common rank and dtype."""

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
            return function(*args, **kwargs)

    return run
