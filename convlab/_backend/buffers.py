"""Array operations that several formulations share: padding, selection, and two ways to control XLA's fusion.

Formulations and pools call these while an equation is lowered.
"""

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
    """Force a buffer, so that XLA does not recompute `x` for every slice that reads it.

    XLA updates an array in place, and so writes it to memory first.
    """
    if 0 in x.shape or any(jax.typeof(x).sharding.spec):  # the slice of a split array would lie on one device only
        return x
    origin = (0,) * x.ndim
    return lax.dynamic_update_slice(x, lax.slice(x, origin, (1,) * x.ndim), origin)


def no_inline(function: Callable, *args: Array) -> Array:
    """Compute `function(*args)` without inlining it into its consumers."""

    def body(*args: Array) -> Array:
        with compat.no_inline(False):  # functions that `function` calls may be inlined
            return function(*args)

    with compat.no_inline():
        return jax.jit(body)(*args)


def pad_spatial(x: Array, pads: Sequence[tuple[int, int]], dilation: Sequence[int] | None = None) -> Array:
    """Pad the spatial axes of `x: (n, *spatial, ...)` with zeros; negative pads crop, `dilation` puts zeros between the
    elements."""
    config = [(0, 0, 0), *((lo, hi, d - 1) for (lo, hi), d in zip(pads, dilation or [1] * len(pads)))]
    config += [(0, 0, 0)] * (x.ndim - len(config))
    return lax.pad(x, jnp.zeros((), x.dtype), config) if any(map(any, config)) else x


def select(condition: Array, x: Array, other: Any) -> Array:
    """Compute `jnp.where` by lax's operations, which are traced faster; axes of length 1 broadcast."""
    shape = lax.broadcast_shapes(condition.shape, x.shape)
    x, condition = (a if a.shape == shape else lax.broadcast_in_dim(a, shape, range(x.ndim)) for a in (x, condition))
    other = other if getattr(other, "shape", None) == shape else lax.full(shape, other, x.dtype)
    return lax.select(condition, x, other)


def equal(x: Array, y: Array | np.ndarray) -> Array:
    """Compute `x == y` by lax's operations; axes of length 1 broadcast."""
    shape = lax.broadcast_shapes(x.shape, y.shape)
    return lax.eq(*(lax.broadcast_in_dim(a, shape, range(a.ndim)) for a in (x, y)))
