"""Convolutions whose kernel (`conv_local`) or whose sampling positions (`deform_conv`) vary over the image."""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from . import _backend
from ._arguments import (
    argument_error,
    as_array,
    broadcast_to_rank,
    check_castable,
    check_not_empty,
    index_dtype,
    read_int,
    spatial_shape,
)
from ._backend.interpolate import BORDER, FIRST, sample
from ._backend.local import local_products, sum_of_products
from ._conv_operands import (
    add_bias,
    check_channels,
    promote_operands,
    read_dilation_and_modes,
    read_window,
    widen_mixed_bytes,
)
from ._dtypes import accumulation_dtype
from ._padding import pad_spatial
from ._patches import has_many_taps, patches, unfold_axes
from ._pool_windows import resolve_padding
from ._window import Window, dilate
from .typing import Ints, Padding, PaddingModes

Array = jax.Array


def conv_local(
    x: Array,
    kernel: Array,
    bias: Array | None = None,
    *,
    kernel_size: Ints,
    strides: Ints = 1,
    padding: Padding = "VALID",
    padding_mode: PaddingModes = "zeros",
    input_dilation: Ints = 1,
    kernel_dilation: Ints = 1,
    precision: Any = None,
) -> Array:
    """Apply a convolution with one kernel per position (a locally connected layer).

    Args:
        x: `(*batch, *spatial, c_in)`, any number of batch axes, none included.
        kernel: `(*out, c_in * taps, c_out)`, as in Flax's ConvLocal: channel by channel, each with its taps in
            row-major order.
        bias: `(*out, c_out)`.
        kernel_size: taps along each spatial axis, one or one per axis.
        strides, padding, padding_mode, input_dilation, kernel_dilation, precision: as in `conv`.

    Returns:
        `(*batch, *out, c_out)` of the promoted dtype of `x` and `kernel`, int32 for uint8 with int8; 16-bit floats are
        summed in float32.

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: shapes that do not fit, numbers out of range, an empty result.

    Example:
        >>> x = jnp.array([1.0, 2.0, 3.0]).reshape(1, 3, 1)
        >>> conv_local(x, jnp.array([[[1.0], [0.0]], [[0.0], [1.0]]]), kernel_size=2).ravel().tolist()
        [1.0, 3.0]

    Equals `lax.conv_general_dilated_local` in channels-last layout and Flax's `ConvLocal`.
    """
    if _backend.is_split(x, getattr(kernel, "ndim", 2) - 2):
        options = dict(
            kernel_size=kernel_size,
            strides=strides,
            padding=padding,
            padding_mode=padding_mode,
            input_dilation=input_dilation,
            kernel_dilation=kernel_dilation,
            precision=precision,
        )
        return _backend.map_over_batch(functools.partial(conv_local, **options), (x,), (kernel, bias))
    x, kernel, _, are_bytes = widen_mixed_bytes(x, kernel)
    x, kernel = promote_operands(x, kernel)
    if are_bytes:
        x, kernel = x.astype(jnp.int32), kernel.astype(jnp.int32)
    check_not_empty("kernel_size", kernel_size)
    rank, channels = kernel.ndim - 2, x.shape[-1]
    size = broadcast_to_rank("kernel_size", kernel_size, rank)
    window = Window(
        size,
        broadcast_to_rank("strides", strides, rank),
        padding,
        broadcast_to_rank("kernel_dilation", kernel_dilation, rank),
    )
    input_dilations, modes = read_dilation_and_modes(window, padding, padding_mode, input_dilation)
    batch, dilated = x.shape[: x.ndim - 1 - rank], dilate(spatial_shape(x, rank), input_dilations)
    out, taps, features = window.checked_output_shape("kernel_size", dilated), math.prod(size), kernel.shape[-1]
    if kernel.shape[:-1] != (*out, channels * taps) or 0 in kernel.shape:
        rule = f"have shape {(*out, channels * taps)} and output channels"
        fact = f"spatial shape {dilated}, {channels} channels and kernel_size {size}"
        raise argument_error("kernel", rule, kernel.shape, fact)

    x = lax.pad(
        x, jnp.zeros((), x.dtype), [(0, 0, dilation - 1) for dilation in (*(1,) * len(batch), *input_dilations, 1)]
    )
    x = pad_spatial(x, window.pads(dilated), modes, shown=padding)
    x, valid_window = (
        x.reshape(math.prod(batch), *x.shape[len(batch) :]),
        Window(size, window.strides, "VALID", window.dilation),
    )
    y = local_products(
        x, kernel, functools.partial(_stack_windows, window=valid_window), valid_window, precision
    ).reshape(*batch, *out, features)
    if bias is None:
        return y
    bias = as_array("bias", bias)
    if bias.shape != (*out, features):
        raise argument_error(
            "bias", f"have shape {(*out, features)}", bias.shape, f"{features} output channels at {out} places"
        )
    check_castable("bias", bias, y.dtype, "a result")
    return y + jnp.expand_dims(bias.astype(y.dtype), range(len(batch)))


def _stack_windows(x: Array, window: Window) -> Array:
    """Stack the windows of `x: (n, *spatial, c)` as `(n, c * taps, *out)`.

    The order, channels before taps, is the kernel's; stacking is cheap because the positions are the innermost axes."""
    x = jnp.moveaxis(x, -1, 1)
    if has_many_taps(window):
        samples = unfold_axes(x, window, 2)
        samples = jnp.moveaxis(samples, range(2, 2 + window.rank), range(-window.rank, 0))
        return samples.reshape(x.shape[0], x.shape[1] * math.prod(window.size), *samples.shape[-window.rank :])
    samples = jnp.stack(patches(x[..., None], window), 2)
    return samples.reshape(x.shape[0], x.shape[1] * math.prod(window.size), *samples.shape[3:-1])


def deform_conv(
    x: Array,
    offset: Array,
    kernel: Array,
    bias: Array | None = None,
    *,
    mask: Array | None = None,
    strides: Ints = 1,
    padding: Padding = "SAME",
    kernel_dilation: Ints = 1,
    feature_group_count: int = 1,
    precision: Any = None,
) -> Array:
    """Apply a deformable convolution: offsets move the taps, and linear interpolation reads between positions.

    Args:
        x: `(*batch, *spatial, c_in)`, any number of batch axes, none included; positions outside of it read 0.
        offset: `(*batch, *out, groups * taps * n_spatial)`: for each offset group and tap (in row-major order) its
            displacement along each axis (y before x), in steps of the input. The shape determines the number of groups;
            each group moves `c_in / groups` neighbouring channels.
        kernel: `(*window, c_in / feature_group_count, c_out)`.
        bias: `(c_out,)`.
        mask: `(*batch, *out, groups * taps)`: the modulation, a factor for each tap.
        strides, padding, kernel_dilation, feature_group_count, precision: as in `conv`.

    Returns:
        `(*batch, *out, c_out)` of the promoted dtype of `x` and `kernel`, differentiable in all arguments. Positions
        are computed in float32 or wider, and 16-bit floats are summed in float32. At an integer offset the derivative
        is the right-hand one.

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: shapes that do not fit, numbers out of range, an empty result.

    Example:
        >>> x = jnp.array([0.0, 10.0, 20.0]).reshape(1, 3, 1)
        >>> deform_conv(x, jnp.full((1, 3, 1), 0.5), jnp.ones((1, 1, 1))).ravel().tolist()
        [5.0, 15.0, 10.0]

    Equals `torchvision.ops.deform_conv2d`, in any rank.
    Source: Dai et al., "Deformable convolutional networks", arXiv 1703.06211; with `mask`, Zhu et al., arXiv
    1811.11168.
    """
    if _backend.is_split(x, getattr(kernel, "ndim", 2) - 2):
        options = dict(
            strides=strides,
            padding=padding,
            kernel_dilation=kernel_dilation,
            feature_group_count=feature_group_count,
            precision=precision,
        )

        def part(x: Array, offset: Array, mask: Array | None, kernel: Array, bias: Array | None) -> Array:
            return deform_conv(x, offset, kernel, bias, mask=mask, **options)

        return _backend.map_over_batch(part, (x, offset, mask), (kernel, bias))
    x, kernel = promote_operands(x, kernel)
    window = read_window(kernel, strides, padding, kernel_dilation)
    groups = read_int("feature_group_count", feature_group_count)
    rank, channels, features = window.rank, x.shape[-1], kernel.shape[-1]
    if rank == 0:
        raise argument_error("kernel", "have at least 3 axes (*window, c_in / groups, c_out)", kernel.shape)
    check_channels(x, kernel, kernel.shape[-2] * groups, features, groups)
    batch, taps = x.shape[: x.ndim - 1 - rank], math.prod(window.size)
    out = window.checked_output_shape("kernel", spatial_shape(x, rank))
    positions = (*batch, *out)
    offset = as_array("offset", offset)
    if jnp.iscomplexobj(offset):
        raise argument_error("offset", "be real", offset.dtype.name, kind=TypeError)
    offset_groups, rest = divmod(offset.shape[-1] if offset.ndim else 0, taps * rank)
    if offset.shape[:-1] != positions or rest or offset_groups < 1 or channels % offset_groups:
        rule = (
            f"have shape ({', '.join(map(str, positions))}, groups * {taps * rank}), with groups that divide {channels}"
        )
        raise argument_error("offset", rule, offset.shape, f"{channels} channels and a kernel of shape {kernel.shape}")
    x, window = resolve_padding(x, window)
    index_dtype((offset_groups, *batch, *(size + BORDER for size in spatial_shape(x, rank))))
    n, out_positions = math.prod(batch), math.prod(out)
    low, within = _positions(x, window, offset.reshape(n, out_positions, offset_groups, taps, rank))
    cell = [
        jnp.where(at > FIRST, jnp.minimum(at, size), FIRST).astype(jnp.int32)
        for at, size in zip(low, spatial_shape(x, rank))
    ]
    samples = sample(x.reshape(n, *spatial_shape(x, rank), offset_groups, channels // offset_groups), cell, within)
    if mask is not None:
        mask = as_array("mask", mask)
        if mask.shape != (*positions, offset_groups * taps):
            raise argument_error(
                "mask",
                f"have shape {(*positions, offset_groups * taps)}",
                mask.shape,
                f"offset of shape {offset.shape}",
            )
        check_castable("mask", mask, samples.dtype, "an image")
        samples = samples * mask.reshape(n, out_positions, offset_groups, taps, 1).astype(samples.dtype)
    samples = samples.astype(x.dtype).swapaxes(2, 3)
    if groups == 1:  # without a group axis the product needs no transposed copy
        samples, kernel = samples.reshape(n * out_positions, taps * channels), kernel.reshape(taps * channels, features)
        y = sum_of_products("pi,io->po", samples, kernel, precision)
    else:
        samples = samples.reshape(n * out_positions, taps, groups, channels // groups)
        kernel = kernel.reshape(taps, channels // groups, groups, features // groups)
        y = sum_of_products("ptgi,tigo->pgo", samples, kernel, precision)
    return add_bias(y.reshape(*positions, features), bias, features)


def _positions(x: Array, window: Window, offset: Array) -> tuple[list[Array], list[Array]]:
    """Return for each axis and tap the integer position before its sampling position, and the distance between the two,
    of shape `(taps, parts, n, positions)`."""
    spatial = spatial_shape(x, window.rank)
    offset = offset.astype(accumulation_dtype(offset)).transpose(4, 3, 2, 0, 1)
    position, out = [], window.out(spatial)
    for axis, (lo, _) in enumerate(window.pads(spatial)):
        start = _coordinates(out, axis) * window.strides[axis] - lo
        step = _coordinates(window.size, axis) * window.dilation[axis]
        position.append((start[None, None, None] + step[:, None, None, None]).astype(offset.dtype) + offset[axis])
    low = [lax.stop_gradient(jnp.floor(at)) for at in position]
    return low, [at - before for at, before in zip(position, low)]


def _coordinates(sizes: tuple[int, ...], axis: int) -> Array:
    """Return the coordinates along one axis of all positions of an image of shape `sizes`, flat."""
    return lax.broadcasted_iota(jnp.int32, sizes, axis).ravel()
