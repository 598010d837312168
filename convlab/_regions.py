"""Regions of images for detectors: pools over boxes, and non-maximum suppression."""

from __future__ import annotations

import functools
import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from . import _backend, _region_masks
from ._argmax import reduction_identity
from ._arguments import (
    argument_error,
    as_array,
    as_int,
    broadcast_to_rank,
    check_ordered_dtype,
    check_real,
    check_real_dtype,
    index_dtype,
    read_int,
)
from ._dtypes import accumulation_dtype, average_dtype
from ._promotion import promoting
from ._region_bins import Bins, Span, bin_starts, by_groups, fold, image_index, nonzero_span, rounded_bins
from .typing import Ints

Array = jax.Array
Terms = tuple[Array, Array]  # the positions that a bin reads, and their weights

# With samples more than half a position apart, as several in a bin are, at most this many lie within one position of
# another.
NEIGHBOURS = 5
MAX_SAMPLES = 2  # along an axis of a bin, that are gathered
MAX_GATHERED = 2**22  # numbers that the gradient of one group of boxes stores


@promoting
def roi_align(
    x: Array,
    boxes: Array,
    output_shape: Ints,
    *,
    spatial_scale: float = 1.0,
    sampling_ratio: int = -1,
    aligned: bool = False,
) -> Array:
    """Average linearly interpolated samples in the bins of each box.

    Args:
        x: `(n, height, width, c)` of a real dtype.
        boxes: `(k, 5)`: the number of the image, then x1, y1, x2, y2 in steps of `x` divided by `spatial_scale`.
        output_shape: the bins of each box, an int or (height, width).
        spatial_scale: the factor of the box coordinates.
        sampling_ratio: samples per bin along each axis; -1: the length of the bin, rounded up.
        aligned: shift by half a position, so that coordinates are those of centres; otherwise a box is at least one
            position large.

    Returns:
        `(k, *output_shape, c)` of the dtype of `x`, float32 for integers, differentiable in `x`, computed in float32 or
        wider; `sampling_ratio=-1` works under `jax.jit` too. A box with an image number out of range gives NaN.

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: shapes that do not fit, sizes out of range.

    Example:
        >>> x = jnp.arange(16.0).reshape(1, 4, 4, 1)
        >>> roi_align(x, jnp.array([[0.0, 0.0, 0.0, 2.0, 2.0]]), 1, aligned=True).ravel().tolist()
        [2.5]

    Equals `torchvision.ops.roi_align`, whose boxes have no gradient either.
    Source: He et al., "Mask R-CNN", arXiv 1703.06870.
    """
    x, boxes, out = _read(x, boxes, output_shape, spatial_scale)
    ratio = as_int(sampling_ratio)
    if ratio is None:
        raise argument_error("sampling_ratio", "be an int", sampling_ratio, kind=TypeError)
    check_real_dtype(x)
    if x.shape[0] == 0:
        return jnp.full((boxes.shape[0], *out, x.shape[-1]), math.nan, average_dtype(x))
    wide = x.astype(accumulation_dtype(x))
    boxes = lax.stop_gradient(boxes).astype(wide.dtype)
    axes = [(boxes[:, 2 - axis], boxes[:, 4 - axis], x.shape[1 + axis], out[axis]) for axis in (0, 1)]
    options = spatial_scale, ratio, bool(aligned)

    def by_products(wide: Array, boxes: Array) -> Array:
        return _by_products(wide, boxes[:, 0], *(_bin_weights(*axis, *options) for axis in axes))

    def by_gathers(wide: Array, boxes: Array) -> Array:
        return _by_gathers(wide, boxes[:, 0], *(_sampled(*axis, *options) for axis in axes))

    are_known = all(isinstance(n, int) for n in (*x.shape, *boxes.shape))
    if 0 < ratio <= MAX_SAMPLES and are_known and boxes.shape[0] > 0:
        y = _backend.by_platform(wide, boxes, tpu=by_products, default=by_gathers)
    else:
        y = by_products(wide, boxes)
    return y.astype(average_dtype(x))


def _by_products(x: Array, images: Array, rows: Array, columns: Array) -> Array:
    """Sum the image of each box with the weights of its rows and columns, in products where those are fast."""

    def pooled(own, row, column):
        y = jnp.einsum("ph,hwc->pwc", row, own, precision="highest")
        return jnp.einsum("qw,pwc->pqc", column, y, precision="highest")

    def alone(own, row, column):
        """Sum with weights so that a weight of 0 adds no 0 * inf."""
        weight = row[:, None, :, None, None] * column[None, :, None, :, None]
        return jnp.where(weight == 0, 0, weight * own).sum((2, 3))

    def guarded(x, images, rows, columns):
        finite = jnp.isfinite(x).all((1, 2, 3))

        def one(box):
            image, row, column = box
            number = image_index(image)
            is_plain = (
                lax.dynamic_index_in_dim(finite, number, 0, keepdims=False) & (number >= 0) & (number < x.shape[0])
            )
            return lax.cond(is_plain, pooled, alone, _image_of(x, image), row, column)

        return lax.map(one, (images, rows, columns))

    def plain(dx, images, rows, columns):
        return lax.map(lambda box: pooled(_image_of(dx, box[0]), *box[1:]), (images, rows, columns))

    def forward(*given):
        return _backend.by_platform(*given, cpu=_by_positions, default=guarded)

    # the map of tangents has no branches: JAX would store what each of them needs
    products = jax.custom_jvp(promoting(forward))
    products.defjvp(lambda given, tangents: (products(*given), promoting(plain)(tangents[0], *given[1:])))
    return products(x, images, rows, columns)


def _by_positions(x: Array, images: Array, rows: Array, columns: Array) -> Array:
    """Add up the positions that have weights in each bin."""
    number = image_index(images)
    known = (number >= 0) & (number < x.shape[0])
    bins = Bins(jnp.where(known, number, 0), nonzero_span(rows), nonzero_span(columns))

    def group(bins, rows, columns):
        def weight_at(weights, span, offset):
            return jnp.take_along_axis(weights, (span.first + offset)[..., None], 2, mode="clip")[..., 0]

        def weighted(total, values, is_read, _, i, j):
            weight = weight_at(rows, bins.rows, i)[:, :, None] * weight_at(columns, bins.columns, j)[:, None, :]
            return total + jnp.where(is_read & (weight[..., None] != 0), weight[..., None] * values, 0)

        return fold(weighted, jnp.zeros((*bins.shape(), x.shape[-1]), x.dtype), x, bins)

    y = by_groups(group, x, bins, rows, columns)
    return jnp.where(known[:, None, None, None], y, jnp.asarray(math.nan, y.dtype))


def _by_gathers(x: Array, images: Array, rows: Terms, columns: Terms) -> Array:
    """Add up the positions that the samples of each bin read, for a group of boxes at a time."""
    n, height, width, channels = x.shape
    flat = x.reshape(n * height * width, channels)
    count, bins = images.shape[0], (rows[0].shape[1], columns[0].shape[1])
    taps = rows[0].shape[2] * columns[0].shape[2]
    groups = -(-count // max(1, MAX_GATHERED // max(1, taps * math.prod(bins) * channels)))
    size = -(-count // groups)

    def grouped(a: Array) -> Array:
        a = jnp.pad(a, [(0, groups * size - count), *[(0, 0)] * (a.ndim - 1)])
        return a.reshape(groups, size, *a.shape[1:])

    def pooled(group: Any) -> Array:
        images, (row, row_weight), (column, column_weight) = group
        indices, weights = [], []
        number = image_index(images)
        known = (number >= 0) & (number < n)
        first = jnp.where(known, number, 0)[:, None, None] * (height * width)
        for i, j in itertools.product(range(row.shape[2]), range(column.shape[2])):
            indices.append((first + row[:, :, None, i] * width + column[:, None, :, j]).ravel())
            weights.append(_backend.stored_apart(row_weight[:, :, None, i] * column_weight[:, None, :, j]).ravel())
        y = _backend.weighted_rows(flat, indices, tuple(weights), list).reshape(size, *bins, channels)
        return jnp.where(known[:, None, None, None], y, jnp.asarray(math.nan, y.dtype))

    y = lax.map(pooled, jax.tree.map(grouped, (images, rows, columns)))
    return y.reshape(groups * size, *bins, channels)[:count]


def _image_of(x: Array, number: Array) -> Array:
    position = image_index(number)
    image = lax.dynamic_index_in_dim(x, position, 0, keepdims=False)
    return jnp.where((position >= 0) & (position < x.shape[0]), image, jnp.asarray(math.nan, x.dtype))


def _bin_weights(start: Array, end: Array, n: int, bins: int, scale: Any, ratio: int, aligned: bool) -> Array:
    """Return the weight of each of `n` positions in the mean of the samples of each bin, `(k, bins, n)`."""
    first, size = bin_starts(start, end, bins, scale, aligned)
    first = first[..., None, None]
    count = jnp.full_like(size, ratio) if ratio > 0 else jnp.ceil(size)
    count, step = count[:, None, None, None], (size / jnp.maximum(count, 1))[:, None, None, None]
    position = jnp.arange(n, dtype=start.dtype)[:, None]
    if ratio > 0:
        sample = jnp.arange(ratio, dtype=start.dtype)
    else:  # the samples next to each position
        before = jnp.floor((position - 1 - first) / jnp.where(step > 0, step, 1) - 0.5)
        sample = jnp.maximum(before, 0) + jnp.arange(NEIGHBOURS + 1, dtype=start.dtype)
    at = first + (sample + 0.5) * step
    real = (sample >= 0) & (sample < count) & (at >= -1) & (at <= n)
    hats = jnp.maximum(1 - abs(at.clip(0, n - 1) - position), 0)
    mean = jnp.where(real, hats, 0).sum(-1) / jnp.maximum(count[..., 0], 1)
    return jnp.where(jnp.isfinite(count[..., 0]), mean, 0)  # a box that is not finite reads nothing


def _sampled(start: Array, end: Array, n: int, bins: int, scale: Any, ratio: int, aligned: bool) -> Terms:
    """Return the two positions, of `n`, that each of `ratio` samples in a bin reads, and their weights in the mean of
    the bin, both `(k, bins, 2 * ratio)`."""
    first, size = bin_starts(start, end, bins, scale, aligned)
    at = first[..., None] + (jnp.arange(ratio, dtype=first.dtype) + 0.5) * (size / ratio)[:, None, None]
    inside = (at >= -1) & (at <= n)
    at = jnp.where(inside, at, 0).clip(0, n - 1)
    low = jnp.floor(at)
    positions = jnp.concatenate([low, jnp.minimum(low + 1, n - 1)], -1).astype(jnp.int32)
    weights = jnp.concatenate([1 - (at - low), at - low], -1) / ratio
    return positions, jnp.where(jnp.concatenate([inside, inside], -1), weights, 0)


@promoting
def roi_pool(x: Array, boxes: Array, output_shape: Ints, *, spatial_scale: float = 1.0) -> Array:
    """Take the maximum in the bins of each box.

    Args:
        x: `(n, height, width, c)` of a real dtype.
        boxes: `(k, 5)`: the number of the image, then x1, y1, x2, y2; times `spatial_scale` and rounded, they are the
            first and last positions of the box.
        output_shape: the bins of each box, an int or (height, width); bins overlap where they do not divide the box
            evenly.
        spatial_scale: the factor of the box coordinates.

    Returns:
        `(k, *output_shape, c)` of the dtype of `x`; a bin outside the image gives 0, and so does a box that is not
        finite or whose image does not exist. The gradient goes to the first of equal maxima.

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: shapes that do not fit, sizes out of range.

    Example:
        >>> x = jnp.arange(16.0).reshape(1, 4, 4, 1)
        >>> roi_pool(x, jnp.array([[0.0, 0.0, 0.0, 3.0, 1.0]]), (1, 2)).ravel().tolist()
        [5.0, 7.0]

    Equals `torchvision.ops.roi_pool`; NaN wins, as in `max_pool`.
    Source: Girshick, "Fast R-CNN", arXiv 1504.08083.
    """
    x, boxes, out = _read(x, boxes, output_shape, spatial_scale)
    check_ordered_dtype(x)
    if x.shape[0] == 0:
        return jnp.zeros((boxes.shape[0], *out, x.shape[-1]), x.dtype)
    boxes = lax.stop_gradient(boxes).astype(jnp.promote_types(boxes.dtype, jnp.float32))
    rows, columns = (
        rounded_bins(boxes[:, 2 - axis], boxes[:, 4 - axis], x.shape[1 + axis], out[axis], spatial_scale)
        for axis in (0, 1)
    )
    images = image_index(boxes[:, 0])
    known = (images >= 0) & (images < x.shape[0])
    rows = Span(rows.first, jnp.where(known[:, None], rows.length, 0))
    return _maxima(x, Bins(jnp.where(known, images, 0), rows, columns))


@jax.custom_jvp
@promoting
def _maxima(x: Array, bins: Bins) -> Array:
    """Take the maximum of each bin, 0 for an empty one."""
    by_masks = functools.partial(_region_masks.maxima, is_single=False)
    best = _backend.by_platform(
        x, bins, cpu=_maxima_by_positions, tpu=functools.partial(by_masks, is_single=True), default=by_masks
    )
    return jnp.where(bins.are_empty(), jnp.zeros((), x.dtype), best)


def _maxima_by_positions(x: Array, bins: Bins) -> Array:
    def larger(best, values, is_read, *_):
        return jnp.where(is_read & ((values > best) | (values != values)), values, best)

    def group(bins):
        lowest = reduction_identity(x.dtype, "max")
        return fold(larger, jnp.full((*bins.shape(), x.shape[-1]), lowest, x.dtype), x, bins)

    return by_groups(group, x, bins)


@_maxima.defjvp
@promoting
def _maxima_jvp(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    (x, bins), (dx, _) = primals, tangents
    y, by_masks = _maxima(x, bins), functools.partial(_region_masks.at_maxima, is_single=False)
    tangent = _backend.by_platform(
        x, dx, bins, y, cpu=_at_maxima, tpu=functools.partial(by_masks, is_single=True), default=by_masks
    )
    return y, jnp.where(bins.are_empty(), jnp.zeros((), dx.dtype), tangent)


def _at_maxima(x: Array, dx: Array, bins: Bins, y: Array) -> Array:
    """Gather the entries of `dx` at the first maximum, `y`, of each bin."""
    at = _first_equal(lax.stop_gradient(x), bins, lax.stop_gradient(y))
    at = at * x.shape[-1] + jnp.arange(x.shape[-1], dtype=at.dtype)
    return jnp.ravel(dx).at[at].get(mode="promise_in_bounds")


def _first_equal(x: Array, bins: Bins, y: Array) -> Array:
    """Return where each bin first has the value `y`, flat over images, rows and columns."""
    beyond = jnp.asarray(jnp.iinfo(index_dtype(x.shape)).max, index_dtype(x.shape))

    def group(bins, y):
        def first(at, values, is_read, index, *_):
            equal = is_read & ((values == y) | ((values != values) & (y != y)))
            return jnp.minimum(at, jnp.where(equal, index, beyond))

        at = fold(first, jnp.full(y.shape, beyond), x, bins)
        return jnp.where(bins.are_empty(), jnp.zeros_like(at), at)

    return by_groups(group, x, bins, y)


@promoting
def nms(boxes: Array, scores: Array, *, iou_threshold: float, max_outputs: int) -> tuple[Array, Array]:
    """Select boxes by score and drop those that overlap a selected box too much (non-maximum suppression).

    Args:
        boxes: `(k, 4)`: x1, y1, x2, y2.
        scores: `(k,)`.
        iou_threshold: a box is dropped if its intersection over union with a kept box exceeds this.
        max_outputs: the size of the result.

    Returns:
        `(indices, count)`: int32 indices `(max_outputs,)`, -1 beyond the first `count`, and the number of kept boxes.
        Boxes of equal score keep their order. Works under `jax.jit` and `jax.vmap`.

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: shapes that do not fit, a size below 1.

    Example:
        >>> boxes = jnp.array([[0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 2.0, 1.9], [5.0, 5.0, 6.0, 6.0]])
        >>> indices, count = nms(boxes, jnp.array([0.9, 0.8, 0.7]), iou_threshold=0.5, max_outputs=3)
        >>> indices.tolist(), int(count)
        ([0, 2, -1], 2)

    Equals `torchvision.ops.nms`, whose result has one index per kept box.
    """
    boxes, scores = as_array("boxes", boxes), as_array("scores", scores)
    size = read_int("max_outputs", max_outputs)
    check_real("iou_threshold", iou_threshold)
    check_real_dtype(boxes, "boxes")
    check_real_dtype(scores, "scores")
    if boxes.ndim != 2 or boxes.shape[-1] != 4:
        raise argument_error("boxes", "have shape (k, 4)", boxes.shape)
    if scores.shape != boxes.shape[:1]:
        raise argument_error("scores", f"have shape ({boxes.shape[0]},)", scores.shape, f"boxes of shape {boxes.shape}")
    boxes = lax.stop_gradient(boxes).astype(accumulation_dtype(boxes))
    indices, count = jnp.full(size, -1, jnp.int32), jnp.zeros((), jnp.int32)
    if boxes.shape[0] == 0:
        return indices, count
    order = jnp.argsort(lax.stop_gradient(scores), descending=True, stable=True).astype(jnp.int32)
    boxes = boxes[order]
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    limit = jnp.asarray(iou_threshold, boxes.dtype)

    def step(state):
        remaining, indices, count = state
        best = jnp.argmax(remaining)
        low, high = jnp.maximum(boxes[best, :2], boxes[:, :2]), jnp.minimum(boxes[best, 2:], boxes[:, 2:])
        common = jnp.maximum(high - low, 0).prod(-1)
        overlaps = common / (areas[best] + areas - common) > limit
        remaining = remaining & ~overlaps & (jnp.arange(boxes.shape[0]) != best)
        return remaining, indices.at[count].set(order[best]), count + 1

    start = jnp.ones(boxes.shape[0], bool), indices, count
    _, indices, count = lax.while_loop(lambda state: state[0].any() & (state[2] < size), step, start)
    return indices, count


def _read(x: Any, boxes: Any, output_shape: Any, spatial_scale: Any) -> tuple[Array, Array, tuple[int, ...]]:
    x, boxes = as_array("x", x), as_array("boxes", boxes)
    out = broadcast_to_rank("output_shape", output_shape, 2)
    check_real("spatial_scale", spatial_scale)
    check_real_dtype(boxes, "boxes")
    if x.ndim != 4:
        raise argument_error("x", "have shape (n, height, width, c), one batch axis that boxes name", x.shape)
    if 0 in x.shape[1:]:
        raise argument_error("x", "have no empty spatial or channel axis", x.shape)
    if boxes.ndim != 2 or boxes.shape[-1] != 5:
        raise argument_error("boxes", "have shape (k, 5), (image, x1, y1, x2, y2)", boxes.shape)
    return x, boxes, out
