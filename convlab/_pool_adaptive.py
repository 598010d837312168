"""Pools with windows derived from the size of the input: adaptive, global and pyramid pools."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any, Literal, overload

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from . import _backend
from ._argmax import is_argmax, reduction_identity
from ._arguments import (
    argument_error,
    as_array,
    check_axis_sizes,
    check_image,
    check_not_empty,
    check_ordered_dtype,
    describe_axes,
    image_rank,
    index_dtype,
    is_int,
    is_sequence,
    is_symbolic,
    spatial_shape,
    to_list,
    tracing_hint,
)
from ._dtypes import accumulation_dtype, average_dtype
from ._masks import only_valid, read_valid
from ._patches import MAX_UNROLLED_TAPS
from ._pool import avg_pool, max_pool
from ._pool_windows import along_axis
from .typing import OptionalInts, Reduce

Array = jax.Array
_MOST_TAPS = 8  # along an axis; for longer windows the gradient of an ordinary max pool is slower on a CPU


# --- adaptive -----------------------------------------------------------------------------------------------------


def adaptive_avg_pool(x: Array, output_shape: OptionalInts) -> Array:
    """Average windows that divide the image into `output_shape` nearly equal parts.

    Along an axis of size n, window i of m extends from `floor(i * n / m)` to `ceil((i + 1) * n / m)`: windows overlap
    where m does not divide n, and repeat where m is larger.

    Args:
        x: `(*batch, *spatial, c)` of any number dtype.
        output_shape: the sizes of the result, one int >= 1 or None per axis, where None keeps an axis; an int means
            every axis of an `x` with one batch axis. Symbolic sizes of `jax.export` are sizes too.

    Returns:
        `(*batch, *output_shape, c)` of the dtype of `x`, float32 for integers; sums are float32 for 16-bit and integer
        input.

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: sizes out of range or of the wrong number, an empty axis.

    Example:
        >>> adaptive_avg_pool(jnp.arange(7.0).reshape(1, 7, 1), 3).ravel().tolist()
        [1.0, 3.0, 5.0]

    It has no `valid`: windows follow from the size of the image, so images of several sizes are pooled one by one.
    Equals `torch.nn.functional.adaptive_avg_pool2d` and Keras' `AdaptiveAveragePooling2D`, in any rank.
    """
    x, out = _read(x, output_shape)
    if tile := _tile_window(x, out):
        return _backend.by_platform(x, tpu=lambda x: avg_pool(x, tile, tile), default=lambda x: _averages(x, out))
    return _averages(x, out)


def _averages(x: Array, out: tuple[int, ...]) -> Array:
    total, count = x.astype(accumulation_dtype(x)), jnp.ones((), accumulation_dtype(x))
    for axis, m in _axes_of(x, out):
        firsts, lasts = _bounds(x.shape[axis], m)
        count = along_axis(lasts - firsts, x.ndim, axis, total.dtype) * count
        total = _interleave(
            [jnp.where(real, window, 0).sum(axis + 1) for window, real in _windows(total, axis, m)], axis
        )
    return (total / count).astype(average_dtype(x))


@overload
def adaptive_max_pool(x: Array, output_shape: OptionalInts, *, return_indices: Literal[False] = ...) -> Array: ...
@overload
def adaptive_max_pool(
    x: Array, output_shape: OptionalInts, *, return_indices: Literal[True]
) -> tuple[Array, Array]: ...
@overload
def adaptive_max_pool(x: Array, output_shape: OptionalInts, *, return_indices: bool) -> Array | tuple[Array, Array]: ...
def adaptive_max_pool(
    x: Array, output_shape: OptionalInts, *, return_indices: bool = False
) -> Array | tuple[Array, Array]:
    """Take the maximum of windows that divide the image into `output_shape` nearly equal parts.

    Args:
        x: `(*batch, *spatial, c)` of a real dtype.
        output_shape: as in `adaptive_avg_pool`, with the same windows.
        return_indices: also return the positions of the maxima.

    Returns:
        `(*batch, *output_shape, c)` of the dtype of `x`; with `return_indices` also indices of that shape, flat over
        the spatial axes. Ties, NaN, the gradient and the dtype of the indices as in `max_pool`.

    Raises:
        TypeError, ValueError: as `adaptive_avg_pool`; TypeError for complex numbers.

    Example:
        >>> y, at = adaptive_max_pool(jnp.array([3.0, 1.0, 2.0, 5.0]).reshape(1, 4, 1), 3, return_indices=True)
        >>> y.ravel().tolist(), at.ravel().tolist()
        ([3.0, 2.0, 5.0], [0, 2, 3])

    Equals `torch.nn.functional.adaptive_max_pool2d` and Keras' `AdaptiveMaxPooling2D`, in any rank.
    """
    x, out = _read(x, output_shape)
    check_ordered_dtype(x)
    tile = _tile_window(x, out)
    by_axes = functools.partial(_maxima, out=out, return_indices=return_indices)
    if tile is None:
        return by_axes(x)
    ordinary = functools.partial(_ordinary_maxima, tile=tile, return_indices=return_indices)
    return ordinary(x) if max(tile) <= _MOST_TAPS else _backend.by_platform(x, tpu=ordinary, default=by_axes)


def _maxima(x: Array, out: tuple[int, ...], return_indices: bool) -> Any:
    y = x
    for axis, m in _axes_of(x, out):
        y = _interleave([_max(window, axis + 1) for window, _ in _windows(y, axis, m)], axis)
    return (y, _argmax_positions(x, out)) if return_indices else y


def _ordinary_maxima(x: Array, tile: tuple[int, ...], return_indices: bool) -> Any:
    return max_pool(x, tile, tile, return_indices=True) if return_indices else max_pool(x, tile, tile)


def _read(x: Any, output_shape: Any) -> tuple[Array, tuple[int, ...]]:
    """Read the image and the sizes of the result."""
    x = as_array("x", x)
    check_not_empty("output_shape", output_shape)
    rank = len(output_shape) if is_sequence(output_shape) else image_rank(x, "output_shape")
    sizes = (output_shape,) * rank if is_int(output_shape) or is_symbolic(output_shape) else output_shape
    sizes = to_list(sizes)
    rule = "be an int >= 1, or one int >= 1 or None per axis"
    if not is_sequence(sizes) or not all(m is None or is_int(m) or is_symbolic(m) for m in sizes):
        raise argument_error(
            "output_shape", rule, output_shape, describe_axes(rank), tracing_hint(output_shape), TypeError
        )
    if any(is_int(m) and m < 1 for m in sizes):
        raise argument_error("output_shape", rule, output_shape, describe_axes(rank))
    check_image(x, rank)
    check_axis_sizes("output_shape", [m for m in sizes if m is not None], output_shape)
    spatial = spatial_shape(x, rank)
    if 0 in (*spatial, x.shape[-1]):
        raise argument_error("x", "have no empty spatial or channel axis", x.shape)
    return x, tuple(n if m is None else int(m) if is_int(m) else m for n, m in zip(spatial, sizes))


def _tile_window(x: Array, out: tuple[int, ...]) -> tuple[int, ...] | None:
    """Return the window of an ordinary pool with the same result, or None unless several windows of one size tile the
    image."""
    sizes = list(zip(spatial_shape(x, len(out)), out))
    if not all(is_int(size) for pair in sizes for size in pair):
        return None
    if any(n % m for n, m in sizes) or math.prod(out) == 1 or all(n == m for n, m in sizes):
        return None
    return tuple(n // m for n, m in sizes)


def _bounds(n: Any, m: Any) -> tuple[Any, Any]:
    """Return the starts and the ends of the windows."""
    position = np.arange(m) if is_int(n) and is_int(m) else jnp.arange(m, dtype=jnp.int32)
    return position * n // m, -(-(position + 1) * n // m)


def _axes_of(x: Array, out: tuple[int, ...]) -> list[tuple[int, int]]:
    """Return the spatial axes and their new sizes, last axis first, so that the first of equal elements is selected."""
    return list(enumerate(out, x.ndim - 1 - len(out)))[::-1]


def _windows(x: Array, axis: int, m: int) -> list[tuple[Array, Any]]:
    """Return the `m` windows along an axis, their taps on the axis after it, and a mask of the taps that belong to the
    window.

    One slice extracts all windows that are m / gcd apart. Many windows are gathered at once, with the last tap of
    shorter ones repeated.
    """
    n = x.shape[axis]
    if not (is_int(n) and is_int(m)):  # every window as long as the longest can be
        return [_gathered(jnp.expand_dims(x, axis), axis, m, 1, *_bounds(n, m), -(-n // m) + 1)]
    blocks = math.gcd(n, m)
    x = x.reshape(*x.shape[:axis], blocks, n // blocks, *x.shape[axis + 1 :])
    firsts, lasts = _bounds(n // blocks, m // blocks)
    if len(firsts) <= MAX_UNROLLED_TAPS:
        return [(lax.slice_in_dim(x, *bounds, axis=axis + 1), True) for bounds in zip(firsts.tolist(), lasts.tolist())]
    return [_gathered(x, axis, m, blocks, firsts, lasts, int((lasts - firsts).max()))]


def _gathered(x: Array, axis: int, m: Any, blocks: int, firsts: Any, lasts: Any, size: Any) -> tuple[Array, Array]:
    """Gather `m` windows of `size` positions from blocks, `(*before, blocks, n / blocks, *after)`."""
    tap = lax.broadcasted_iota(jnp.int32, (firsts.shape[0], size), 1)
    position = jnp.asarray(firsts, jnp.int32)[:, None] + tap
    last = jnp.asarray(lasts - 1, jnp.int32)[:, None]
    windows = jnp.take(x, jnp.minimum(position, last), axis + 1, mode="clip")
    windows = windows.reshape(*x.shape[:axis], m, size, *x.shape[axis + 2 :])
    real = jnp.tile(position <= last, (blocks, 1))
    return windows, jnp.expand_dims(real, [a for a in range(windows.ndim) if a not in (axis, axis + 1)])


def _interleave(parts: Sequence[Array], axis: int) -> Array:
    """Interleave the reduced windows in order."""
    if len(parts) == 1:
        return parts[0]
    y = jnp.stack(parts, axis + 1)
    return y.reshape(*y.shape[:axis], y.shape[axis] * len(parts), *y.shape[axis + 2 :])


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _max(x: Array, axis: int) -> Array:
    return jnp.max(x, axis)


@_max.defjvp
def _max_jvp(axis: int, primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    (x,), (dx,) = primals, tangents
    return _max(x, axis), _select_argmax(x, dx, axis)


def _select_argmax(x: Array, payload: Array, axis: int) -> Array:
    """Select the payload of the last NaN along the axis or, without a NaN, of the first maximum."""
    return jnp.where(is_argmax(x, axis), payload, 0).sum(axis, dtype=payload.dtype)


def _argmax_positions(x: Array, out: tuple[int, ...]) -> Array:
    """Return the position of the maximum of each window, flat over the spatial axes of `x`."""
    spatial = spatial_shape(x, len(out))
    position = jnp.arange(math.prod(spatial), dtype=index_dtype(spatial))
    position = position.reshape((1,) * (x.ndim - 1 - len(out)) + (*spatial, 1))
    x, position = lax.stop_gradient(x), jnp.broadcast_to(position, x.shape)
    for axis, m in _axes_of(x, out):
        windows, positions = _windows(x, axis, m), _windows(position, axis, m)
        position = _interleave(
            [_select_argmax(window, payload, axis + 1) for (window, _), (payload, _) in zip(windows, positions)], axis
        )
        x = _interleave([jnp.max(window, axis + 1) for window, _ in windows], axis)
    return position


# --- the whole image ----------------------------------------------------------------------------------------------


def global_avg_pool(x: Array, *, keepdims: bool = False, valid: Array | None = None) -> Array:
    """Average over all spatial axes.

    Args:
        x: `(n, *spatial, c)` of any number dtype.
        keepdims: keep the spatial axes, of size 1.
        valid: for padded batches, booleans `(n, *spatial)`: only valid positions count; where there is none, the
            average is 0.

    Returns:
        `(n, c)` of the dtype of `x`, float32 for integers; sums are float32 for 16-bit and integer input.

    Raises:
        TypeError: `x` is no array.
        ValueError: fewer than 3 axes, or an empty spatial axis.

    Example:
        >>> global_avg_pool(jnp.arange(8.0).reshape(1, 2, 2, 2)).tolist()
        [[3.0, 4.0]]

    Equals Keras' `GlobalAveragePooling2D` and `torch.nn.AdaptiveAvgPool2d(1)`.
    """
    x, describe_axes = _read_global(x)
    valid = read_valid(valid, x)
    if valid is None:
        return jnp.mean(x, describe_axes, accumulation_dtype(x), keepdims=keepdims).astype(average_dtype(x))
    total = only_valid(x, valid).sum(describe_axes, accumulation_dtype(x), keepdims=keepdims)
    count = jnp.maximum(valid.sum(describe_axes, jnp.int32, keepdims=keepdims), 1)
    return (total / count.astype(total.dtype)).astype(average_dtype(x))


def global_max_pool(x: Array, *, keepdims: bool = False, valid: Array | None = None) -> Array:
    """Take the maximum over all spatial axes.

    Args:
        x: `(n, *spatial, c)` of a real dtype.
        keepdims: keep the spatial axes, of size 1.
        valid: for padded batches, booleans `(n, *spatial)`: invalid positions are never the maximum; without a valid
            position the result is -inf.

    Returns:
        `(n, c)` of the dtype of `x`; ties, NaN and the gradient as in `max_pool`.

    Raises:
        TypeError: `x` is no array or complex.
        ValueError: fewer than 3 axes, or an empty spatial axis.

    Example:
        >>> global_max_pool(jnp.arange(8.0).reshape(1, 2, 2, 2)).tolist()
        [[6.0, 7.0]]

    Equals Keras' `GlobalMaxPooling2D` and `torch.nn.AdaptiveMaxPool2d(1)`.
    """
    x, describe_axes = _read_global(x)
    check_ordered_dtype(x)
    x = only_valid(x, read_valid(valid, x), reduction_identity(x.dtype, "max"))
    y = _max(x.reshape(x.shape[0], math.prod(x.shape[1:-1]), x.shape[-1]), 1)
    return jnp.expand_dims(y, describe_axes) if keepdims else y


def _read_global(x: Any) -> tuple[Array, tuple[int, ...]]:
    x = as_array("x", x)
    if x.ndim < 3:
        raise argument_error("x", "have the axes (n, *spatial, c)", x.shape)
    if 0 in x.shape[1:]:
        raise argument_error("x", "have no empty spatial or channel axis", x.shape)
    return x, tuple(range(1, x.ndim - 1))


# --- pyramids -----------------------------------------------------------------------------------------------------


def spatial_pyramid_pool(x: Array, levels: Sequence[int] = (1, 2, 4), *, reduce: Reduce = "max") -> Array:
    """Concatenate adaptive pools of several sizes: the number of features does not depend on the size of the image.

    Args:
        x: `(n, *spatial, c)` of a real dtype, of any number dtype for averages.
        levels: for each level its number of parts along every spatial axis.
        reduce: "max" or "avg".

    Returns:
        `(n, bins * c)`: level by level, position by position, channels last; `bins` is the sum of `level ** n_spatial`.
        The dtype is that of the adaptive pool.

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: no level or one below 1, an unknown `reduce`, an empty axis.

    Example:
        >>> spatial_pyramid_pool(jnp.arange(4.0).reshape(1, 4, 1), (1, 2)).tolist()
        [[3.0, 1.0, 3.0]]

    It has no `valid`, as `adaptive_avg_pool` has none.
    Source: He et al., "Spatial pyramid pooling in deep convolutional networks for visual recognition", arXiv 1406.4729.
    """
    x = as_array("x", x)
    levels = to_list(levels)
    if not is_sequence(levels) or not all(map(is_int, levels)):
        raise argument_error("levels", "be a sequence of ints >= 1", levels, hint=tracing_hint(levels), kind=TypeError)
    if len(levels) == 0 or min(levels) < 1:
        raise argument_error("levels", "be a sequence of at least one int >= 1", levels)
    pools: dict[str, Any] = {"max": adaptive_max_pool, "avg": adaptive_avg_pool}
    if reduce not in pools:
        raise argument_error("reduce", "be 'max' or 'avg'", reduce)
    image_rank(x, "levels")
    bins = [math.prod([level] * (x.ndim - 2)) * x.shape[-1] for level in map(int, levels)]
    check_axis_sizes("levels", [sum(bins)], levels, f"{x.shape[-1]} channels")
    pooled = [pools[reduce](x, int(level)) for level in levels]
    return jnp.concatenate([y.reshape(x.shape[0], size) for y, size in zip(pooled, bins)], -1)
