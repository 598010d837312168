"""Convolution as linear algebra: patches (im2col), their adjoint (col2im), and the explicit matrix."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ._arguments import (
    argument_error,
    as_array,
    broadcast_to_rank,
    check_axis_sizes,
    check_not_empty,
    check_number_dtype,
    is_int,
    is_sequence,
    read_int,
    to_list,
    tracing_hint,
)
from ._conv_operands import read_dilation_and_modes, read_window
from ._dtypes import accumulation_dtype
from ._padding import check_pads, source_positions
from ._patches import stacked_patches
from ._pool_windows import read_pool, resolve_padding
from ._window import Window, dilate
from .typing import Ints, Padding, PaddingModes

Array = jax.Array


def unfold(
    x: Array, window_shape: Ints, strides: Ints = 1, padding: Padding = "VALID", *, window_dilation: Ints = 1
) -> Array:
    """Extract the patches of a sliding window (im2col).

    Args:
        x: `(*batch, *spatial, c)` of any dtype.
        window_shape, strides, padding, window_dilation: as in `max_pool`; padding is 0.

    Returns:
        `(*batch, *out, *window, c)` of the dtype of `x`. Slices extract the values, so that an inf stays in its own
        patches.

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: numbers out of range, an empty result.

    Example:
        >>> unfold(jnp.arange(4).reshape(1, 4, 1), 2)[0, :, :, 0].tolist()
        [[0, 1], [1, 2], [2, 3]]

    Equals `torch.nn.functional.unfold`, whose result is `(n, c * taps, positions)`, in any rank; its adjoint is `fold`.
    """
    return stacked_patches(*resolve_padding(*read_pool(x, window_shape, strides, padding, window_dilation)))


def fold(
    patches: Array, output_shape: Ints, strides: Ints = 1, padding: Padding = "VALID", *, window_dilation: Ints = 1
) -> Array:
    """Sum patches at the positions that `unfold` takes them from (col2im): the adjoint of `unfold`.

    Args:
        patches: `(*batch, *out, *window, c)` of any dtype; booleans are combined by "or".
        output_shape: the spatial sizes of the result; an int means every axis of `patches` with one batch axis.
        strides, padding, window_dilation: as in the `unfold` whose adjoint this is.

    Returns:
        `(*batch, *output_shape, c)` of the dtype of `patches`; 16-bit floats are summed in float32. Values in the
        padding are dropped; with "CIRCULAR" and "REFLECT" they are added to the positions that the padding repeats.

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: numbers out of range, patches of a shape that `unfold` does not return.

    Example:
        >>> fold(jnp.ones((1, 3, 2, 1)), 4).ravel().tolist()
        [1.0, 2.0, 2.0, 1.0]

    Equals `torch.nn.functional.fold`, which takes `(n, c * taps, positions)`, in any rank.
    """
    patches = as_array("patches", patches)
    check_not_empty("output_shape", output_shape)
    is_scalar = not is_sequence(output_shape)
    rank = len(output_shape) if is_sequence(output_shape) else (patches.ndim - 2) // 2
    shape = broadcast_to_rank("output_shape", output_shape, max(rank, 0))
    check_axis_sizes("output_shape", shape, output_shape)
    if patches.ndim != 2 * rank + 2 if is_scalar else patches.ndim < 2 * rank + 1:
        rule = f"have the axes ({'n' if is_scalar else '*batch'}, *out, *window, c)"
        raise argument_error("patches", rule, patches.shape, f"output_shape {output_shape!r}")
    first = patches.ndim - 1 - 2 * rank
    size = patches.shape[first + rank : -1]
    if 0 in patches.shape[first:]:
        raise argument_error("patches", "have no empty axis but batch axes", patches.shape)
    strides = broadcast_to_rank("strides", strides, rank)
    window = Window(size, strides, padding, broadcast_to_rank("window_dilation", window_dilation, rank))
    out = window.out(shape)
    if patches.shape[first : first + rank] != out:
        axes = ", ".join(map(str, ("*batch", *out, *size, "c")))
        raise argument_error("patches", f"have the axes ({axes})", patches.shape, f"output_shape {output_shape!r}")
    image = jax.ShapeDtypeStruct((*patches.shape[:first], *shape, patches.shape[-1]), _sum_dtype(patches))
    adjoint = jax.linear_transpose(lambda x: unfold(x, size, strides, padding, window_dilation=window.dilation), image)
    return adjoint(patches.astype(image.dtype))[0].astype(patches.dtype)


def _sum_dtype(x: Array) -> Any:
    """Return the dtype for sums: float32 for 16-bit floats."""
    if x.dtype == bool:
        return jnp.dtype(jnp.int32)
    return accumulation_dtype(x) if jnp.issubdtype(x.dtype, jnp.floating) else x.dtype


def conv_matrix(
    kernel: Array,
    input_shape: Sequence[int],
    *,
    strides: Ints = 1,
    padding: Padding = "SAME",
    padding_mode: PaddingModes = "zeros",
    input_dilation: Ints = 1,
    kernel_dilation: Ints = 1,
    feature_group_count: int = 1,
    flip_kernel: bool = False,
    sparse: bool = False,
) -> Any:
    """Return the (blocked Toeplitz) matrix of a convolution: `M @ x.ravel()` is `conv(x, kernel, ...).ravel()`.

    Args:
        kernel: `(*window, c_in / feature_group_count, c_out)` of any number dtype.
        input_shape: `(*spatial, c_in)`, the shape of one image.
        strides, padding, padding_mode, input_dilation, kernel_dilation, feature_group_count, flip_kernel: as in `conv`.
        sparse: return a `jax.experimental.sparse.BCOO` instead.

    Returns:
        `(prod(out) * c_out, prod(spatial) * c_in)` of the dtype of `kernel`, differentiable with respect to it. Where
        padding repeats a position, its entries are summed (the sparse matrix lists them separately).

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: shapes that do not fit, numbers out of range, an empty result.

    Example:
        >>> conv_matrix(jnp.array([1.0, 2.0]).reshape(2, 1, 1), (3, 1), padding="VALID").tolist()
        [[1.0, 2.0, 0.0], [0.0, 1.0, 2.0]]

    Source: Dumoulin and Visin, "A guide to convolution arithmetic for deep learning", arXiv 1603.07285, section 4.1.
    """
    kernel = as_array("kernel", kernel)
    check_number_dtype(kernel, "kernel")
    if kernel.ndim < 2:
        raise argument_error("kernel", "have at least 2 axes (*window, c_in / groups, c_out)", kernel.shape)
    window = read_window(kernel, strides, padding, kernel_dilation)
    rank, groups = window.rank, read_int("feature_group_count", feature_group_count)
    *size, in_channels, features = kernel.shape
    *spatial, channels = _read_shape(input_shape, kernel, in_channels * groups)
    if features % groups:
        raise argument_error("feature_group_count", "divide the output channels", groups, f"{features} output channels")
    input_dilations, modes = read_dilation_and_modes(window, padding, padding_mode, input_dilation)

    position = _positions(window, spatial, input_dilations, modes, padding).reshape(-1, math.prod(size))
    check_axis_sizes(
        "kernel", [position.shape[0] * features], kernel.shape, f"a matrix for images of shape {tuple(spatial)}"
    )
    out, tap = np.nonzero(position >= 0)
    feature, channel = np.arange(features), np.arange(in_channels)[:, None]
    row = out[:, None, None] * features + feature
    column = position[out, tap][:, None, None] * channels + feature // (features // groups) * in_channels + channel
    taps = jnp.flip(kernel, range(rank)) if flip_kernel else kernel
    row, column = np.broadcast_arrays(row, column)
    # keep the positions out of XLA's constant folding, which is slow for large images
    tap, row, column = lax.optimization_barrier(tuple(jnp.asarray(at, jnp.int32) for at in (tap, row, column)))
    entries = taps.reshape(-1, in_channels, features).at[tap].get(mode="promise_in_bounds")
    shape = (position.shape[0] * features, math.prod(spatial) * channels)
    if not sparse:
        return jnp.zeros(shape, kernel.dtype).at[row, column].add(entries, mode="promise_in_bounds")
    from jax.experimental.sparse import BCOO  # experimental in JAX, and so imported only on request

    indices = jnp.stack([row.ravel(), column.ravel()], -1)
    return BCOO((entries.ravel(), indices), shape=shape)


def _read_shape(input_shape: Any, kernel: Array, channels: int) -> tuple[int, ...]:
    rule = f"be {kernel.ndim - 1} ints >= 1, (*spatial, {channels})"
    fact = f"a kernel of shape {kernel.shape}"
    input_shape = to_list(input_shape)
    if not is_sequence(input_shape) or not all(map(is_int, input_shape)):
        raise argument_error("input_shape", rule, input_shape, fact, tracing_hint(input_shape), TypeError)
    check_axis_sizes("input_shape", [math.prod(input_shape)], input_shape)
    if len(input_shape) != kernel.ndim - 1 or min(input_shape) < 1 or input_shape[-1] != channels:
        raise argument_error("input_shape", rule, input_shape, fact)
    return tuple(map(int, input_shape))


def _positions(window: Window, spatial, input_dilations, modes, padding) -> np.ndarray:
    """Return the flat position in the image that each tap of each window reads, `(*out, *size)`; -1 for a zero."""
    dilated, rank = dilate(spatial, input_dilations), window.rank
    out = window.checked_output_shape("kernel", dilated)
    flat = np.zeros((1,) * 2 * rank, int)
    for axis, (n, dilation, pair, mode) in enumerate(zip(dilated, input_dilations, window.pads(dilated), modes)):
        check_pads(n, pair, mode, padding)
        positions = (
            np.arange(-pair[0], n + pair[1]) if mode in ("zeros", "constant") else source_positions(n, pair, mode)
        )
        positions = np.where(
            (positions >= 0) & (positions < n) & (positions % dilation == 0), positions // dilation, -1
        )
        start, tap = np.arange(out[axis]) * window.strides[axis], np.arange(window.size[axis]) * window.dilation[axis]
        others = [a for a in range(2 * rank) if a not in (axis, rank + axis)]
        along = np.expand_dims(positions[start[:, None] + tap], others)
        flat = np.where((flat < 0) | (along < 0), -1, flat * spatial[axis] + along)
    return np.broadcast_to(flat, (*out, *window.size))
