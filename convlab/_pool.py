"""Pooling: shared steps that reduce the windows of `(*batch, *spatial, c)`, and the pools by maximum, sum and
average."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, overload

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from . import _backend
from ._argmax import argmax_by_axis
from ._patches import (
    as_array,
    check_image,
    check_number,
    has_many_taps,
    image_rank,
    index_dtype,
    pad_spatial,
    source,
)
from ._window import Window, argument_error, broadcast_to_rank, check_not_empty, integer, is_sequence, read_modes
from .typing import Ints, Padding

Array = jax.Array


# --- shared steps -------------------------------------------------------------------------------------------------


def read(
    x: Any, window_shape: Any, strides: Any, padding: Any, window_dilation: Any = 1, ceil_mode: bool = False
) -> tuple[Array, Window]:
    """Read the image and the window of a pool; strides of None are 1."""
    x = as_array("x", x)
    check_not_empty("window_shape", window_shape)
    rank = len(window_shape) if is_sequence(window_shape) else image_rank(x, "window_shape")
    size = broadcast_to_rank("window_shape", window_shape, rank)
    check_image(x, rank)
    strides = broadcast_to_rank("strides", 1 if strides is None else strides, rank)
    window = Window(
        size, strides, padding, broadcast_to_rank("window_dilation", window_dilation, rank), bool(ceil_mode)
    )
    spatial = spatial_of(x, rank)
    if x.shape[-1] == 0:
        raise argument_error("x", "have channels on its last axis", x.shape)
    window.checked_output_shape("window_shape", spatial)
    return x, window


def spatial_of(x: Array, rank: int) -> tuple[int, ...]:
    return x.shape[x.ndim - 1 - rank : -1]


def settled(x: Array, window: Window) -> tuple[Array, Window]:
    """Pad the image for "CIRCULAR" and "REFLECT", and crop ends that an overhang of `ceil_mode` must not read."""
    modes = set(read_modes("zeros", window.rank, window.padding))
    if modes <= {"zeros"}:
        return _cut(x, window)
    x = pad_spatial(x, window.declared(spatial_of(x, window.rank)), list(modes) * window.rank, shown=window.padding)
    return x, Window(window.size, window.strides, "VALID", window.dilation, window.ceil_mode)


def _cut(x: Array, window: Window) -> tuple[Array, Window]:
    """Crop the end by the negative pads if a window of `ceil_mode` could extend over it."""
    spatial = spatial_of(x, window.rank)
    pads = window.declared(spatial)
    cuts = [min(n, max(0, -hi)) for n, (_, hi) in zip(spatial, pads)]
    if not window.ceil_mode or not any(cuts):
        return x, window
    x = x[(..., *(slice(0, n - cut) for n, cut in zip(spatial, cuts)), slice(None))]
    padding = tuple((lo, hi + cut) for (lo, hi), cut in zip(pads, cuts))
    return x, Window(window.size, window.strides, padding, window.dilation, window.ceil_mode)


def on_all_axes(x: Array, window: Window) -> dict[str, tuple]:
    """Return the parameters of the window primitives, with an entry for every axis of `x`."""
    before = (1,) * (x.ndim - 1 - window.rank)
    pads = window.pads(spatial_of(x, window.rank))
    return dict(
        window_dimensions=(*before, *window.size, 1),
        window_strides=(*before, *window.strides, 1),
        padding=(*((0, 0) for _ in before), *pads, (0, 0)),
        base_dilation=(1,) * x.ndim,
        window_dilation=(*before, *window.dilation, 1),
    )


def reduce(reduction: Callable[[Array, dict], Array], x: Array, window: Window) -> Array:
    x, window = settled(x, window)
    return reduction(x, on_all_axes(x, window))


def window_max(x: Array, params: dict) -> Array:
    return _backend.window_max(x, params, "max")


def window_min(x: Array, params: dict) -> Array:
    return _backend.window_max(x, params, "min")


def accumulator(x: Array) -> Any:
    """Return the dtype for sums of averages: float32 for 16-bit and integer input."""
    return x.dtype if jnp.issubdtype(x.dtype, jnp.inexact) and x.dtype.itemsize >= 4 else jnp.dtype(jnp.float32)


def averaged(x: Array) -> Any:
    """Return the dtype of an average: that of the input, float32 for integers."""
    return x.dtype if jnp.issubdtype(x.dtype, jnp.inexact) else jnp.dtype(jnp.float32)


# --- maxima and minima --------------------------------------------------------------------------------------------


@overload
def max_pool(
    x: Array, window_shape: Ints, strides: Ints | None = ..., padding: Padding = ..., *,
    window_dilation: Ints = ..., ceil_mode: bool = ..., return_indices: Literal[False] = ...,
) -> Array: ...  # fmt: skip
@overload
def max_pool(
    x: Array, window_shape: Ints, strides: Ints | None = ..., padding: Padding = ..., *,
    window_dilation: Ints = ..., ceil_mode: bool = ..., return_indices: Literal[True],
) -> tuple[Array, Array]: ...  # fmt: skip
@overload
def max_pool(
    x: Array, window_shape: Ints, strides: Ints | None = ..., padding: Padding = ..., *,
    window_dilation: Ints = ..., ceil_mode: bool = ..., return_indices: bool,
) -> Array | tuple[Array, Array]: ...  # fmt: skip
def max_pool(
    x: Array,
    window_shape: Ints,
    strides: Ints | None = None,
    padding: Padding = "VALID",
    *,
    window_dilation: Ints = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Array | tuple[Array, Array]:
    """Take the maximum of each window. Strides default to 1, as in Flax.

    Args:
        x: `(*batch, *spatial, c)` of a real dtype.
        window_shape: taps along each spatial axis; an int means every axis of an `x` with one batch axis.
        strides: steps of the window, one or one per axis; None is 1.
        padding: as in `conv`; padded positions are never the maximum.
        window_dilation: distance between neighbouring taps.
        ceil_mode: let the last window extend beyond the end, as PyTorch does.
        return_indices: also return the positions of the maxima.

    Returns:
        `(*batch, *out, c)` of the dtype of `x`; with `return_indices` also indices of that shape, flat over the
        unpadded spatial axes: int32, or int64 for 2**31 positions or more if `jax_enable_x64` is set. Of equal maxima
        the first counts, a NaN wins (the last, as in PyTorch), and the gradient goes to the selected element. A window
        of padding only gives -inf (the dtype's least value) without a gradient, and the index -1, which `max_unpool`
        ignores.

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: numbers out of range, an empty result, more positions than indices can count.

    Example:
        >>> x = jnp.array([1.0, 3.0, 2.0, 0.0]).reshape(1, 4, 1)
        >>> max_pool(x, 2, strides=2).ravel().tolist()
        [3.0, 2.0]

    Equals `flax.nnx.max_pool` and `torch.nn.functional.max_pool2d` with their options.
    """
    return _extreme(x, window_shape, strides, padding, window_dilation, ceil_mode, return_indices, "max")


@overload
def min_pool(
    x: Array, window_shape: Ints, strides: Ints | None = ..., padding: Padding = ..., *,
    window_dilation: Ints = ..., ceil_mode: bool = ..., return_indices: Literal[False] = ...,
) -> Array: ...  # fmt: skip
@overload
def min_pool(
    x: Array, window_shape: Ints, strides: Ints | None = ..., padding: Padding = ..., *,
    window_dilation: Ints = ..., ceil_mode: bool = ..., return_indices: Literal[True],
) -> tuple[Array, Array]: ...  # fmt: skip
@overload
def min_pool(
    x: Array, window_shape: Ints, strides: Ints | None = ..., padding: Padding = ..., *,
    window_dilation: Ints = ..., ceil_mode: bool = ..., return_indices: bool,
) -> Array | tuple[Array, Array]: ...  # fmt: skip
def min_pool(
    x: Array,
    window_shape: Ints,
    strides: Ints | None = None,
    padding: Padding = "VALID",
    *,
    window_dilation: Ints = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Array | tuple[Array, Array]:
    """Take the minimum of each window. Strides default to 1, as in Flax.

    Args:
        x, window_shape, strides, padding, window_dilation, ceil_mode, return_indices: as in `max_pool`.

    Returns:
        As `max_pool`; a window of padding only gives +inf (the dtype's largest value).

    Raises:
        TypeError, ValueError: as `max_pool`.

    Example:
        >>> x = jnp.array([1.0, 3.0, 2.0, 0.0]).reshape(1, 4, 1)
        >>> min_pool(x, 2, strides=2).ravel().tolist()
        [1.0, 0.0]

    Equals `flax.nnx.min_pool`.
    """
    return _extreme(x, window_shape, strides, padding, window_dilation, ceil_mode, return_indices, "min")


def _extreme(x, window_shape, strides, padding, window_dilation, ceil_mode, return_indices, reducer):
    x, window = read(x, window_shape, strides, padding, window_dilation, ceil_mode)
    check_ordered(x)
    y = reduce(window_max if reducer == "max" else window_min, x, window)
    return (y, argmax(x, window, reducer)) if return_indices else y


def check_ordered(x: Array) -> None:
    if not jnp.issubdtype(x.dtype, jnp.floating) and not jnp.issubdtype(x.dtype, jnp.integer) and x.dtype != bool:
        raise argument_error("x", "have an ordered dtype", x.dtype.name, kind=TypeError)


def argmax(x: Array, window: Window, reducer: Any) -> Array:
    """Return the position of the extremum of each window, flat over the spatial axes of `x`; -1 for padding only."""
    spatial = spatial_of(x, window.rank)
    dtype, x = index_dtype(spatial), lax.stop_gradient(x)
    if has_many_taps(window):
        place = jnp.broadcast_to(jnp.arange(math.prod(spatial), dtype=dtype).reshape(*spatial, 1), x.shape)
        return argmax_by_axis(*settled(x, window), settled(place, window)[0], reducer)
    modes, borders = read_modes("zeros", window.rank, window.padding), window.declared(spatial)
    laid, window = settled(lax.stop_gradient(x), window)
    tap = _backend.window_argmax(laid, on_all_axes(laid, window), reducer)
    first, pads = x.ndim - 1 - window.rank, window.pads(spatial_of(laid, window.rank))
    index, real = jnp.zeros((), dtype), np.True_
    for axis, (n, stride, dilation, mode) in enumerate(zip(spatial, window.strides, window.dilation, modes)):
        digit = tap // math.prod(window.size[axis + 1 :]) % window.size[axis]
        place = lax.broadcasted_iota(jnp.int32, tap.shape, first + axis) * stride + digit * dilation - pads[axis][0]
        if mode != "zeros":
            place = jnp.asarray(source(n, borders[axis], mode), jnp.int32)[place]
        elif pads[axis] != (0, 0):
            real &= (place >= 0) & (place < n)
        index = index * n + place.astype(dtype)
    return index if real is np.True_ else jnp.where(real, index, -1)


# --- sums and averages --------------------------------------------------------------------------------------------


def sum_pool(
    x: Array,
    window_shape: Ints,
    strides: Ints | None = None,
    padding: Padding = "VALID",
    *,
    window_dilation: Ints = 1,
    ceil_mode: bool = False,
) -> Array:
    """Sum each window. Strides default to 1, as in Flax.

    Args:
        x: `(*batch, *spatial, c)` of any number dtype.
        window_shape, strides, padding, window_dilation, ceil_mode: as in `max_pool`; padding adds 0.

    Returns:
        `(*batch, *out, c)` of the dtype of `x`; 16-bit floats are summed in float32.

    Raises:
        TypeError, ValueError: as `max_pool`.

    Example:
        >>> sum_pool(jnp.arange(4.0).reshape(1, 4, 1), 2).ravel().tolist()
        [1.0, 3.0, 5.0]

    Equals `torch.nn.functional.avg_pool2d` with `divisor_override=1`.
    """
    x, window = read(x, window_shape, strides, padding, window_dilation, ceil_mode)
    check_number(x)
    return windows_sum(x, window).astype(x.dtype)


def windows_sum(x: Array, window: Window) -> Array:
    """Sum windows; 16-bit floats are summed in float32."""
    narrow = jnp.issubdtype(x.dtype, jnp.floating)
    return reduce(_backend.window_sum, x.astype(accumulator(x)) if narrow else x, window)


def avg_pool(
    x: Array,
    window_shape: Ints,
    strides: Ints | None = None,
    padding: Padding = "VALID",
    count_include_pad: bool = True,
    *,
    window_dilation: Ints = 1,
    ceil_mode: bool = False,
    divisor_override: int | None = None,
) -> Array:
    """Average each window. Strides default to 1, as in Flax.

    Args:
        x: `(*batch, *spatial, c)` of any number dtype.
        window_shape, strides, padding, window_dilation, ceil_mode: as in `max_pool`; padding adds 0.
        count_include_pad: divide by the number of taps inside the padded image; otherwise inside the image. The
            overhang of `ceil_mode` never counts.
        divisor_override: divide by this instead; any int but 0.

    Returns:
        `(*batch, *out, c)` of the dtype of `x`, float32 for integers. Sums are float32 for 16-bit and integer input. A
        window without a counted tap gives 0.

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: numbers out of range, an empty result, a divisor of 0.

    Example:
        >>> avg_pool(jnp.ones((1, 64, 64, 1), jnp.bfloat16), 64).ravel().tolist()
        [1.0]
        >>> avg_pool(jnp.full((1, 2, 2, 1), 200, jnp.uint8), 2).ravel().tolist()
        [200.0]

    Equals `flax.nnx.avg_pool` (which sums in the dtype of `x`) and `torch.nn.functional.avg_pool2d` with their options.
    """
    x, window = read(x, window_shape, strides, padding, window_dilation, ceil_mode)
    if divisor_override is not None and integer("divisor_override", divisor_override, None) == 0:
        raise argument_error("divisor_override", "be an int other than 0", divisor_override)
    total = reduce(_backend.window_sum, x.astype(accumulator(x)), window)
    divisor = divisor_override or counts(x, window, count_include_pad)
    return (total / jnp.asarray(divisor, total.dtype)).astype(averaged(x))


def counts(x: Array, window: Window, include_pad: bool) -> Any:
    """Return the number of counted taps of each window, at least 1: an int, or floats that broadcast with the
    result."""
    spatial, dtype = spatial_of(x, window.rank), accumulator(x)
    bordered = set(read_modes("zeros", window.rank, window.padding)) != {"zeros"}
    if not window.ceil_mode and (include_pad or bordered):
        return math.prod(window.size)
    count: Any = 1
    for axis, (n, (lo, hi), out, k, s, d) in enumerate(
        zip(spatial, window.declared(spatial), window.out(spatial), window.size, window.strides, window.dilation)
    ):
        first, last = (-lo, n + hi) if include_pad or bordered else (max(0, -lo), min(n, n + hi))
        start = np.arange(out) * s - lo
        along = np.minimum(k, -(-(last - start) // d)) - np.maximum(0, -(-(first - start) // d))
        count = count * along_axis(np.maximum(along, 1), x.ndim, axis - window.rank - 1, dtype)
    return count


def along_axis(values: Any, ndim: int, axis: int, dtype: Any) -> Array:
    """Return values along one axis of `ndim`, to be broadcast along the others."""
    return jnp.expand_dims(jnp.asarray(values, dtype), [a for a in range(ndim) if a != axis % ndim])
