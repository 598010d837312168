"""The conditions of the rows in `tables`: functions of a problem's static sizes and dtypes."""

from __future__ import annotations

import math

import jax.numpy as jnp

from .formulations import block_diagonal, gemm, onednn, output_blocking, swapped_operands, taps
from .formulations.base import VECTOR
from .problem import Problem


def dilates_input(p: Problem) -> bool:
    return p.dilates_input


def small_dilated_depthwise(p: Problem) -> bool:
    small = p.rank == 2 and math.prod(p.window) <= 9 and max(p.kernel_dilation) > 1
    return small and p.dtype == jnp.float32 and taps.borders_apart(p)


def one_tap(p: Problem) -> bool:
    return p.groups == 1 and math.prod(p.window) == 1


def few_channels(p: Problem) -> bool:
    """Return whether the channels are too few to fill a vector, so that the pixels have to."""
    return p.groups == 1 and p.channels * p.features <= 16 and math.prod(p.window) <= 25


def one_channel_large_window(p: Problem) -> bool:
    """Return whether an image of one channel has a window large enough to outweigh the two changes of layout."""
    return few_channels(p) and p.channels == 1 and p.rank >= 2 and math.prod(p.window) >= 16


def few_channel_pairs(p: Problem) -> bool:
    """Return whether the pairs of an input and an output channel are few."""
    return p.groups == 1 and p.features < VECTOR and p.channels * p.features <= 32 and 1 < math.prod(p.window) <= 64


def mostly_padding(p: Problem) -> bool:
    """Return whether at most 70% of the products are of positions inside the image, and the batch is large."""
    few_features = p.groups == 1 and p.rank >= 2 and p.features <= VECTOR and p.batch >= 128
    is_dense = all(n == 1 for n in (*p.strides, *p.input_dilation, *p.kernel_dilation))
    return few_features and is_dense and swapped_operands.fraction_inside(p) <= 0.7


def output_blocking_saves_work(p: Problem) -> bool:
    """Return whether output_blocking does at most 80% of the engine's work."""
    few_features = p.groups == 1 and p.features <= VECTOR // 2 and p.macs >= 2**20
    reasons = onednn.forward_unsupported, output_blocking.forward_unsupported
    return few_features and not any(reason(p) for reason in reasons) and output_blocking.remaining_work(p) <= 0.8


def blocks_fill_columns(p: Problem) -> bool:
    """Return whether XLA's loop nest, which multiplies patches by a matrix, has few columns to compute."""
    few = ungrouped_float32(p) and p.rank == 2 and p.features <= VECTOR // 2 <= p.channels <= VECTOR
    return (
        few
        and p.macs >= 2**20
        and output_blocking.forward_unsupported(p) is None
        and output_blocking.remaining_work(p) <= 0.8
    )


def few_features_of_several_channels(p: Problem) -> bool:
    return p.channels >= 4 and output_blocking_saves_work(p)


def small_tiles_of_few_channels(p: Problem) -> bool:
    """Return whether small windows tile an image of few channels, as in a first layer of 4 x 4 patches."""
    return p.channels <= 4 and math.prod(p.window) <= 16 and ungrouped_tiles(p)


def one_channel_throughout(p: Problem) -> bool:
    """Return whether there is one channel, in and out or along a sequence."""
    return p.channels == 1 and (p.features == 1 or p.rank == 1)


def sequence_to_many_features(p: Problem) -> bool:
    """Return whether it is a short window over one channel of several sequences, to many features."""
    many = p.rank == 1 and p.channels == 1 and p.features >= 128 and p.batch > 1
    return many and ungrouped_float32(p) and 1 < p.window[0] <= 16


def one_channel_of_one_image(p: Problem) -> bool:
    """Return whether XLA's loop nest, which has the batch in the role of the channels, would have only one."""
    return one_channel_throughout(p) and p.rank == 2 and p.batch == 1 and math.prod(p.window) <= 512


def few_channels_one_feature(p: Problem) -> bool:
    return p.groups == 1 and p.rank == 2 and p.features == 1 and p.channels <= 4 and math.prod(p.window) <= 25


def one_channel_few_features(p: Problem) -> bool:
    return p.channels == 1 and 1 < p.features <= 8 and 16 <= math.prod(p.window) <= 64


def long_dilated(p: Problem) -> bool:
    """Return whether the engine would split the sum of a dilated sequence, which lax's loop nest computes as fast."""
    return p.rank == 1 and p.groups == 1 and p.kernel_dilation[0] > 1 and p.batch * p.out[0] > onednn.LONGEST_SUM


def wide_sequence(p: Problem) -> bool:
    return ungrouped_float32(p) and p.rank == 1 and min(p.channels, p.features) >= 96


def groups_of_one_or_two_channels(p: Problem) -> bool:
    """Return whether each group has at most four pairs of an input and an output channel, and is not depthwise."""
    return p.groups > 1 and not p.depthwise and (p.channels // p.groups) * (p.features // p.groups) <= 4


def few_wide_groups(p: Problem) -> bool:
    wide = min(p.channels, p.features) >= 16 * p.groups
    return 1 < p.groups <= 8 and wide and p.rank <= 2 and p.dtype == jnp.float32


def small_groups(p: Problem) -> bool:
    return p.groups > 1 and (p.channels // p.groups) * (p.features // p.groups) <= 16


def many_groups_of_few_channels(p: Problem) -> bool:
    return p.groups > 16 and taps.features_fill_vectors(p)


def ungrouped_float32(p: Problem) -> bool:
    """Return whether it is in float32 without groups, as all problems measured without the engine."""
    return p.dtype == jnp.float32 and p.groups == 1


def winograd_saves_products(p: Problem) -> bool:
    """Return whether there are so many channels and positions that fewer products outweigh the transforms."""
    return min(p.channels, p.features) >= 64 and winograd_gradient_saves_products(p)


def winograd_gradient_saves_products(p: Problem) -> bool:
    tiles = p.batch * math.prod(p.out) // 4
    return ungrouped_float32(p) and tiles >= max(p.channels, p.features) and min(p.channels, p.features) >= 32


def many_channels_skip_padding(p: Problem) -> bool:
    """Return whether many taps fall on padding, as for dilated windows and for small images of many channels."""
    return ungrouped_float32(p) and many_channels(p) and gemm.skips_padding(p)


def ungrouped_tiles(p: Problem) -> bool:
    return ungrouped_float32(p) and gemm.tiles_image(p)


def colour_image(p: Problem) -> bool:
    """Return whether it is a first layer of a colour image; its few products for each output make one fused loop."""
    return ungrouped_float32(p) and p.channels <= 4 and p.features >= VECTOR and math.prod(p.window) * p.channels <= 36


def first_layer(p: Problem) -> bool:
    """Return whether it is a first layer: of a colour image, say, to many features."""
    wide = ungrouped_float32(p) and p.rank == 2 and p.channels <= 4 and p.features >= 2 * VECTOR
    return wide and math.prod(p.window) > 1 and p.batch * math.prod(p.out) >= 2**14


def volume_to_one_feature(p: Problem) -> bool:
    return ungrouped_float32(p) and p.rank == 3 and p.features == 1 and p.channels <= 16


def few_channels_and_features(p: Problem) -> bool:
    return ungrouped_float32(p) and max(p.channels, p.features) <= VECTOR and 1 < math.prod(p.window) <= 25


def strided_volume(p: Problem) -> bool:
    return ungrouped_float32(p) and p.rank == 3 and max(p.strides) > 1 and math.prod(p.window) <= 27


def small_window_of_volume(p: Problem) -> bool:
    return p.groups == 1 and p.rank == 3 and math.prod(p.window) <= 8


def short_rows(p: Problem) -> bool:
    """Return whether the banded matrix that maps a row of the image to a row of the result is small."""
    row_in, row_out = p.spatial[-1] * p.channels, p.out[-1] * p.features
    return p.groups == 1 and max(p.channels, p.features) <= 16 and row_in * row_out <= 2**15


def many_channels(p: Problem) -> bool:
    return p.groups == 1 and min(p.channels, p.features) >= 128


def depthwise_strided_or_large(p: Problem) -> bool:
    """Return whether a depthwise convolution is strided, or has a small window over many positions."""
    taps, positions = math.prod(p.window), p.batch * math.prod(p.out)
    many = 2**12 if p.rank == 2 else 2**16
    return p.depthwise and (max(p.strides) > 1 and taps <= 32 or taps <= 9 and positions >= many)


def large_images(p: Problem) -> bool:
    """Return whether a small batch has large images. XLA pads their channels to the 128 lanes of a TPU's vectors."""
    return p.groups == 1 and p.batch <= 32 and p.batch * math.prod(p.out) >= 2**16 and math.prod(p.window) <= 27


def one_channel_in_or_out(p: Problem) -> bool:
    return large_images(p) and min(p.channels, p.features) == 1 and max(p.channels, p.features) <= 16


def from_one_channel(p: Problem) -> bool:
    return one_channel_in_or_out(p) and (p.channels == 1 or p.channels * p.features <= 2)


def to_few_features(p: Problem) -> bool:
    return large_images(p) and p.rank == 2 and 1 < p.features <= 4 and 8 <= p.channels <= 16


def window_tiles_large_image(p: Problem) -> bool:
    """Return whether windows tile a large image of few channels, so that padding them to 128 lanes is the main cost."""
    few_channels = p.groups == 1 and p.channels <= 4 and math.prod(p.window) > 1
    return few_channels and math.prod(p.spatial) >= 2**12 and gemm.tiles_image(p)


def small_window_tiles_large_image(p: Problem) -> bool:
    return window_tiles_large_image(p) and math.prod(p.window) <= 16


def small_groups_tpu(p: Problem) -> bool:
    """Return whether its groups are small, except depthwise with one feature per channel, for which XLA has a loop."""
    is_grouped = max(p.channels, p.features) > p.groups > 1
    return is_grouped and min(p.channels, p.features) // p.groups <= (80 if block_diagonal.is_one_kernel(p) else 16)


def small_groups_tpu_forward(p: Problem) -> bool:
    """Return whether its groups are small and XLA does not fill the matrix unit itself.

    XLA makes depthwise convolutions dense, and large windows with 128 features in each group fill the unit.
    """
    is_filled = p.features // p.groups >= 128 and math.prod(p.window) > 9
    return small_groups_tpu(p) and not p.depthwise and not is_filled


def bfloat16_sequence(p: Problem) -> bool:
    return p.rank == 1 and p.dtype == jnp.bfloat16


def dilated_depthwise_sequence(p: Problem) -> bool:
    return p.rank == 1 and p.depthwise and p.kernel_dilation[0] > 1 and p.window[0] <= 32 and not p.dilates_input


def depthwise_sequence(p: Problem) -> bool:
    return p.rank == 1 and taps.sums_each_tap(p)


def large_windows_tile(p: Problem) -> bool:
    return p.groups == 1 and math.prod(p.window) >= gemm.LARGE and gemm.tiles_image(p)


def large_tiles(p: Problem) -> bool:
    """Return whether large windows tile the result, as in the input gradient of a problem of `large_windows_tile`."""
    return p.groups == 1 and math.prod(p.window) >= gemm.LARGE and p.window == p.input_dilation
