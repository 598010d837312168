"""Steps that all pools share: their arguments, padding, XLA's window reductions, the argmax and counts of taps."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from . import _backend
from ._argmax import argmax_by_axis
from ._arguments import (
    argument_error,
    as_array,
    broadcast_to_rank,
    check_image,
    check_not_empty,
    image_rank,
    index_dtype,
    is_int,
    is_sequence,
    read_modes,
    spatial_shape,
)
from ._dtypes import accumulation_dtype
from ._masks import only_valid, read_valid
from ._padding import check_zero_padding, pad_spatial, source_positions
from ._patches import has_many_taps
from ._window import Window, at_least_zero, smaller

Array = jax.Array


def read_pool(
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
    spatial = spatial_shape(x, rank)
    if x.shape[-1] == 0:
        raise argument_error("x", "have channels on its last axis", x.shape)
    window.checked_output_shape("window_shape", spatial)
    return x, window


def read_valid_mask(valid: Any, x: Array, window: Window, padding: Any) -> Array | None:
    """Read `valid` as a mask of the positions of `x`, with an axis for its channels."""
    if valid is not None:
        check_zero_padding(
            window, read_modes("zeros", window.rank, window.padding), padding, "zeros", "valid positions"
        )
    return read_valid(valid, x)


def resolve_padding(x: Array, window: Window) -> tuple[Array, Window]:
    """Pad the image for "CIRCULAR" and "REFLECT", and crop ends that the overhang of `ceil_mode` must not read; return
    the image and the window that is left to apply."""
    modes = set(read_modes("zeros", window.rank, window.padding))
    if modes <= {"zeros"}:
        return _crop_overhang(x, window)
    x = pad_spatial(x, window.declared(spatial_shape(x, window.rank)), list(modes) * window.rank, shown=window.padding)
    return x, Window(window.size, window.strides, "VALID", window.dilation, window.ceil_mode)


def _crop_overhang(x: Array, window: Window) -> tuple[Array, Window]:
    """Crop the end by the negative pads if a window of `ceil_mode` could extend over it."""
    spatial = spatial_shape(x, window.rank)
    pads = window.declared(spatial)
    cuts = [smaller(n, at_least_zero(-hi)) for n, (_, hi) in zip(spatial, pads)]
    if not window.ceil_mode or not any(cuts):
        return x, window
    x = x[(..., *(slice(0, n - cut) for n, cut in zip(spatial, cuts)), slice(None))]
    padding = tuple((lo, hi + cut) for (lo, hi), cut in zip(pads, cuts))
    return x, Window(window.size, window.strides, padding, window.dilation, window.ceil_mode)


def window_params(x: Array, window: Window) -> dict[str, tuple]:
    """Return the parameters of the window primitives, with an entry for every axis of `x`."""
    before = (1,) * (x.ndim - 1 - window.rank)
    pads = window.pads(spatial_shape(x, window.rank))
    return dict(
        window_dimensions=(*before, *window.size, 1),
        window_strides=(*before, *window.strides, 1),
        padding=(*((0, 0) for _ in before), *pads, (0, 0)),
        base_dilation=(1,) * x.ndim,
        window_dilation=(*before, *window.dilation, 1),
    )


def reduce_windows(reduction: Callable[[Array, dict], Array], x: Array, window: Window) -> Array:
    x, window = resolve_padding(x, window)
    return reduction(x, window_params(x, window))


def window_max(x: Array, params: dict) -> Array:
    return _backend.window_max(x, params, "max")


def window_min(x: Array, params: dict) -> Array:
    return _backend.window_max(x, params, "min")


# --- argmax -------------------------------------------------------------------------------------------------------


def argmax(x: Array, window: Window, reducer: Any, valid: Array | None = None) -> Array:
    """Return the position of the extremum of each window, flat over the spatial axes of `x`; -1 for padding only."""
    spatial = spatial_shape(x, window.rank)
    dtype, x = index_dtype(spatial), lax.stop_gradient(x)
    if has_many_taps(window) or valid is not None or not all(map(is_int, spatial)):
        position = jnp.broadcast_to(jnp.arange(math.prod(spatial), dtype=dtype).reshape(*spatial, 1), x.shape)
        position = only_valid(position, valid, -1)
        return argmax_by_axis(*resolve_padding(x, window), resolve_padding(position, window)[0], reducer)
    modes, borders = read_modes("zeros", window.rank, window.padding), window.declared(spatial)
    padded, window = resolve_padding(lax.stop_gradient(x), window)
    tap = _backend.window_argmax(padded, window_params(padded, window), reducer)
    first, pads = x.ndim - 1 - window.rank, window.pads(spatial_shape(padded, window.rank))
    index, real = jnp.zeros((), dtype), np.True_
    for axis, (n, stride, dilation, mode) in enumerate(zip(spatial, window.strides, window.dilation, modes)):
        digit = tap // math.prod(window.size[axis + 1 :]) % window.size[axis]
        position = lax.broadcasted_iota(jnp.int32, tap.shape, first + axis) * stride + digit * dilation - pads[axis][0]
        if mode != "zeros":
            position = jnp.asarray(source_positions(n, borders[axis], mode), jnp.int32)[position]
        elif pads[axis] != (0, 0):
            real &= (position >= 0) & (position < n)
        index = index * n + position.astype(dtype)
    return index if real is np.True_ else jnp.where(real, index, -1)


# --- sums and counts ----------------------------------------------------------------------------------------------


def sum_windows(x: Array, window: Window) -> Array:
    """Sum windows; 16-bit floats are summed in float32."""
    narrow = jnp.issubdtype(x.dtype, jnp.floating)
    return reduce_windows(_backend.window_sum, x.astype(accumulation_dtype(x)) if narrow else x, window)


def count_taps(x: Array, window: Window, include_pad: bool, valid: Array | None = None) -> Any:
    """Return the number of counted taps of each window, at least 1: an int, or floats that broadcast with the
    result."""
    spatial, dtype = spatial_shape(x, window.rank), accumulation_dtype(x)
    if valid is not None:
        return jnp.maximum(reduce_windows(_backend.window_sum, valid.astype(jnp.finfo(dtype).dtype), window), 1)
    pads_with_values = set(read_modes("zeros", window.rank, window.padding)) != {"zeros"}
    if not window.ceil_mode and (include_pad or pads_with_values):
        return math.prod(window.size)
    numbers = np if all(map(is_int, spatial)) else jnp  # symbolic sizes of `jax.export` have no value yet
    count: Any = 1
    for axis, (n, (lo, hi), out, k, s, d) in enumerate(
        zip(spatial, window.declared(spatial), window.out(spatial), window.size, window.strides, window.dilation)
    ):
        first, last = (-lo, n + hi) if include_pad or pads_with_values else (at_least_zero(-lo), smaller(n, n + hi))
        start = numbers.arange(out) * s - lo
        along = numbers.minimum(k, -(-(last - start) // d)) - numbers.maximum(0, -(-(first - start) // d))
        count = count * along_axis(numbers.maximum(along, 1), x.ndim, axis - window.rank - 1, dtype)
    return count


def along_axis(values: Any, ndim: int, axis: int, dtype: Any) -> Array:
    """Return values along one axis of `ndim`, to be broadcast along the others."""
    return jnp.expand_dims(jnp.asarray(values, dtype), [a for a in range(ndim) if a != axis % ndim])
