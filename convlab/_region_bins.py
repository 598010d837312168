"""The bins of boxes: their positions, and reductions over the positions of each bin."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

Array = jax.Array

GROUP = 2**16  # numbers of the result that a group of boxes has, about


class Span(NamedTuple):
    """The positions along an axis that each bin reads: `first` and `length`, `(k, bins)`, int32."""

    first: Array
    length: Array


class Bins(NamedTuple):
    """Rectangular bins of `k` boxes in the images that `images`, `(k,)`, names."""

    images: Array
    rows: Span
    columns: Span

    def shape(self) -> tuple[int, ...]:
        return *self.rows.first.shape, self.columns.first.shape[1]

    def are_empty(self) -> Array:
        return ((self.rows.length == 0)[:, :, None] | (self.columns.length == 0)[:, None, :])[..., None]


def image_index(number: Array) -> Array:
    """Convert the number of an image to an index; a NaN is none of them."""
    return jnp.where(jnp.isnan(number), -1, number).astype(jnp.int32)


def bin_starts(start: Array, end: Array, bins: int, scale: Any, aligned: bool) -> tuple[Array, Array]:
    """Return where the bins of each box begin, `(k, bins)`, and how long they are, `(k,)`."""
    shift = 0.5 if aligned else 0.0
    start, end = start * scale - shift, end * scale - shift
    length = end - start if aligned else jnp.maximum(end - start, 1)
    size = _divided(length, bins)
    return start[:, None] + jnp.arange(bins, dtype=start.dtype) * size[:, None], size


def rounded_bins(start: Array, end: Array, n: int, bins: int, scale: Any) -> Span:
    """Return which of `n` positions belong to each bin of boxes whose ends are rounded, halves away from 0."""

    def rounded(value: Array) -> Array:
        return jnp.sign(value) * jnp.floor(abs(value) + 0.5)

    start, end = rounded(start * scale), rounded(end * scale)
    size = _divided(jnp.maximum(end - start + 1, 1), bins)
    bin_ = jnp.arange(bins, dtype=start.dtype)
    low, high = jnp.floor(bin_ * size[:, None]), jnp.ceil((bin_ + 1) * size[:, None])
    low, high = ((edge + start[:, None]).clip(0, n) for edge in (low, high))
    finite = jnp.isfinite(low) & jnp.isfinite(high) & jnp.isfinite(start + size)[:, None]
    low, high = (jnp.where(finite, edge, 0).astype(jnp.int32) for edge in (low, high))
    return Span(low, jnp.maximum(high - low, 0))


def nonzero_span(weights: Array) -> Span:
    """Return the positions with weights, of `(k, bins, n)`."""
    position = jnp.arange(weights.shape[-1], dtype=jnp.int32)
    used = weights != 0
    first = jnp.where(used, position, weights.shape[-1]).min(-1)
    end = jnp.where(used, position + 1, 0).max(-1)
    return Span(jnp.where(end == 0, 0, first), jnp.maximum(end - first, 0))


def _divided(length: Array, n: int) -> Array:
    """Return `length / n`, rounded once.

    XLA multiplies by the rounded inverse of a constant, and then the last of 7 bins of 6 positions ends beyond them.
    `n` depends on `length` here, so XLA divides.
    """
    return length / jnp.where(jnp.isnan(length), jnp.ones_like(length), jnp.asarray(n, length.dtype))


def fold(step: Callable, initial: Any, x: Array, bins: Bins) -> Any:
    """Fold over the positions of each bin, row by row.

    Args:
        step: maps (state, values, is_read, index, i, j) to the next state, where `values`, `(k, *bins, c)`, is what the
            bins read at their row `i` and column `j`, `is_read`, `(k, *bins, 1)`, whether they have them, and `index`
            the flat position in `x`.
        initial: the first state.
        x: `(n, height, width, c)`.
        bins: the bins.

    Returns:
        The last state. It costs the positions of the largest bin for each.
    """
    images, rows, columns = bins
    height, width = rows.length.max(initial=0), columns.length.max(initial=0)
    flat = x.reshape(math.prod(x.shape[:3]), x.shape[3])
    base = (images[:, None] * x.shape[1] + rows.first) * x.shape[2]

    def body(t: Array, state: Any) -> Any:
        t = lax.convert_element_type(t, height.dtype)  # a loop with known bounds counts in JAX's default dtype
        i, j = lax.div(t, jnp.maximum(width, 1)), lax.rem(t, jnp.maximum(width, 1))
        is_read = (i < rows.length)[:, :, None] & (j < columns.length)[:, None, :]
        index = (base + i * x.shape[2])[:, :, None] + (columns.first + j)[:, None, :]
        index = jnp.where(is_read, index, 0)
        values = flat.at[index].get(mode="promise_in_bounds")
        return step(state, values, is_read[..., None], index[..., None], i, j)

    return lax.fori_loop(0, height * width, body, initial)


def by_groups(function: Callable, x: Array, bins: Bins, *others: Array) -> Any:
    """Compute `function(bins, *others)` for boxes with bins of like sizes at a time; `others` have an axis for the
    boxes."""
    k, p, q = bins.images.shape[0], bins.rows.first.shape[1], bins.columns.first.shape[1]
    size = max(1, GROUP // max(1, p * q * x.shape[-1]))
    if not isinstance(k, int) or k <= size:
        return function(bins, *others)
    order = jnp.argsort(bins.rows.length.max(1) * bins.columns.length.max(1))
    groups = -(-k // size)

    def grouped(a: Array) -> Array:
        a = jnp.pad(a[order], [(0, groups * size - k), *[(0, 0)] * (a.ndim - 1)])
        return a.reshape(groups, size, *a.shape[1:])

    place = jnp.argsort(order)
    y = lax.map(lambda group: function(*group), jax.tree.map(grouped, (bins, *others)))
    return jax.tree.map(lambda a: a.reshape(groups * size, *a.shape[2:])[place], y)
