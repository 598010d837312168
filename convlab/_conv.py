"""Convolution and transposed convolution of images `(*batch, *spatial, c)` of any rank."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from . import _backend
from ._arguments import (
    argument_error,
    as_array,
    check_castable,
    check_scalar,
    describe_axes,
    is_int,
    read_int,
    read_modes,
)
from ._conv_operands import (
    add_bias,
    check_channels,
    promote_operands,
    read_dilation_and_modes,
    read_window,
    widen_mixed_bytes,
)
from ._masks import check_packed_options, only_valid, packed_conv, packed_window, read_segments, read_valid
from ._padding import check_zero_padding, pad_axis, pad_spatial
from ._window import dilate, read_output_shape, transposed_geometry
from .typing import Ints, Method, Padding, PaddingModes

Array = jax.Array


def conv(
    x: Array,
    kernel: Array,
    bias: Array | None = None,
    *,
    strides: Ints = 1,
    padding: Padding = "SAME",
    padding_mode: PaddingModes = "zeros",
    padding_value: Any = 0,
    input_dilation: Ints = 1,
    kernel_dilation: Ints = 1,
    feature_group_count: int = 1,
    flip_kernel: bool = False,
    mask: Array | None = None,
    segment_ids: Array | None = None,
    valid: Array | None = None,
    precision: Any = None,
    preferred_element_type: Any = None,
    out_sharding: Any = None,
    method: Method = "auto",
) -> Array:
    """Compute a convolution (cross-correlation, as in every deep-learning library) over any number of spatial axes.

    Args:
        x: `(*batch, *spatial, c_in)`, any number of batch axes, none included.
        kernel: `(*window, c_in / feature_group_count, c_out)`; its rank fixes the number of spatial axes.
        bias: `(c_out,)`, added at every position.
        strides: steps of the window, one or one per axis.
        padding: "VALID", "SAME", "SAME_LOWER", "CAUSAL", "FULL", "CIRCULAR", "REFLECT", an int, or one int or
            (before, after) pair per axis; negative numbers crop.
        padding_mode: "zeros", "constant", "reflect", "replicate", "circular", or one per axis: the padding values.
        padding_value: the number that "constant" pads with.
        input_dilation: 1 + the zeros put between neighbours of `x` before it is padded.
        kernel_dilation: distance between neighbouring taps.
        feature_group_count: number of groups; the output channels of a group read only its input channels, so that
            `c_in` groups make a depthwise convolution.
        flip_kernel: mirror the kernel, which gives the convolution of mathematics.
        mask: an array of the kernel's shape that multiplies it.
        segment_ids: for packed sequences, integers `(*batch, length)`: output `i` belongs to the segment at input
            position `i * strides` (the last tap of a causal window, the middle of a "SAME" one), and its taps read
            zeros in other segments. The kernel's gradient is a sum over all segments, so an inf or NaN in one of them
            reaches it even if the loss does not depend on that segment: 0 * NaN is NaN.
        valid: for padded batches, booleans `(*batch, *spatial)`: the convolution reads zeros where they are False.
            "SAME" with strides pads by the size of the batch; give numbers for what each sequence alone would have.
        precision: as in `jax.lax`; "highest" sums directly, so that an inf or NaN stays in the windows that read it.
        preferred_element_type: dtype of the result, no narrower than the operands'.
        out_sharding: sharding of the result in JAX's explicit mode.
        method: the formulation: "auto", "lax", "onednn", "taps", "batch_vectorized", "gemm",
            "block_diagonal", "im2col", "toeplitz", "winograd", "fft", "swapped_operands", "output_blocking" or
            "subpixel".

    Returns:
        `(*batch, *out, c_out)` of the promoted dtype of `x` and `kernel`, or of `preferred_element_type`; uint8 with
        int8 gives int32. Sums of bytes in int32 are exact.

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: shapes that do not fit, numbers out of range, an empty result, an unsupported method.

    Example:
        >>> x = jnp.arange(1.0, 7.0).reshape(1, 6, 1)
        >>> conv(x, jnp.full((3, 1, 1), 2.0), padding="VALID").ravel().tolist()
        [12.0, 18.0, 24.0, 30.0]

    Equals `lax.conv_general_dilated` in layout NHWC / HWIO / NHWC, and `torch.nn.functional.conv2d` in PyTorch's.
    """
    x, kernel, preferred_element_type, are_bytes = widen_mixed_bytes(x, kernel, preferred_element_type)
    x, kernel = promote_operands(x, kernel)
    window = read_window(kernel, strides, padding, kernel_dilation)
    rank, groups = window.rank, read_int("feature_group_count", feature_group_count)
    input_dilations, modes = read_dilation_and_modes(window, padding, padding_mode, input_dilation)
    check_scalar("padding_value", padding_value, x)
    if "constant" not in modes and isinstance(padding_value, (int, float, complex)) and padding_value != 0:
        raise argument_error(
            "padding_value", "be 0", padding_value, f"padding_mode {padding_mode!r}", 'Pass padding_mode="constant".'
        )
    check_channels(x, kernel, kernel.shape[-2] * groups, kernel.shape[-1], groups)
    if mask is not None:
        mask = as_array("mask", mask)
        if mask.shape != kernel.shape:
            raise argument_error("mask", f"have the kernel's shape {kernel.shape}", mask.shape)
        check_castable("mask", mask, kernel.dtype, "a kernel")
        kernel = kernel * mask.astype(kernel.dtype)
    if flip_kernel:
        kernel = jnp.flip(kernel, range(rank))
    if valid is not None:
        check_zero_padding(window, modes, padding, padding_mode, "valid positions")
        x = only_valid(x, read_valid(valid, x))

    batch, spatial = x.shape[: x.ndim - rank - 1], x.shape[x.ndim - rank - 1 : -1]
    dilated = dilate(spatial, input_dilations)
    window.checked_output_shape("kernel", dilated)
    pads = window.pads(dilated)
    if segment_ids is not None:
        ids = read_segments(segment_ids, x, rank)
        others = {"input_dilation": (input_dilation, max(input_dilations), 1), "method": (method, method, "auto")}
        others["out_sharding"] = (out_sharding, out_sharding, None)
        check_packed_options(window, modes, padding, padding_mode, others)
        return packed_conv(x, kernel, bias, ids, packed_window(window, spatial[0], padding), groups=groups,
            precision=precision,
                           preferred_element_type=preferred_element_type)  # fmt: skip
    mode_pads = [(0, 0) if mode == "zeros" else pair for pair, mode in zip(pads, modes)]
    zero_pads = [pair if mode == "zeros" else (0, 0) for pair, mode in zip(pads, modes)]
    x = pad_spatial(x, mode_pads, modes, padding_value, padding)
    options = dict(
        strides=window.strides,
        pads=zero_pads,
        input_dilation=input_dilations,
        kernel_dilation=window.dilation,
        groups=groups,
        precision=precision,
        preferred_element_type=preferred_element_type,
        out_sharding=out_sharding,
        method=method,
        are_bytes=are_bytes and mask is None and "constant" not in modes,
    )
    x = x.reshape(math.prod(batch), *x.shape[len(batch) :]) if len(batch) != 1 else x
    y = _backend.convolve(x, kernel, **options)
    return add_bias(y, bias, kernel.shape[-1]).reshape(*batch, *y.shape[1:])


def conv_transpose(
    x: Array,
    kernel: Array,
    bias: Array | None = None,
    *,
    strides: Ints = 1,
    padding: Padding = "SAME",
    padding_mode: PaddingModes = "zeros",
    kernel_dilation: Ints = 1,
    feature_group_count: int = 1,
    output_padding: Ints = 0,
    output_shape: Ints | None = None,
    transpose_kernel: bool = False,
    use_consistent_padding: bool = False,
    precision: Any = None,
    preferred_element_type: Any = None,
    method: Method = "auto",
) -> Array:
    """Compute a transposed convolution: a convolution of `x` with `strides - 1` zeros between neighbours.

    With `use_consistent_padding=True, transpose_kernel=True` it is exactly the adjoint of `conv` with the same kernel,
    strides, padding, padding mode, dilation and groups, and so exactly PyTorch's ConvTranspose.

    Args:
        x: `(*batch, *spatial, c_in)`, any number of batch axes, none included.
        kernel: `(*window, c_in / feature_group_count, c_out)`, or with `transpose_kernel` the kernel of the
            convolution that this transposes: `(*window, c_out / feature_group_count, c_in)`.
        bias: `(c_out,)`.
        strides: distance in the result between neighbours of `x`, one or one per axis.
        padding: names mean the padding of the convolution from the result back to `x` ("SAME": the result is `strides`
            times as large; "CAUSAL" without `use_consistent_padding`: no position of the result depends on a later one
            of `x`). Pairs and ints pad the dilated input, as in `lax.conv_transpose`; with `use_consistent_padding`
            they too mean the padding of that convolution.
        padding_mode: "zeros", "reflect", "replicate", "circular", or one per axis, of that convolution: values in its
            padding are added to the positions that the padding repeats.
        kernel_dilation: distance between neighbouring taps.
        feature_group_count: number of groups, as in `conv`.
        output_padding: positions appended to the natural size, fewer than the larger of stride and dilation.
        output_shape: instead, the spatial sizes of the result, within the same range.
        transpose_kernel: mirror the kernel and swap its input and output channels.
        use_consistent_padding: let pairs and ints too mean the padding of the convolution back to `x`.
        precision, preferred_element_type, method: as in `conv`.

    Returns:
        `(*batch, *out, c_out)` of the dtype that `conv` gives; a natural size is
        `(n - 1) * stride + effective_size - before - after`.

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: shapes that do not fit, numbers out of range, an empty result.

    Example:
        >>> x = jnp.array([1.0, 2.0]).reshape(1, 2, 1)
        >>> conv_transpose(x, jnp.ones((2, 1, 1)), strides=2).ravel().tolist()
        [1.0, 1.0, 2.0, 2.0]

    Equals `lax.conv_transpose` (which has no groups) and, as said, `torch.nn.functional.conv_transpose2d`.
    """
    x, kernel, preferred_element_type, are_bytes = widen_mixed_bytes(x, kernel, preferred_element_type)
    x, kernel = promote_operands(x, kernel)
    window = read_window(kernel, strides, padding, kernel_dilation)
    rank, groups = window.rank, read_int("feature_group_count", feature_group_count)
    modes = read_modes(padding_mode, rank, window.padding)
    if "constant" in modes:
        rule = "be 'zeros', 'reflect', 'replicate' or 'circular', or one of them per axis"
        raise argument_error("padding_mode", rule, padding_mode, "a transposed convolution")
    if transpose_kernel:
        check_channels(x, kernel, kernel.shape[-1], kernel.shape[-2] * groups, groups)
        kernel = _transposed_kernel(kernel, groups)
    else:
        check_channels(x, kernel, kernel.shape[-2] * groups, kernel.shape[-1], groups)

    batch, spatial = x.shape[: x.ndim - rank - 1], x.shape[x.ndim - rank - 1 : -1]
    if 0 in spatial:
        raise argument_error("x", "have no empty spatial axis", x.shape, describe_axes(rank))
    inverted = transposed_geometry(window, spatial, consistent=use_consistent_padding, flipped=transpose_kernel)
    out = read_output_shape(output_padding, output_shape, [length for _, length in inverted], window)
    if any(is_int(size) and size < 1 for size in out):
        raise argument_error(
            "padding", "leave a result", padding, f"spatial shape {spatial} and a result of shape {out}"
        )
    pads, border_pads = [], []
    for ((before, after), _), length, effective_size, dilated, mode in zip(
        inverted, out, window.effective_size, dilate(spatial, window.strides), modes
    ):
        # The convolution's padded axis is -before .. length + after; a mode that repeats positions needs all of it.
        folds = mode in ("reflect", "replicate", "circular")
        low, high = (before, max(after, dilated + effective_size - 1 - before - length)) if folds else (0, 0)
        border_pads.append((low, high))
        pads.append((effective_size - 1 - before + low, length + high + before - dilated))
    y = _backend.convolve(
        x.reshape(math.prod(batch), *x.shape[len(batch) :]) if len(batch) != 1 else x,
        kernel,
        strides=(1,) * rank,
        pads=pads,
        input_dilation=window.strides,
        kernel_dilation=window.dilation,
        groups=groups,
        precision=precision,
        preferred_element_type=preferred_element_type,
        out_sharding=None,
        method=method,
        are_bytes=are_bytes,
    )
    for axis, (pair, mode, length) in enumerate(zip(border_pads, modes, out), 1):
        y = _fold_back(y, axis, pair, mode, length, padding)
    return add_bias(y, bias, y.shape[-1]).reshape(*batch, *y.shape[1:])


def _transposed_kernel(kernel: Array, groups: int) -> Array:
    """Mirror a kernel `(*window, out / groups, in)` and return it as `(*window, in / groups, out)`."""
    *size, out_channels, in_channels = kernel.shape
    if groups == 1:
        swapped = kernel.swapaxes(-1, -2)
    else:
        grouped = kernel.reshape(*size, out_channels, groups, in_channels // groups)
        swapped = jnp.moveaxis(grouped, -1, -3).swapaxes(-1, -2)
        swapped = swapped.reshape(*size, in_channels // groups, groups * out_channels)
    return lax.rev(swapped, range(len(size)))  # last, so that XLA merges the reversal into the convolution


def _fold_back(y: Array, axis: int, pair: tuple[int, int], mode: str, length: int, shown: Any) -> Array:
    """Apply the adjoint of padding an axis of `length` by `pair`: add each padded position to the one that it
    repeats."""
    if pair == (0, 0):
        return y
    if mode == "circular":
        low = -pair[0] % length
        padded_length = -(-(low + y.shape[axis]) // length) * length
        y = pad_axis(y, axis, (low, padded_length - low - y.shape[axis]), "zeros")
        return y.reshape(*y.shape[:axis], padded_length // length, length, *y.shape[axis + 1 :]).sum(
            axis, dtype=y.dtype
        )
    image = jax.ShapeDtypeStruct((*y.shape[:axis], length, *y.shape[axis + 1 :]), y.dtype)

    def pad_one_axis(z):
        pairs = [(0, 0)] * (z.ndim - 2)
        pairs[axis - 1] = pair
        return pad_spatial(z, pairs, [mode] * (z.ndim - 2), shown=shown)

    return jax.linear_transpose(pad_one_axis, image)(y)[0]


def conv_general_dilated(
    lhs: Array,
    rhs: Array,
    window_strides: Any,
    padding: Any,
    lhs_dilation: Any = None,
    rhs_dilation: Any = None,
    dimension_numbers: Any = None,
    feature_group_count: int = 1,
    batch_group_count: int = 1,
    precision: Any = None,
    preferred_element_type: Any = None,
    out_sharding: Any = None,
) -> Array:
    """Compute `jax.lax.conv_general_dilated` with convlab's speed: the same arguments, results, derivatives and errors.

    Args:
        lhs, rhs, window_strides, padding, lhs_dilation, rhs_dilation, dimension_numbers, feature_group_count,
        batch_group_count,
            precision, preferred_element_type, out_sharding: as in `jax.lax.conv_general_dilated`, defaults included.

    Returns:
        The convolution, laid out as `dimension_numbers` says, of the operands' dtype or `preferred_element_type`.

    Raises:
        TypeError, ValueError: as lax does.

    Example:
        >>> x, k = jnp.ones((1, 4, 4, 1)), jnp.ones((3, 3, 1, 1))
        >>> conv_general_dilated(x, k, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")).shape
        (1, 2, 2, 1)

    Fits the `conv_general_dilated=` argument of Flax's `nnx.Conv` and `linen.Conv`. Equals the function of lax that it
    is named after.
    """
    return _backend.conv_general_dilated(
        lhs,
        rhs,
        window_strides,
        padding,
        lhs_dilation,
        rhs_dilation,
        dimension_numbers,
        feature_group_count,
        batch_group_count,
        precision=precision,
        preferred_element_type=preferred_element_type,
        out_sharding=out_sharding,
    )
