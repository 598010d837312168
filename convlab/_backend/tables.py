"""The tables that choose a formulation for a convolution, by its static sizes and dtypes.

`dispatch` and `lowering` call `choose`. A row is (formulation, reason, condition); rows are read from top to bottom,
and the first one is taken whose condition holds and whose formulation supports the problem. The CPU's rows come from
measurements, the TPU's from its compiler's estimates. On a GPU lax computes all convolutions except forms that users
report as slow or missing.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import jax.numpy as jnp

from .formulations import block_diagonal, gemm, onednn, output_blocking, planes, swapped_operands, taps
from .formulations.base import VECTOR, Formulation
from .formulations.batch_vectorized import BATCH_VECTORIZED
from .formulations.explicit_zeros import EXPLICIT_ZEROS
from .formulations.extra_axis import EXTRA_AXIS
from .formulations.fft import FFT
from .formulations.floats import FLOATS
from .formulations.groups import GROUPS
from .formulations.lax import CHANNELS_LAST, LAX
from .formulations.subpixel import SUBPIXEL
from .formulations.toeplitz import TOEPLITZ
from .formulations.winograd import WINOGRAD
from .problem import Kind, Problem

FORMULATIONS: dict[str, Formulation] = {
    formulation.name: formulation
    for formulation in (
        LAX,
        CHANNELS_LAST,
        onednn.ONEDNN,
        taps.TAPS,
        BATCH_VECTORIZED,
        gemm.GEMM,
        block_diagonal.BLOCK_DIAGONAL,
        TOEPLITZ,
        WINOGRAD,
        FFT,
        swapped_operands.SWAPPED_OPERANDS,
        output_blocking.OUTPUT_BLOCKING,
        SUBPIXEL,
        EXPLICIT_ZEROS,
        EXTRA_AXIS,
        planes.PLANES,
        GROUPS,
        FLOATS,
    )
}
Row = tuple[str, str, Callable[[Problem], bool]]
REQUESTED = "requested"  # the reason of a choice by `method=`


def _dilates_input(p: Problem) -> bool:
    return p.dilates_input


def _small_dilated_depthwise(p: Problem) -> bool:
    small = p.rank == 2 and math.prod(p.window) <= 9 and max(p.kernel_dilation) > 1
    return small and p.dtype == jnp.float32 and taps.borders_apart(p)


def _one_tap(p: Problem) -> bool:
    return p.groups == 1 and math.prod(p.window) == 1


def _few_channels(p: Problem) -> bool:
    """Return whether the channels are too few to fill a vector, so that the pixels have to."""
    return p.groups == 1 and p.channels * p.features <= 16 and math.prod(p.window) <= 25


def _one_channel_large_window(p: Problem) -> bool:
    """Return whether an image of one channel has a window large enough to outweigh the two changes of layout."""
    return _few_channels(p) and p.channels == 1 and p.rank >= 2 and math.prod(p.window) >= 16


def _few_channel_pairs(p: Problem) -> bool:
    """Return whether the pairs of an input and an output channel are few."""
    return p.groups == 1 and p.features < VECTOR and p.channels * p.features <= 32 and 1 < math.prod(p.window) <= 64


def _mostly_padding(p: Problem) -> bool:
    """Return whether at most 70% of the products are of positions inside the image, and the batch is large."""
    few_features = p.groups == 1 and p.rank >= 2 and p.features <= VECTOR and p.batch >= 128
    is_dense = all(n == 1 for n in (*p.strides, *p.input_dilation, *p.kernel_dilation))
    return few_features and is_dense and swapped_operands.fraction_inside(p) <= 0.7


def _output_blocking_saves_work(p: Problem) -> bool:
    """Return whether output_blocking does at most 80% of the engine's work."""
    few_features = p.groups == 1 and p.features <= VECTOR // 2 and p.macs >= 2**20
    reasons = onednn.forward_unsupported, output_blocking.forward_unsupported
    return few_features and not any(reason(p) for reason in reasons) and output_blocking.remaining_work(p) <= 0.8


def _blocks_fill_columns(p: Problem) -> bool:
    """Return whether XLA's loop nest, which multiplies patches by a matrix, has few columns to compute."""
    few = _ungrouped_float32(p) and p.rank == 2 and p.features <= VECTOR // 2 <= p.channels <= VECTOR
    return (
        few
        and p.macs >= 2**20
        and output_blocking.forward_unsupported(p) is None
        and output_blocking.remaining_work(p) <= 0.8
    )


def _few_features_of_several_channels(p: Problem) -> bool:
    return p.channels >= 4 and _output_blocking_saves_work(p)


def _small_tiles_of_few_channels(p: Problem) -> bool:
    """Return whether small windows tile an image of few channels, as in a first layer of 4 x 4 patches."""
    return p.channels <= 4 and math.prod(p.window) <= 16 and _ungrouped_tiles(p)


def _one_channel_throughout(p: Problem) -> bool:
    """Return whether there is one channel, in and out or along a sequence."""
    return p.channels == 1 and (p.features == 1 or p.rank == 1)


def _one_channel_of_one_image(p: Problem) -> bool:
    """Return whether XLA's loop nest, which has the batch in the role of the channels, would have only one."""
    return _one_channel_throughout(p) and p.rank == 2 and p.batch == 1 and math.prod(p.window) <= 512


def _few_channels_one_feature(p: Problem) -> bool:
    return p.groups == 1 and p.rank == 2 and p.features == 1 and p.channels <= 4 and math.prod(p.window) <= 25


def _one_channel_few_features(p: Problem) -> bool:
    return p.channels == 1 and 1 < p.features <= 8 and 16 <= math.prod(p.window) <= 64


def _long_dilated(p: Problem) -> bool:
    """Return whether the engine would split the sum of a dilated sequence, which lax's loop nest computes as fast."""
    return p.rank == 1 and p.groups == 1 and p.kernel_dilation[0] > 1 and p.batch * p.out[0] > onednn.LONGEST_SUM


def _wide_sequence(p: Problem) -> bool:
    return _ungrouped_float32(p) and p.rank == 1 and min(p.channels, p.features) >= 96


def _groups_of_one_or_two_channels(p: Problem) -> bool:
    """Return whether each group has at most four pairs of an input and an output channel, and is not depthwise."""
    return p.groups > 1 and not p.depthwise and (p.channels // p.groups) * (p.features // p.groups) <= 4


def _few_wide_groups(p: Problem) -> bool:
    wide = min(p.channels, p.features) >= 16 * p.groups
    return 1 < p.groups <= 8 and wide and p.rank <= 2 and p.dtype == jnp.float32


def _small_groups(p: Problem) -> bool:
    return p.groups > 1 and (p.channels // p.groups) * (p.features // p.groups) <= 16


def _many_groups_of_few_channels(p: Problem) -> bool:
    return p.groups > 16 and taps.features_fill_vectors(p)


def _ungrouped_float32(p: Problem) -> bool:
    """Return whether it is in float32 without groups, as all problems measured without the engine."""
    return p.dtype == jnp.float32 and p.groups == 1


def _winograd_saves_products(p: Problem) -> bool:
    """Return whether there are so many channels and positions that fewer products outweigh the transforms."""
    return min(p.channels, p.features) >= 64 and _winograd_gradient_saves_products(p)


def _winograd_gradient_saves_products(p: Problem) -> bool:
    tiles = p.batch * math.prod(p.out) // 4
    return _ungrouped_float32(p) and tiles >= max(p.channels, p.features) and min(p.channels, p.features) >= 32


def _many_channels_skip_padding(p: Problem) -> bool:
    """Return whether many taps fall on padding, as for dilated windows and for small images of many channels."""
    return _ungrouped_float32(p) and _many_channels(p) and gemm.skips_padding(p)


def _ungrouped_tiles(p: Problem) -> bool:
    return _ungrouped_float32(p) and gemm.tiles_image(p)


def _colour_image(p: Problem) -> bool:
    """Return whether it is a first layer of a colour image; its few products for each output make one fused loop."""
    return _ungrouped_float32(p) and p.channels <= 4 and p.features >= VECTOR and math.prod(p.window) * p.channels <= 36


def _volume_to_one_feature(p: Problem) -> bool:
    return _ungrouped_float32(p) and p.rank == 3 and p.features == 1 and p.channels <= 16


def _few_channels_and_features(p: Problem) -> bool:
    return _ungrouped_float32(p) and max(p.channels, p.features) <= VECTOR and 1 < math.prod(p.window) <= 25


def _strided_volume(p: Problem) -> bool:
    return _ungrouped_float32(p) and p.rank == 3 and max(p.strides) > 1 and math.prod(p.window) <= 27


def _small_window_of_volume(p: Problem) -> bool:
    return p.groups == 1 and p.rank == 3 and math.prod(p.window) <= 8


def _short_rows(p: Problem) -> bool:
    """Return whether the banded matrix that maps a row of the image to a row of the result is small."""
    row_in, row_out = p.spatial[-1] * p.channels, p.out[-1] * p.features
    return p.groups == 1 and max(p.channels, p.features) <= 16 and row_in * row_out <= 2**15


def _many_channels(p: Problem) -> bool:
    return p.groups == 1 and min(p.channels, p.features) >= 128


def _depthwise_strided_or_large(p: Problem) -> bool:
    """Return whether a depthwise convolution is strided, or has a small window over many positions."""
    taps, positions = math.prod(p.window), p.batch * math.prod(p.out)
    many = 2**12 if p.rank == 2 else 2**16
    return p.depthwise and (max(p.strides) > 1 and taps <= 32 or taps <= 9 and positions >= many)


def _large_images(p: Problem) -> bool:
    """Return whether a small batch has large images. XLA pads their channels to the 128 lanes of a TPU's vectors."""
    return p.groups == 1 and p.batch <= 32 and p.batch * math.prod(p.out) >= 2**16 and math.prod(p.window) <= 27


def _one_channel_in_or_out(p: Problem) -> bool:
    return _large_images(p) and min(p.channels, p.features) == 1 and max(p.channels, p.features) <= 16


def _from_one_channel(p: Problem) -> bool:
    return _one_channel_in_or_out(p) and (p.channels == 1 or p.channels * p.features <= 2)


def _to_few_features(p: Problem) -> bool:
    return _large_images(p) and p.rank == 2 and 1 < p.features <= 4 and 8 <= p.channels <= 16


def _window_tiles_large_image(p: Problem) -> bool:
    """Return whether windows tile a large image of few channels, so that padding them to 128 lanes is the main cost."""
    few_channels = p.groups == 1 and p.channels <= 4 and math.prod(p.window) > 1
    return few_channels and math.prod(p.spatial) >= 2**12 and gemm.tiles_image(p)


def _small_window_tiles_large_image(p: Problem) -> bool:
    return _window_tiles_large_image(p) and math.prod(p.window) <= 16


def _small_groups_tpu(p: Problem) -> bool:
    """Return whether its groups are small, except depthwise with one feature per channel, for which XLA has a loop."""
    is_grouped = max(p.channels, p.features) > p.groups > 1
    return is_grouped and min(p.channels, p.features) // p.groups <= (80 if block_diagonal.is_one_kernel(p) else 16)


def _small_groups_tpu_forward(p: Problem) -> bool:
    """Return whether its groups are small and XLA does not fill the matrix unit itself.

    XLA makes depthwise convolutions dense, and large windows with 128 features in each group fill the unit.
    """
    is_filled = p.features // p.groups >= 128 and math.prod(p.window) > 9
    return _small_groups_tpu(p) and not p.depthwise and not is_filled


def _bfloat16_sequence(p: Problem) -> bool:
    return p.rank == 1 and p.dtype == jnp.bfloat16


def _dilated_depthwise_sequence(p: Problem) -> bool:
    return p.rank == 1 and p.depthwise and p.kernel_dilation[0] > 1 and p.window[0] <= 32 and not p.dilates_input


def _depthwise_sequence(p: Problem) -> bool:
    return p.rank == 1 and taps.sums_each_tap(p)


def _large_windows_tile(p: Problem) -> bool:
    return p.groups == 1 and math.prod(p.window) >= gemm.LARGE and gemm.tiles_image(p)


def _large_tiles(p: Problem) -> bool:
    """Return whether large windows tile the result, as in the input gradient of a problem of `_large_windows_tile`."""
    return p.groups == 1 and math.prod(p.window) >= gemm.LARGE and p.window == p.input_dilation


# Rows that hold only with the engine, though their formulation does not need it.
_FEW_FEATURES_OF_ENGINE = "few features: neighbouring positions share the engine's vectors"
_FEW_OF_SEVERAL = "few features of several channels: neighbouring positions share the engine's vectors"
ENGINE_ROWS = (_FEW_FEATURES_OF_ENGINE, _FEW_OF_SEVERAL)
FORWARD = (
    ("taps", "depthwise, dilated input: a sum of what each output reads", lambda p: p.dilates_input and p.depthwise),
    ("subpixel", "a dilated input: no products with its zeros", _dilates_input),
    ("taps", "depthwise, a small dilated window of a large image: one fused loop", _small_dilated_depthwise),
    ("batch_vectorized", "few channels, a large window: sixteen images fill a vector", _one_channel_large_window),
    ("output_blocking", _FEW_OF_SEVERAL, _few_features_of_several_channels),
    ("taps", "few channels: one fused loop", _few_channels),
    ("taps", "groups of a channel or two: one fused loop", _groups_of_one_or_two_channels),
    ("swapped_operands", "few features, a window mostly on padding: images fill the engine's vectors", _mostly_padding),
    ("output_blocking", _FEW_FEATURES_OF_ENGINE, _output_blocking_saves_work),
    ("onednn", "jaxlib's own engine", lambda p: True),
    ("gemm", "one tap: a matrix product", _one_tap),
    ("gemm", "windows that tile the image: a matrix product", _ungrouped_tiles),
    ("gemm", "many channels, a window partly on padding: products of what is inside", _many_channels_skip_padding),
    ("winograd", "3 x 3, many channels: 16 products instead of 36", _winograd_saves_products),
    ("output_blocking", "few features: neighbouring positions are columns of one product", _blocks_fill_columns),
    ("taps", "an image in colours: one fused loop", _colour_image),
    ("taps", "one feature of a volume: one fused loop", _volume_to_one_feature),
    ("taps", "depthwise: one fused loop", lambda p: p.depthwise),
    ("taps", "small groups: one fused loop", _small_groups),
    ("taps", "many groups of few channels: one fused loop over the features of each", _many_groups_of_few_channels),
    ("gemm", "many groups: products batched over the groups", lambda p: p.groups > 16),
    ("planes", "a volume: a sum over planes", lambda p: not p.depthwise),
    ("groups", "a few groups: a convolution each", lambda p: True),
    ("lax", "XLA's own loop nest", lambda p: True),
)
KERNEL_GRADIENT = (
    ("subpixel", "a dilated input: the gradient of a strided convolution", _dilates_input),
    ("planes", "one channel of a volume: plane by plane", _one_channel_throughout),
    ("taps", "one channel of one image: sums over the positions", _one_channel_of_one_image),
    ("lax", "one channel, in and out or along a sequence: XLA's own loop nest", _one_channel_throughout),
    ("taps", "depthwise, strided or a large image: fused sums", _depthwise_strided_or_large),
    ("taps", "groups of a channel or two: fused sums", _groups_of_one_or_two_channels),
    ("lax", "a long dilated sequence: XLA's own loop nest", _long_dilated),
    ("channels_last", "a sequence of many channels: XLA's own loop nest", _wide_sequence),
    ("batch_vectorized", "few channels: sums of sixteen images fill a vector", _few_channel_pairs),
    ("taps", "one channel, a wide window, few features: sums over the positions", _one_channel_few_features),
    ("groups", "a few wide groups: a kernel gradient each", _few_wide_groups),
    ("lax", "few channels, one feature: XLA's own loop nest", _few_channels_one_feature),
    ("gemm", "few channels, small windows that tile the image: a matrix product", _small_tiles_of_few_channels),
    ("onednn", "jaxlib's own engine, the batch in the role of the channels", lambda p: True),
    ("taps", "depthwise: sums over the positions", lambda p: p.depthwise),
    ("gemm", "one tap: a matrix product", _one_tap),
    ("gemm", "windows that tile the image: a matrix product", _ungrouped_tiles),
    ("winograd", "3 x 3, many channels: 16 products instead of 36", _winograd_gradient_saves_products),
    ("taps", "few channels: sums over the positions", lambda p: p.groups == 1 and p.channels * p.features <= 8),
    ("batch_vectorized", "few channels: sums of sixteen images fill a vector", _few_channels_and_features),
    ("gemm", "a volume, strided: a matrix product for each tap", _strided_volume),
    ("toeplitz", "few channels: products of whole rows", _short_rows),
    ("gemm", "many channels: a matrix product for each tap", _many_channels),
    ("gemm", "a small window of a volume: a matrix product for each tap", _small_window_of_volume),
    ("taps", "small groups: sums over the positions", lambda p: p.groups > 1),
    ("gemm", "many groups: products batched over the groups", lambda p: p.groups > 16),
    ("planes", "a volume: a sum over planes", lambda p: not p.depthwise),
    ("groups", "a few groups: a convolution each", lambda p: True),
    ("lax", "XLA's own loop nest", lambda p: True),
)

_ONE_CHANNEL = "one channel, in or out, of a large image: products of pixels and weights"
_FEW_FEATURES = "a large image, few features: a matrix product for each tap"
_TILES = "windows that tile the image: a matrix product"
_SMALL_GROUPS = "small groups: several in one kernel fill the matrix unit"
TPU_FORWARD = (
    ("gemm", _ONE_CHANNEL, _one_channel_in_or_out),
    ("gemm", _FEW_FEATURES, _to_few_features),
    ("gemm", _TILES, _window_tiles_large_image),
    ("block_diagonal", _SMALL_GROUPS, _small_groups_tpu_forward),
    ("lax", "XLA's own on tpu", lambda p: True),
)
TPU_KERNEL_GRADIENT = (
    ("gemm", _ONE_CHANNEL, _from_one_channel),
    ("gemm", _FEW_FEATURES, _to_few_features),
    ("gemm", _TILES, _small_window_tiles_large_image),
    ("block_diagonal", _SMALL_GROUPS, _small_groups_tpu),
    ("lax", "XLA's own on tpu", lambda p: True),
)
# These rows follow reports by users of CUDA; convlab has not measured them. `benchmarks/gpu` can.
_LARGE_WINDOWS = "large windows side by side, for which cuDNN finds no fast algorithm (jax issues 30469, 23085)"
_NO_ALGORITHM = "a sequence in bfloat16, for which cuDNN finds no algorithm (jax issue 37922): an image of height 1"
_ZEROS = "a dilated sequence, 400 times PyTorch's time (jax issue 23783): no products with its zeros"
_TRANSPOSED = "a transposed convolution, 30 times PyTorch's time (jax issue 31662): the gradient of a strided one"
_DILATED = "a dilated depthwise sequence, slower than a dense one (jax issue 26266): one fused loop"
_AS_DEAR = "a depthwise sequence, whose gradient takes a dense one's time (jax issue 13800): a sum for each tap"
GPU_FORWARD = (
    ("taps", _DILATED, _dilated_depthwise_sequence),
    ("gemm", f"{_LARGE_WINDOWS}: a matrix product", _large_windows_tile),
    ("subpixel", f"{_LARGE_WINDOWS}: a matrix product", _large_tiles),
    ("subpixel", _ZEROS, lambda p: p.rank == 1 and p.dilates_input),
    ("extra_axis", _NO_ALGORITHM, _bfloat16_sequence),
    ("lax", "XLA's own on gpu", lambda p: True),
)
GPU_KERNEL_GRADIENT = (
    ("taps", _AS_DEAR, _depthwise_sequence),
    ("gemm", f"{_LARGE_WINDOWS}: a matrix product", _large_windows_tile),
    ("subpixel", _TRANSPOSED, lambda p: p.dilates_input and p.groups == 1),
    ("extra_axis", _NO_ALGORITHM, _bfloat16_sequence),
    ("lax", "XLA's own on gpu", lambda p: True),
)
# For integers on the CPU.
INTEGERS = (("floats", "bytes: float32 represents every sum exactly", lambda p: True),)
TABLES: dict[str, dict[Kind, tuple[Row, ...]]] = {
    "cpu": {"forward": FORWARD, "kernel_gradient": KERNEL_GRADIENT},
    "tpu": {"forward": TPU_FORWARD, "kernel_gradient": TPU_KERNEL_GRADIENT},
    "gpu": {"forward": GPU_FORWARD, "kernel_gradient": GPU_KERNEL_GRADIENT},
}


@dataclasses.dataclass(frozen=True)
class Target:
    """The platform that a program is lowered for, and the parts that it may contain."""

    platform: str = "cpu"
    engine: bool = True  # the program may call the engine
    partitioned: bool = False  # XLA will split the program over devices
    measured: bool = False  # choices measured on this device come before the table's

    def admits(self, formulation: Formulation) -> bool:
        """Return whether the program may contain the formulation."""
        if formulation.needs_engine and not (self.engine and self.platform == "cpu"):
            return False
        return not (formulation.splits_batch and self.partitioned)


@dataclasses.dataclass(frozen=True)
class Choice:
    """The formulation of a problem, and why it was chosen."""

    formulation: Formulation
    reason: str


def choose(kind: Kind, p: Problem, method: str, target: Target, without: str = "") -> Choice:
    """Return the formulation `method` if it is supported, else that of the first matching row of the platform's table.

    `without` names a formulation that must not be chosen: the one whose inner convolution this is.
    """
    requested = FORMULATIONS.get(method)
    if requested and target.admits(requested) and requested.unsupported_reason(kind, p) is None:
        return Choice(requested, REQUESTED)
    floating = jnp.issubdtype(p.dtype, jnp.floating)
    rows = TABLES[target.platform][kind] if floating else INTEGERS if target.platform == "cpu" else ()
    for name, reason, condition in rows:
        formulation = FORMULATIONS[name]
        admitted = target.admits(formulation) and (target.engine or reason not in ENGINE_ROWS)
        if name == without or not admitted or not condition(p):
            continue
        if formulation.unsupported_reason(kind, p) is None:
            return Choice(formulation, reason)
    return Choice(LAX, f"XLA's own on {target.platform}" if floating else "not a real floating dtype")
