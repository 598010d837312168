"""The tables that choose a formulation for a convolution, by its static sizes and dtypes.

`dispatch` and `lowering` call `choose`. A row is (formulation, reason, condition); rows are read from top to bottom,
and the first one is taken whose condition holds and whose formulation supports the problem. The CPU's rows come from
measurements, the TPU's from its compiler's estimates. On a GPU lax computes all convolutions except forms that users
report as slow or missing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax.numpy as jnp

from . import conditions as when
from .formulations import block_diagonal, gemm, onednn, output_blocking, planes, swapped_operands, taps
from .formulations.base import Formulation
from .formulations.batch_vectorized import BATCH_VECTORIZED
from .formulations.explicit_zeros import EXPLICIT_ZEROS
from .formulations.extra_axis import EXTRA_AXIS
from .formulations.fft import FFT
from .formulations.floats import FLOATS
from .formulations.groups import GROUPS
from .formulations.im2col import IM2COL
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
        IM2COL,
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

# Rows that hold only with the engine, though their formulation does not need it.
_FEW_FEATURES_OF_ENGINE = "few features: neighbouring positions share the engine's vectors"
_FEW_OF_SEVERAL = "few features of several channels: neighbouring positions share the engine's vectors"
ENGINE_ROWS = (_FEW_FEATURES_OF_ENGINE, _FEW_OF_SEVERAL)
FORWARD = (
    ("taps", "depthwise, dilated input: a sum of what each output reads", lambda p: p.dilates_input and p.depthwise),
    ("subpixel", "a dilated input: no products with its zeros", when.dilates_input),
    ("taps", "depthwise, a small dilated window of a large image: one fused loop", when.small_dilated_depthwise),
    ("batch_vectorized", "few channels, a large window: sixteen images fill a vector", when.one_channel_large_window),
    ("output_blocking", _FEW_OF_SEVERAL, when.few_features_of_several_channels),
    ("taps", "few channels: one fused loop", when.few_channels),
    ("taps", "groups of a channel or two: one fused loop", when.groups_of_one_or_two_channels),
    (
        "swapped_operands",
        "few features, a window mostly on padding: images fill the engine's vectors",
        when.mostly_padding,
    ),
    ("output_blocking", _FEW_FEATURES_OF_ENGINE, when.output_blocking_saves_work),
    ("onednn", "jaxlib's own engine", lambda p: True),
    ("gemm", "one tap: a matrix product", when.one_tap),
    ("gemm", "windows that tile the image: a matrix product", when.ungrouped_tiles),
    ("gemm", "many channels, a window partly on padding: products of what is inside", when.many_channels_skip_padding),
    ("winograd", "3 x 3, many channels: 16 products instead of 36", when.winograd_saves_products),
    ("output_blocking", "few features: neighbouring positions are columns of one product", when.blocks_fill_columns),
    ("taps", "an image in colours: one fused loop", when.colour_image),
    ("taps", "one feature of a volume: one fused loop", when.volume_to_one_feature),
    ("taps", "depthwise: one fused loop", lambda p: p.depthwise),
    ("taps", "small groups: one fused loop", when.small_groups),
    ("taps", "many groups of few channels: one fused loop over the features of each", when.many_groups_of_few_channels),
    ("gemm", "many groups: products batched over the groups", lambda p: p.groups > 16),
    ("planes", "a volume: convolutions of planes, to the features of several taps", lambda p: not p.depthwise),
    ("groups", "a few groups: a convolution each", lambda p: True),
    ("lax", "XLA's own loop nest", lambda p: True),
)
KERNEL_GRADIENT = (
    ("subpixel", "a dilated input: the gradient of a strided convolution", when.dilates_input),
    ("planes", "one channel of a volume: plane by plane", when.one_channel_throughout),
    ("taps", "one channel of one image: sums over the positions", when.one_channel_of_one_image),
    ("im2col", "one channel of sequences, many features: products of stored windows", when.sequence_to_many_features),
    ("lax", "one channel, in and out or along a sequence: XLA's own loop nest", when.one_channel_throughout),
    ("taps", "depthwise, strided or a large image: fused sums", when.depthwise_strided_or_large),
    ("taps", "groups of a channel or two: fused sums", when.groups_of_one_or_two_channels),
    ("lax", "a long dilated sequence: XLA's own loop nest", when.long_dilated),
    ("channels_last", "a sequence of many channels: XLA's own loop nest", when.wide_sequence),
    ("batch_vectorized", "few channels: sums of sixteen images fill a vector", when.few_channel_pairs),
    ("taps", "one channel, a wide window, few features: sums over the positions", when.one_channel_few_features),
    ("groups", "a few wide groups: a kernel gradient each", when.few_wide_groups),
    ("lax", "few channels, one feature: XLA's own loop nest", when.few_channels_one_feature),
    ("gemm", "few channels, small windows that tile the image: a matrix product", when.small_tiles_of_few_channels),
    ("onednn", "jaxlib's own engine, the batch in the role of the channels", lambda p: True),
    ("taps", "depthwise: sums over the positions", lambda p: p.depthwise),
    ("gemm", "one tap: a matrix product", when.one_tap),
    ("gemm", "windows that tile the image: a matrix product", when.ungrouped_tiles),
    ("winograd", "3 x 3, many channels: 16 products instead of 36", when.winograd_gradient_saves_products),
    ("taps", "few channels: sums over the positions", lambda p: p.groups == 1 and p.channels * p.features <= 8),
    ("batch_vectorized", "few channels: sums of sixteen images fill a vector", when.few_channels_and_features),
    ("im2col", "a first layer: products of its windows, stored for a part of the image at a time", when.first_layer),
    ("gemm", "a volume, strided: a matrix product for each tap", when.strided_volume),
    ("toeplitz", "few channels: products of whole rows", when.short_rows),
    ("gemm", "many channels: a matrix product for each tap", when.many_channels),
    ("gemm", "a small window of a volume: a matrix product for each tap", when.small_window_of_volume),
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
    ("gemm", _ONE_CHANNEL, when.one_channel_in_or_out),
    ("gemm", _FEW_FEATURES, when.to_few_features),
    ("gemm", _TILES, when.window_tiles_large_image),
    ("block_diagonal", _SMALL_GROUPS, when.small_groups_tpu_forward),
    ("lax", "XLA's own on tpu", lambda p: True),
)
TPU_KERNEL_GRADIENT = (
    ("gemm", _ONE_CHANNEL, when.from_one_channel),
    ("gemm", _FEW_FEATURES, when.to_few_features),
    ("gemm", _TILES, when.small_window_tiles_large_image),
    ("block_diagonal", _SMALL_GROUPS, when.small_groups_tpu),
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
    ("taps", _DILATED, when.dilated_depthwise_sequence),
    ("gemm", f"{_LARGE_WINDOWS}: a matrix product", when.large_windows_tile),
    ("subpixel", f"{_LARGE_WINDOWS}: a matrix product", when.large_tiles),
    ("subpixel", _ZEROS, lambda p: p.rank == 1 and p.dilates_input),
    ("extra_axis", _NO_ALGORITHM, when.bfloat16_sequence),
    ("lax", "XLA's own on gpu", lambda p: True),
)
GPU_KERNEL_GRADIENT = (
    ("taps", _AS_DEAR, when.depthwise_sequence),
    ("gemm", f"{_LARGE_WINDOWS}: a matrix product", when.large_windows_tile),
    ("subpixel", _TRANSPOSED, lambda p: p.dilates_input and p.groups == 1),
    ("extra_axis", _NO_ALGORITHM, when.bfloat16_sequence),
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
