"""Maxima of the bins of boxes by comparisons with every position, without gathers: for a GPU and a TPU."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from ._argmax import reduction_identity
from ._region_bins import Bins, Span

Array = jax.Array

MAX_IMAGES = 2**24  # numbers of the images of a group of boxes


def maxima(x: Array, bins: Bins, is_single: bool) -> Array:
    """Take the maximum of each bin, `(k, *bins, c)`, the least number for an empty one.

    `is_single`: compute one box at a time, so that a slice reads its image; otherwise as many as memory holds.
    """
    return _map_boxes(lambda image, rows, columns: _of_bins(image, rows, columns)[0], (x,), bins, is_single)


def at_maxima(x: Array, dx: Array, bins: Bins, _: Array, is_single: bool) -> Array:
    """Select the entries of `dx` at the first maximum of each bin, 0 for an empty one; linear in `dx`."""

    def selected(image: Array, moved: Array, rows: Array, columns: Array) -> Array:
        _, row, column = _of_bins(lax.stop_gradient(image), rows, columns)
        by_column = _select(moved[None], column[:, :, None], 2)
        return _select(by_column[None], row[:, :, None], 2)

    return _map_boxes(selected, (x, dx), bins, is_single)


def _map_boxes(function: Callable, images: tuple[Array, ...], bins: Bins, is_single: bool) -> Array:
    """Compute a function of the images of each box and the masks of its bins, `(bins, positions)`."""
    x = images[0]

    def one(box: Any) -> Array:
        number, *spans = box
        own = [lax.dynamic_index_in_dim(image, number, 0, keepdims=False) for image in images]
        return function(*own, *(_mask(span, n) for span, n in zip(spans, x.shape[1:3])))

    numbers = (*x.shape[1:], bins.images.shape[0])
    are_known = all(isinstance(n, int) for n in numbers)
    size = 1 if is_single or not are_known else max(1, MAX_IMAGES // math.prod(numbers[:-1]))
    return lax.map(one, (bins.images, bins.rows, bins.columns), batch_size=None if size == 1 else size)


def _mask(span: Span, n: int) -> Array:
    position = jnp.arange(n, dtype=jnp.int32)
    return (position >= span.first[:, None]) & (position < (span.first + span.length)[:, None])


def _of_bins(image: Array, rows: Array, columns: Array) -> tuple[Array, Array, Array]:
    """Return the maximum of each bin, `(*bins, c)`, and where the first is: its row, and for each row the column in
    `(column bins, rows, c)`."""
    along, column = _largest(image[None], columns[:, None, :, None], 2)
    y, row = _largest(along[None], rows[:, None, :, None], 2)
    return y, row, column


def _largest(x: Array, real: Array, axis: int) -> tuple[Array, Array]:
    """Return the maximum of real elements along an axis, and where the first is."""
    best = jnp.where(real, x, reduction_identity(x.dtype, "max")).max(axis)
    whole = jnp.expand_dims(best, axis)
    equal = real & ((x == whole) | ((x != x) & (whole != whole)))
    place = lax.broadcasted_iota(jnp.int32, equal.shape, axis)
    return best, jnp.where(equal, place, equal.shape[axis]).min(axis)


def _select(x: Array, at: Array, axis: int) -> Array:
    """Select the element of `x` whose position along the axis is `at`; none beyond its end."""
    shape = jnp.broadcast_shapes(x.shape, at.shape)
    place = lax.broadcasted_iota(jnp.int32, shape, axis)
    return jnp.where(place == at, x, jnp.zeros((), x.dtype)).sum(axis, dtype=x.dtype)
