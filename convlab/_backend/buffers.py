"""Zeros around an image, choices between elements, and two ways to tell XLA what to keep in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from . import compat

Array = jax.Array


def materialize(x: Array) -> Array:
    """Force a buffer, so that XLA does not recompute `x` for every slice that reads it: what is updated is written in
    place."""
    if 0 in x.shape or any(jax.typeof(x).sharding.spec):  # a single element of a split array is on one device only
        return x
    origin = (0,) * x.ndim
    return lax.dynamic_update_slice(x, lax.slice(x, origin, (1,) * x.ndim), origin)


def no_inline(function: Callable, *args: Array) -> Array:
    """Compute `function(*args)` without inlining it into its consumers."""

    def body(*args: Array) -> Array:
        with compat.no_inline(False):  # what is called within may be
            return function(*args)

    with compat.no_inline():
        return jax.jit(body)(*args)


def pad_spatial(x: Array, pads: Sequence[tuple[int, int]], dilation: Sequence[int] | None = None) -> Array:
    """`x: (n, *spatial, ...)` with zeros around its spatial axes (cropped where negative) and, dilated, between the
    elements."""
    config = [(0, 0, 0), *((lo, hi, d - 1) for (lo, hi), d in zip(pads, dilation or [1] * len(pads)))]
    config += [(0, 0, 0)] * (x.ndim - len(config))
    return lax.pad(x, jnp.zeros((), x.dtype), config) if any(map(any, config)) else x


def select(condition: Array, x: Array, other: Any) -> Array:
    """`jnp.where` as lax's equations, which are traced faster, for arrays that may have axes of length 1."""
    shape = lax.broadcast_shapes(condition.shape, x.shape)
    x, condition = (a if a.shape == shape else lax.broadcast_in_dim(a, shape, range(x.ndim)) for a in (x, condition))
    other = other if getattr(other, "shape", None) == shape else lax.full(shape, other, x.dtype)
    return lax.select(condition, x, other)


def equal(x: Array, y: Array | np.ndarray) -> Array:
    """`x == y` as lax's equations, for arrays that may have axes of length 1."""
    shape = lax.broadcast_shapes(x.shape, y.shape)
    return lax.eq(*(lax.broadcast_in_dim(a, shape, range(a.ndim)) for a in (x, y)))
