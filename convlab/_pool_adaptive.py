"""Pools whose windows follow from the size of the input: adaptive, global, pyramids, and fractional."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any, Literal, overload

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ._patches import as_array, check_image, image_rank
from ._pool import accumulator, averaged, check_ordered, max_pool, read, spatial_of
from ._window import Window, argument_error, axes, broadcast_to_rank, is_int, is_sequence, listed, traced

Array = jax.Array


# --- adaptive -----------------------------------------------------------------------------------------------------


def adaptive_avg_pool(x: Array, output_shape: Any) -> Array:
    """The average of windows that cut the image into `output_shape` nearly equal parts.

    Along an axis of size n, window i of m reaches from `floor(i * n / m)` to `ceil((i + 1) * n / m)`: windows overlap
    where m does not divide n, and repeat where m is larger.

    Args:
        x: `(*batch, *spatial, c)` of any number dtype.
        output_shape: the sizes of the result, one int >= 1 or None per axis, where None keeps an axis; an int means
            every axis of an `x` with one batch axis.

    Returns:
        `(*batch, *output_shape, c)` of the dtype of `x`, float32 for integers; sums are float32 for 16-bit and integer
        input.

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: sizes out of range or of the wrong number, an empty axis.

    Example:
        >>> adaptive_avg_pool(jnp.arange(7.0).reshape(1, 7, 1), 3).ravel().tolist()
        [1.0, 3.0, 5.0]

    Equals `torch.nn.functional.adaptive_avg_pool2d` and Keras' `AdaptiveAveragePooling2D`, in any rank.
    """
    x, out = _read(x, output_shape)
    count = np.ones((), int)
    for n, m in zip(spatial_of(x, len(out)), out):
        count = np.multiply.outer(count, [last - first for first, last in _bounds(n, m)])
    total = x.astype(accumulator(x))
    for axis, m in _axes_of(x, out):
        total = _joined([window.sum(axis + 1) for window in _windows(total, axis, m)], axis)
    return (total / jnp.asarray(count[..., None], total.dtype)).astype(averaged(x))


@overload
def adaptive_max_pool(x: Array, output_shape: Any, *, return_indices: Literal[False] = ...) -> Array: ...
@overload
def adaptive_max_pool(x: Array, output_shape: Any, *, return_indices: Literal[True]) -> tuple[Array, Array]: ...
def adaptive_max_pool(x: Array, output_shape: Any, *, return_indices: bool = False) -> Array | tuple[Array, Array]:
    """The largest value of windows that cut the image into `output_shape` nearly equal parts.

    Args:
        x: `(*batch, *spatial, c)` of a real dtype.
        output_shape: as in `adaptive_avg_pool`, and so are the windows.
        return_indices: also return where each winner stands.

    Returns:
        `(*batch, *output_shape, c)` of the dtype of `x`; with `return_indices` also int32 indices of that shape, flat
        over the spatial axes. Ties, NaN and the gradient as in `max_pool`.

    Raises:
        TypeError, ValueError: as `adaptive_avg_pool`; TypeError for complex numbers.

    Example:
        >>> y, at = adaptive_max_pool(jnp.array([3.0, 1.0, 2.0, 5.0]).reshape(1, 4, 1), 3, return_indices=True)
        >>> y.ravel().tolist(), at.ravel().tolist()
        ([3.0, 2.0, 5.0], [0, 2, 3])

    Equals `torch.nn.functional.adaptive_max_pool2d` and Keras' `AdaptiveMaxPooling2D`, in any rank.
    """
    x, out = _read(x, output_shape)
    check_ordered(x)
    y = x
    for axis, m in _axes_of(x, out):
        y = _joined([_largest(window, axis + 1) for window in _windows(y, axis, m)], axis)
    return (y, _places_of_winners(x, out)) if return_indices else y


def _read(x: Any, output_shape: Any) -> tuple[Array, tuple[int, ...]]:
    """The image and the sizes of the result."""
    x = as_array("x", x)
    rank = len(output_shape) if is_sequence(output_shape) else image_rank(x, "output_shape")
    sizes = listed((output_shape,) * rank if is_int(output_shape) else output_shape)
    rule = "be an int >= 1, or one int >= 1 or None per axis"
    if not is_sequence(sizes) or not all(m is None or is_int(m) for m in sizes):
        raise argument_error("output_shape", rule, output_shape, axes(rank), traced(output_shape), TypeError)
    if any(m is not None and m < 1 for m in sizes):
        raise argument_error("output_shape", rule, output_shape, axes(rank))
    check_image(x, rank)
    spatial = spatial_of(x, rank)
    if 0 in (*spatial, x.shape[-1]):
        raise argument_error("x", "have no empty spatial or channel axis", x.shape)
    return x, tuple(n if m is None else int(m) for n, m in zip(spatial, sizes))


def _bounds(n: int, m: int) -> list[tuple[int, int]]:
    return [(i * n // m, -(-(i + 1) * n // m)) for i in range(m)]


def _axes_of(x: Array, out: tuple[int, ...]) -> list[tuple[int, int]]:
    """The spatial axes and their new sizes, last first: then the first of equals is the first of the whole window."""
    return list(enumerate(out, x.ndim - 1 - len(out)))[::-1]


def _windows(x: Array, axis: int, m: int) -> list[Array]:
    """The `m` windows along an axis, their taps on the axis after it; those m / gcd apart are cut together."""
    n = x.shape[axis]
    blocks = math.gcd(n, m)
    x = x.reshape(*x.shape[:axis], blocks, n // blocks, *x.shape[axis + 1 :])
    return [lax.slice_in_dim(x, *bounds, axis=axis + 1) for bounds in _bounds(n // blocks, m // blocks)]


def _joined(parts: Sequence[Array], axis: int) -> Array:
    """The reduced windows in their order."""
    y = jnp.stack(parts, axis + 1)
    return y.reshape(*y.shape[:axis], y.shape[axis] * len(parts), *y.shape[axis + 2 :])


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _largest(x: Array, axis: int) -> Array:
    return jnp.max(x, axis)


@_largest.defjvp
def _largest_jvp(axis: int, primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    (x,), (dx,) = primals, tangents
    return _largest(x, axis), _of_winner(x, dx, axis)


def _of_winner(x: Array, payload: Array, axis: int) -> Array:
    """The payload of the last NaN along the axis, or of the first of the largest."""
    place = lax.broadcasted_iota(jnp.int32, x.shape, axis)
    first = jnp.where(x == jnp.max(x, axis, keepdims=True), place, x.shape[axis]).min(axis, keepdims=True)
    nan = jnp.where(x != x, place, -1).max(axis, keepdims=True)
    return jnp.where(place == jnp.where(nan < 0, first, nan), payload, 0).sum(axis, dtype=payload.dtype)


def _places_of_winners(x: Array, out: tuple[int, ...]) -> Array:
    """Where the winner of each window stands: int32, flat over the spatial axes of `x`."""
    spatial = spatial_of(x, len(out))
    place = jnp.arange(math.prod(spatial), dtype=jnp.int32).reshape(*spatial, 1)
    x, place = lax.stop_gradient(x), jnp.broadcast_to(place, x.shape)
    for axis, m in _axes_of(x, out):
        seen, places = _windows(x, axis, m), _windows(place, axis, m)
        place = _joined([_of_winner(window, payload, axis + 1) for window, payload in zip(seen, places)], axis)
        x = _joined([jnp.max(window, axis + 1) for window in seen], axis)
    return place


# --- the whole image ----------------------------------------------------------------------------------------------


def global_avg_pool(x: Array, *, keepdims: bool = False) -> Array:
    """The average over all spatial axes.

    Args:
        x: `(n, *spatial, c)` of any number dtype.
        keepdims: keep the spatial axes, of size 1.

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
    x, axes = _whole(x)
    return jnp.mean(x, axes, accumulator(x), keepdims=keepdims).astype(averaged(x))


def global_max_pool(x: Array, *, keepdims: bool = False) -> Array:
    """The largest value over all spatial axes.

    Args:
        x: `(n, *spatial, c)` of a real dtype.
        keepdims: keep the spatial axes, of size 1.

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
    x, axes = _whole(x)
    check_ordered(x)
    y = _largest(x.reshape(x.shape[0], math.prod(x.shape[1:-1]), x.shape[-1]), 1)
    return jnp.expand_dims(y, axes) if keepdims else y


def _whole(x: Any) -> tuple[Array, tuple[int, ...]]:
    x = as_array("x", x)
    if x.ndim < 3:
        raise argument_error("x", "have the axes (n, *spatial, c)", x.shape)
    if 0 in x.shape[1:]:
        raise argument_error("x", "have no empty spatial or channel axis", x.shape)
    return x, tuple(range(1, x.ndim - 1))


# --- pyramids -----------------------------------------------------------------------------------------------------


def spatial_pyramid_pool(x: Array, levels: Sequence[int] = (1, 2, 4), *, reduce: str = "max") -> Array:
    """Adaptive pools of several sizes, flattened and concatenated: as many features for an image of any size.

    Args:
        x: `(n, *spatial, c)` of a real dtype, of any number dtype for averages.
        levels: for each level its number of parts along every spatial axis.
        reduce: "max" or "avg".

    Returns:
        `(n, bins * c)`: level by level, place by place, channels last; `bins` is the sum of `level ** n_spatial`. The
        dtype is that of the adaptive pool.

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: no level or one below 1, an unknown `reduce`, an empty axis.

    Example:
        >>> spatial_pyramid_pool(jnp.arange(4.0).reshape(1, 4, 1), (1, 2)).tolist()
        [[3.0, 1.0, 3.0]]

    Source: He et al., "Spatial pyramid pooling in deep convolutional networks for visual recognition", arXiv 1406.4729.
    """
    x = as_array("x", x)
    levels = listed(levels)
    if not is_sequence(levels) or not all(map(is_int, levels)):
        raise argument_error("levels", "be a sequence of ints >= 1", levels, hint=traced(levels), kind=TypeError)
    if len(levels) == 0 or min(levels) < 1:
        raise argument_error("levels", "be a sequence of at least one int >= 1", levels)
    pools: dict[str, Any] = {"max": adaptive_max_pool, "avg": adaptive_avg_pool}
    if reduce not in pools:
        raise argument_error("reduce", "be 'max' or 'avg'", reduce)
    image_rank(x, "levels")
    return jnp.concatenate([pools[reduce](x, level).reshape(x.shape[0], -1) for level in levels], -1)


# --- fractional ---------------------------------------------------------------------------------------------------


@overload
def fractional_max_pool(
    x: Array, window_shape: Any, *, output_shape: Any = ..., output_ratio: Any = ..., key: Any = ...,
    samples: Array | None = ..., return_indices: Literal[False] = ...,
) -> Array: ...  # fmt: skip
@overload
def fractional_max_pool(
    x: Array, window_shape: Any, *, output_shape: Any = ..., output_ratio: Any = ..., key: Any = ...,
    samples: Array | None = ..., return_indices: Literal[True],
) -> tuple[Array, Array]: ...  # fmt: skip
def fractional_max_pool(
    x: Array,
    window_shape: Any,
    *,
    output_shape: Any = None,
    output_ratio: Any = None,
    key: Any = None,
    samples: Array | None = None,
    return_indices: bool = False,
) -> Array | tuple[Array, Array]:
    """The largest value of windows at pseudo-random, nearly equal distances, so that an image shrinks by any factor.

    Args:
        x: `(*batch, *spatial, c)` of a real dtype.
        window_shape: taps along each spatial axis; an int means every axis of an `x` with one batch axis.
        output_shape: the sizes of the result, an int or one per axis; at most `n - window + 1`.
        output_ratio: instead, the sizes as parts of the input's, a number between 0 and 1 or one per axis.
        key: a JAX random key, to draw the samples with.
        samples: instead, `(*batch, c, n_spatial)` numbers in [0, 1): where in its first step the sequence of each
            channel and axis begins. Their order is that of the axes; PyTorch's is reversed in two dimensions.
        return_indices: also return where each winner stands.

    Returns:
        `(*batch, *output_shape, c)` of the dtype of `x`; with `return_indices` also int32 indices of that shape, flat
        over the spatial axes. Ties, NaN and the gradient as in `max_pool`.

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: windows that do not fit, both or neither of `output_shape` and `output_ratio`, or of `key` and
            `samples`.

    Example:
        >>> x = jnp.array([1.0, 4.0, 2.0, 3.0, 0.0]).reshape(1, 5, 1)
        >>> fractional_max_pool(x, 2, output_shape=3, samples=jnp.full((1, 1, 1), 0.4)).ravel().tolist()
        [4.0, 3.0, 3.0]

    Equals `torch.nn.functional.fractional_max_pool2d` with the same samples; those of 16 bits are taken to float32, where
    PyTorch rounds every step of its sequence to 16 bits.
    Source: Graham, "Fractional max-pooling", arXiv 1412.6071.
    """
    x, window = read(x, window_shape, 1, "VALID")
    check_ordered(x)
    spatial, rank = spatial_of(x, window.rank), window.rank
    out = _fractional_shape(output_shape, output_ratio, spatial, window)
    batch, channels = x.shape[: x.ndim - 1 - rank], x.shape[-1]
    samples = _samples(key, samples, (*batch, channels, rank))
    y = x.reshape(-1, *spatial, channels)
    places = []
    for axis, (n, k, m) in enumerate(zip(spatial, window.size, out)):
        starts = _starts(samples[..., axis].reshape(-1, channels), n, k, m)
        place = (starts[:, :, None] + jnp.arange(k, dtype=jnp.int32)[:, None]).reshape(-1, m * k, channels)
        y = jnp.take_along_axis(y, jnp.expand_dims(place, [a + 1 for a in range(rank) if a != axis]), axis + 1)
        places.append(place)
    y = y.reshape(*batch, *y.shape[1:])
    if not return_indices:
        return max_pool(y, window.size, window.size)
    cut = y.shape[len(batch) : -1]
    y, at = max_pool(y, window.size, window.size, return_indices=True)
    flat, index = at.reshape(-1, math.prod(out), channels), jnp.zeros((), jnp.int32)
    for axis, (n, place) in enumerate(zip(spatial, places)):
        along = flat // math.prod(cut[axis + 1 :]) % cut[axis]
        index = index * n + jnp.take_along_axis(place, along, 1)
    return y, index.reshape(at.shape)


def _fractional_shape(output_shape: Any, output_ratio: Any, spatial, window: Window) -> tuple[int, ...]:
    if (output_shape is None) == (output_ratio is None):
        rule = "be given" if output_shape is None else "be None"
        raise argument_error("output_shape", rule, output_shape, f"output_ratio {output_ratio!r}", "Give one of the two.")
    if output_ratio is not None:
        ratios = output_ratio if is_sequence(output_ratio) else (output_ratio,) * window.rank
        rule = "be a number between 0 and 1, or one per axis"
        if not all(isinstance(r, (int, float, np.number)) for r in ratios):
            raise argument_error("output_ratio", rule, output_ratio, axes(window.rank), kind=TypeError)
        if len(ratios) != window.rank or not all(0 < r < 1 for r in ratios):
            raise argument_error("output_ratio", rule, output_ratio, axes(window.rank))
        output_shape = tuple(int(n * r) for n, r in zip(spatial, ratios))
    out, most = broadcast_to_rank("output_shape", output_shape, window.rank), window.out(spatial)
    if any(m > limit for m, limit in zip(out, most)):
        rule = f"be at most {most}"
        raise argument_error("output_shape", rule, output_shape, f"spatial shape {spatial} and window_shape {window.size}")
    return out


def _samples(key: Any, samples: Any, shape: tuple[int, ...]) -> Array:
    if (key is None) == (samples is None):
        rule = "be given" if samples is None else "be None"
        raise argument_error("samples", rule, samples, f"key {key!r}", "Give one of the two.")
    if samples is None:
        return jax.random.uniform(key, shape)
    samples = as_array("samples", samples)
    if not jnp.issubdtype(samples.dtype, jnp.floating):
        raise argument_error("samples", "be floating-point numbers", samples.dtype.name, kind=TypeError)
    if samples.shape != shape:
        raise argument_error("samples", f"have shape {shape}, (*batch, c, n_spatial)", samples.shape)
    return samples.astype(jnp.promote_types(samples.dtype, jnp.float32))


def _starts(samples: Array, n: int, k: int, m: int) -> Array:
    """`(batch, m, c)`: where the `m` windows of `k` begin on an axis of size `n`; the last one ends with it."""
    step = jnp.asarray((n - k) / max(m - 1, 1), samples.dtype)
    u = samples[:, None]
    at = ((jnp.arange(m - 1, dtype=samples.dtype)[:, None] + u) * step).astype(jnp.int32) - (u * step).astype(jnp.int32)
    return jnp.concatenate([at, jnp.full((*samples.shape[:1], 1, samples.shape[-1]), n - k, jnp.int32)], 1)
