"""Linear maps whose transpose is given, because JAX's, the transpose of each equation, can be much slower."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

Array = jax.Array


def linear_map(x: Array, axis: int, size: int, function: Callable, transpose: Callable) -> Array:
    """Compute `function(x)`, which is linear and gives `size` positions along `axis`; `transpose` is its
    transpose in every derivative.

    The only linear map of JAX that is given its transpose and has every rule is a linear solve. It maps a space to
    itself: here that of `x` and the result side by side, where each map reads one part and writes the other.
    """
    n = x.shape[axis]

    def between(zeros_before: int, y: Array, zeros_after: int) -> Array:
        pads = [(zeros_before, zeros_after, 0) if number == axis else (0, 0, 0) for number in range(y.ndim)]
        return lax.pad(y, jnp.zeros((), y.dtype), pads)

    def forward(_: Callable, both: Array) -> Array:
        return between(n, function(lax.slice_in_dim(both, 0, n, axis=axis)), 0)

    def backward(_: Callable, both: Array) -> Array:
        return between(0, transpose(lax.slice_in_dim(both, n, n + size, axis=axis)), size)

    both = lax.custom_linear_solve(lambda both: both, between(0, x, size), forward, backward)
    return lax.slice_in_dim(both, n, n + size, axis=axis)
