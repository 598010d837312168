"""Argmax over windows of any size, by comparisons along one axis after another."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ._padding import pad_axis
from ._patches import unfold_axis
from ._window import Window
from ._window_halves import overlap_much, reduce_axis

Array = jax.Array


def argmax_by_axis(x: Array, window: Window, position: Array, reducer: Any) -> Array:
    """Return the entries of `position`, all >= 0, at the maxima of `x`; -1 for a window of padding only."""
    first = x.ndim - 1 - window.rank
    pads = window.pads(x.shape[first:-1])
    # the last axis first, so that the first of equal elements is the first of the window
    for axis in reversed(range(window.rank)):
        at, geometry = first + axis, (window.size[axis], window.strides[axis], window.dilation[axis])
        x, position = (pad_axis(x, at, pads[axis], "zeros"), pad_axis(position, at, pads[axis], "constant", -1))
        if overlap_much(Window(geometry[:1], geometry[1:2])):
            x, position = reduce_axis((x, position), at, *geometry, functools.partial(_better, reducer))
            continue
        values, positions = (unfold_axis(a, at, *geometry) for a in (x, position))
        is_best = is_argmax(values, at + 1, reducer, positions >= 0)
        position = jnp.where(is_best, positions, -1).max(at + 1)
        x = (
            (is_best & values).any(at + 1)
            if x.dtype == bool
            else jnp.where(is_best, values, 0).sum(at + 1, dtype=x.dtype)
        )
    return position


def _better(reducer: Any, one: tuple[Array, Array], other: tuple[Array, Array]) -> tuple[Array, Array]:
    """Return the better of two elements and its position: of equal ones the first, of NaNs the last."""
    (x, position), (y, other_position) = one, other
    is_better = (y > x if reducer == "max" else y < x) | (y != y)
    takes = (other_position >= 0) & ((position < 0) | is_better & ((x == x) | (y != y)))
    return jnp.where(takes, y, x), jnp.where(takes, other_position, position)


def is_argmax(x: Array, axis: int, reducer: Any = "max", real: Array | None = None) -> Array:
    """Mark the last NaN along the axis or, without a NaN, the first of the best elements; `real` excludes elements."""
    tap = lax.broadcasted_iota(jnp.int32, x.shape, axis)
    best = jnp.max if reducer == "max" else jnp.min
    x = x if real is None else jnp.where(real, x, reduction_identity(x.dtype, reducer))
    equal, nan = x == best(x, axis, keepdims=True), x != x
    equal = equal if real is None else equal & real
    first = jnp.where(equal, tap, x.shape[axis]).min(axis, keepdims=True)
    last = jnp.where(nan, tap, -1).max(axis, keepdims=True)
    return tap == jnp.where(last < 0, first, last)


def reduction_identity(dtype: Any, reducer: Any) -> Any:
    """Return the identity of the reducer: the value that no element is worse than."""
    if dtype.kind == "b":
        return reducer == "min"
    if jnp.issubdtype(dtype, jnp.floating):
        return jnp.asarray(-np.inf if reducer == "max" else np.inf, dtype)
    info = jnp.iinfo(dtype)
    return jnp.asarray(info.min if reducer == "max" else info.max, dtype)
