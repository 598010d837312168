"""Which element of a window wins, for windows of any size: by comparisons along one axis after another."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ._patches import pad_axis, unfold_axis
from ._window import Window

Array = jax.Array


def argmax_by_axis(x: Array, window: Window, place: Array, reducer: Any) -> Array:
    """The entries of `place`, which is none below 0, where `x` wins; -1 for a window of padding only."""
    first = x.ndim - 1 - window.rank
    pads = window.pads(x.shape[first:-1])
    for axis in reversed(range(window.rank)):  # last first: then the first of equals is the first of the whole window
        at, geometry = first + axis, (window.size[axis], window.strides[axis], window.dilation[axis])
        seen = unfold_axis(pad_axis(x, at, pads[axis], "zeros"), at, *geometry)
        places = unfold_axis(pad_axis(place, at, pads[axis], "constant", -1), at, *geometry)
        won = is_winner(seen, at + 1, reducer, places >= 0)
        place = jnp.where(won, places, -1).max(at + 1)
        x = (won & seen).any(at + 1) if x.dtype == bool else jnp.where(won, seen, 0).sum(at + 1, dtype=x.dtype)
    return place


def is_winner(x: Array, axis: int, reducer: Any = "max", real: Array | None = None) -> Array:
    """Whether an element is the last NaN along the axis, or else the first of the best; of those that are real, if it is said."""
    tap = lax.broadcasted_iota(jnp.int32, x.shape, axis)
    best = jnp.max if reducer == "max" else jnp.min
    x = x if real is None else jnp.where(real, x, least(x.dtype, reducer))
    equal, nan = x == best(x, axis, keepdims=True), x != x
    equal = equal if real is None else equal & real
    first = jnp.where(equal, tap, x.shape[axis]).min(axis, keepdims=True)
    last = jnp.where(nan, tap, -1).max(axis, keepdims=True)
    return tap == jnp.where(last < 0, first, last)


def least(dtype: Any, reducer: Any) -> Any:
    """What no element is worse than."""
    if dtype.kind == "b":
        return reducer == "min"
    if jnp.issubdtype(dtype, jnp.floating):
        return jnp.asarray(-np.inf if reducer == "max" else np.inf, dtype)
    info = jnp.iinfo(dtype)
    return jnp.asarray(info.min if reducer == "max" else info.max, dtype)
