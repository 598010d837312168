"""The tables that choose a formulation for a convolution, by its static sizes and dtypes.

`dispatch` and `lowering` call `choose`. A row is (formulation, reason, condition); rows are read from top to bottom,
and the first one wins whose condition holds and whose formulation can serve the problem. The CPU's rows come from
measurements, the TPU's from its compiler's estimates. On a GPU lax computes all convolutions except forms that users
report as slow or missing.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import jax.numpy as jnp

from .formulations import block_diagonal, gemm, onednn, output_blocking, planes, swapped_operands
from .formulations.base import VECTOR, Formulation
from .formulations.batch_vectorized import BATCH_VECTORIZED
from .formulations.explicit_zeros import EXPLICIT_ZEROS
from .formulations.extra_axis import EXTRA_AXIS
from .formulations.fft import FFT
from .formulations.floats import FLOATS
from .formulations.groups import GROUPS
from .formulations.lax import CHANNELS_LAST, LAX
from .formulations.subpixel import SUBPIXEL
from .formulations.taps import TAPS
from .formulations.toeplitz import TOEPLITZ
from .formulations.winograd import WINOGRAD
from .problem import Kind, Problem

FORMULATIONS: dict[str, Formulation] = {
    formulation.name: formulation
    for formulation in (
        LAX,
        CHANNELS_LAST,
        onednn.ONEDNN,
        TAPS,
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


def _strided_gradient(p: Problem) -> bool:
    return p.dilates_input


def _one_tap(p: Problem) -> bool:
    return p.groups == 1 and math.prod(p.window) == 1


def _few(p: Problem) -> bool:
    """Whether there are so few channels that only the pixels can fill a vector."""
    return p.groups == 1 and p.channels * p.features <= 16 and math.prod(p.window) <= 25


def _few_wide(p: Problem) -> bool:
    """Whether it is a first layer with a window large enough to outweigh the two changes of layout."""
    return _few(p) and p.channels == 1 and p.rank >= 2 and math.prod(p.window) >= 16


def _few_pairs(p: Problem) -> bool:
    return p.groups == 1 and p.features < VECTOR and p.channels * p.features <= 32 and 1 < math.prod(p.window) <= 64


def _mostly_padding(p: Problem) -> bool:
    few = p.groups == 1 and p.rank >= 2 and p.features <= VECTOR and p.batch >= 128
    plain = all(n == 1 for n in (*p.strides, *p.input_dilation, *p.kernel_dilation))
    return few and plain and swapped_operands.fraction_inside(p) <= 0.7


def _blocks_pay(p: Problem) -> bool:
    few = p.groups == 1 and p.features <= VECTOR // 2 and p.macs >= 2**20
    serves = few and onednn.forward_unsupported(p) is None and output_blocking.forward_unsupported(p) is None
    return serves and output_blocking.remaining_work(p) <= 0.8


def _single_channel(p: Problem) -> bool:
    return p.channels == 1 and (p.features == 1 or p.rank == 1)


def _first_layer(p: Problem) -> bool:
    return p.channels == 1 and 1 < p.features <= 8 and 16 <= math.prod(p.window) <= 64


def _long_dilated(p: Problem) -> bool:
    """Whether the engine would have to split the sum of a dilated sequence, which lax's loop nest computes as fast."""
    return p.rank == 1 and p.groups == 1 and p.kernel_dilation[0] > 1 and p.batch * p.out[0] > onednn.LONGEST_SUM


def _thin(p: Problem) -> bool:
    """Whether it has groups of one or two channels."""
    return p.groups > 1 and not p.depthwise and (p.channels // p.groups) * (p.features // p.groups) <= 4


def _few_wide_groups(p: Problem) -> bool:
    wide = min(p.channels, p.features) >= 16 * p.groups
    return 1 < p.groups <= 8 and wide and p.rank <= 2 and p.dtype == jnp.float32


def _small_groups(p: Problem) -> bool:
    return p.groups > 1 and (p.channels // p.groups) * (p.features // p.groups) <= 16


def _single(p: Problem) -> bool:
    """Whether it is in float32 without groups: what the rows for programs without the engine were measured on."""
    return p.dtype == jnp.float32 and p.groups == 1


def _winograd_pays(p: Problem) -> bool:
    """Whether there are so many channels and positions that fewer products outweigh the transforms."""
    return min(p.channels, p.features) >= 64 and _winograd_sums_pay(p)


def _winograd_sums_pay(p: Problem) -> bool:
    tiles = p.batch * math.prod(p.out) // 4
    return _single(p) and tiles >= max(p.channels, p.features) and min(p.channels, p.features) >= 32


def _tiled(p: Problem) -> bool:
    return _single(p) and gemm.tiles_image(p)


def _colours(p: Problem) -> bool:
    """Whether it is a first layer of an image in colours, whose few products for each output make one fused loop."""
    return _single(p) and p.channels <= 4 and p.features >= VECTOR and math.prod(p.window) * p.channels <= 36


def _to_one(p: Problem) -> bool:
    return _single(p) and p.rank == 3 and p.features == 1 and p.channels <= 16


def _few_sums(p: Problem) -> bool:
    return _single(p) and max(p.channels, p.features) <= VECTOR and 1 < math.prod(p.window) <= 25


def _strided_volume(p: Problem) -> bool:
    return _single(p) and p.rank == 3 and max(p.strides) > 1 and math.prod(p.window) <= 27


def _banded(p: Problem) -> bool:
    row_in, row_out = p.spatial[-1] * p.channels, p.out[-1] * p.features
    return p.groups == 1 and max(p.channels, p.features) <= 16 and row_in * row_out <= 2**15


def _wide(p: Problem) -> bool:
    return p.groups == 1 and min(p.channels, p.features) >= 128


def _short_sums(p: Problem) -> bool:
    """Whether it is depthwise and its gradient is few sums over a large image, or is strided."""
    taps, positions = math.prod(p.window), p.batch * math.prod(p.out)
    return p.depthwise and (max(p.strides) > 1 and taps <= 32 or taps <= 9 and positions >= 2**16)


def _large(p: Problem) -> bool:
    """Whether it is a small batch of large images, whose channels XLA lays out in a TPU's lanes, each padded to 128."""
    return p.groups == 1 and p.batch <= 32 and p.batch * math.prod(p.out) >= 2**16 and math.prod(p.window) <= 27


def _one_channel(p: Problem) -> bool:
    return _large(p) and min(p.channels, p.features) == 1 and max(p.channels, p.features) <= 16


def _from_one(p: Problem) -> bool:
    return _one_channel(p) and (p.channels == 1 or p.channels * p.features <= 2)


def _to_few(p: Problem) -> bool:
    return _large(p) and p.rank == 2 and 1 < p.features <= 4 and 8 <= p.channels <= 16


def _patches(p: Problem) -> bool:
    """Whether windows tile an image so large that XLA's layout of it, few channels to 128 lanes, is the main cost."""
    few = p.groups == 1 and p.channels <= 4 and math.prod(p.window) > 1
    return few and math.prod(p.spatial) >= 2**12 and gemm.tiles_image(p)


def _small_patches(p: Problem) -> bool:
    return _patches(p) and math.prod(p.window) <= 16


def _narrow(p: Problem) -> bool:
    """Whether it has small groups, except depthwise ones with one feature, which XLA computes in a loop of its own."""
    many = max(p.channels, p.features) > p.groups > 1
    return many and min(p.channels, p.features) // p.groups <= (80 if block_diagonal.is_one_kernel(p) else 16)


def _narrow_sums(p: Problem) -> bool:
    """Whether it is `_narrow`, except depthwise ones, which XLA makes dense itself, and wide windows with 128 features
    in each group."""
    filled = p.features // p.groups >= 128 and math.prod(p.window) > 9
    return _narrow(p) and not p.depthwise and not filled


def _dilated_sequence(p: Problem) -> bool:
    return p.rank == 1 and p.dilates_input


def _ungrouped_gradient(p: Problem) -> bool:
    return p.dilates_input and p.groups == 1


def _narrow_sequence(p: Problem) -> bool:
    return p.rank == 1 and p.dtype == jnp.bfloat16


FORWARD = (
    (
        "taps",
        "depthwise, dilated input: each output sums the inputs that it reads",
        lambda p: _strided_gradient(p) and p.depthwise,
    ),
    ("subpixel", "a dilated input: no products with its zeros", _strided_gradient),
    ("batch_vectorized", "few channels, a wide window: sixteen images fill a vector", _few_wide),
    ("taps", "few channels: one fused loop", _few),
    ("taps", "groups of a channel or two: one fused loop", _thin),
    ("swapped_operands", "few features, a window mostly on padding: images fill the engine's vectors", _mostly_padding),
    ("output_blocking", "few features: neighbouring positions share the engine's vectors", _blocks_pay),
    ("onednn", "jaxlib's own engine", lambda p: True),
    ("gemm", "one tap: a matrix product", _one_tap),
    ("gemm", "windows that tile the image: a matrix product", _tiled),
    ("winograd", "3 x 3, many channels: 16 products instead of 36", _winograd_pays),
    ("taps", "an image in colours: one fused loop", _colours),
    ("taps", "one feature of a volume: one fused loop", _to_one),
    ("taps", "depthwise: one fused loop", lambda p: p.depthwise),
    ("taps", "small groups: one fused loop", _small_groups),
    ("gemm", "many groups: products batched over the groups", lambda p: p.groups > 16),
    ("planes", "a volume: a sum over planes", lambda p: not p.depthwise),
    ("groups", "a few groups: a convolution each", lambda p: True),
    ("lax", "XLA's own loop nest", lambda p: True),
)
KERNEL_GRADIENT = (
    ("subpixel", "a dilated input: the gradient of a strided convolution", _strided_gradient),
    ("planes", "one channel of a volume: plane by plane", _single_channel),
    ("lax", "one channel, in and out or along a sequence: XLA's own loop nest", _single_channel),
    ("taps", "depthwise, strided or a large image: fused sums", _short_sums),
    ("taps", "groups of a channel or two: fused sums", _thin),
    ("lax", "a long dilated sequence: XLA's own loop nest", _long_dilated),
    ("batch_vectorized", "few channels: sums of sixteen images fill a vector", _few_pairs),
    ("taps", "one channel, a wide window, few features: sums over the positions", _first_layer),
    ("groups", "a few wide groups: a kernel gradient each", _few_wide_groups),
    ("onednn", "jaxlib's own engine, the batch in the role of the channels", lambda p: True),
    ("taps", "depthwise: sums over the positions", lambda p: p.depthwise),
    ("gemm", "one tap: a matrix product", _one_tap),
    ("gemm", "windows that tile the image: a matrix product", _tiled),
    ("winograd", "3 x 3, many channels: 16 products instead of 36", _winograd_sums_pay),
    ("taps", "few channels: sums over the positions", lambda p: p.groups == 1 and p.channels * p.features <= 8),
    ("batch_vectorized", "few channels: sums of sixteen images fill a vector", _few_sums),
    ("gemm", "a volume, strided: a matrix product for each tap", _strided_volume),
    ("toeplitz", "few channels: products of whole rows", _banded),
    ("gemm", "many channels: a matrix product for each tap", _wide),
    (
        "gemm",
        "a small window of a volume: a matrix product for each tap",
        lambda p: p.groups == 1 and p.rank == 3 and math.prod(p.window) <= 8,
    ),
    ("taps", "small groups: sums over the positions", lambda p: p.groups > 1),
    ("gemm", "many groups: products batched over the groups", lambda p: p.groups > 16),
    ("planes", "a volume: a sum over planes", lambda p: not p.depthwise),
    ("groups", "a few groups: a convolution each", lambda p: True),
    ("lax", "XLA's own loop nest", lambda p: True),
)

_IN_LANES = "one channel, in or out, of a large image: products of pixels and weights"
_TO_FEW = "a large image, few features: a matrix product for each tap"
_MATRIX = "windows that tile the image: a matrix product"
_FILLED = "small groups: several in one kernel fill the matrix unit"
TPU_FORWARD = (
    ("gemm", _IN_LANES, _one_channel),
    ("gemm", _TO_FEW, _to_few),
    ("gemm", _MATRIX, _patches),
    ("block_diagonal", _FILLED, _narrow_sums),
    ("lax", "XLA's own on tpu", lambda p: True),
)
TPU_KERNEL_GRADIENT = (
    ("gemm", _IN_LANES, _from_one),
    ("gemm", _TO_FEW, _to_few),
    ("gemm", _MATRIX, _small_patches),
    ("block_diagonal", _FILLED, _narrow),
    ("lax", "XLA's own on tpu", lambda p: True),
)
# These rows follow reports by users of CUDA; convlab has not measured them. `benchmarks/gpu` can.
_NO_ALGORITHM = "a sequence in bfloat16, for which cuDNN finds no algorithm (jax issue 37922): an image of height 1"
GPU_FORWARD = (
    (
        "subpixel",
        "a dilated sequence, 400 times PyTorch's time (jax issue 23783): no products with its zeros",
        _dilated_sequence,
    ),
    ("extra_axis", _NO_ALGORITHM, _narrow_sequence),
    ("lax", "XLA's own on gpu", lambda p: True),
)
GPU_KERNEL_GRADIENT = (
    (
        "subpixel",
        "a transposed convolution, 30 times PyTorch's time (jax issue 31662): the gradient of a strided convolution",
        _ungrouped_gradient,
    ),
    ("extra_axis", _NO_ALGORITHM, _narrow_sequence),
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
    """What a program is lowered for, and what it may contain."""

    platform: str = "cpu"
    engine: bool = True  # the program may call the engine
    partitioned: bool = False  # XLA will split the program over devices
    measured: bool = False  # choices measured on this device come before the table's

    def admits(self, formulation: Formulation) -> bool:
        """Whether the program may contain the formulation."""
        if formulation.needs_engine and not (self.engine and self.platform == "cpu"):
            return False
        return not (formulation.splits_batch and self.partitioned)


@dataclasses.dataclass(frozen=True)
class Choice:
    """The formulation that serves a problem, and why it was chosen."""

    formulation: Formulation
    reason: str


def choose(kind: Kind, p: Problem, method: str, target: Target, without: str = "") -> Choice:
    """Return the formulation `method` if it can serve, else that of the first matching row of the platform's table.

    `without` names a formulation that must not be chosen: the one whose inner convolution this is.
    """
    requested = FORMULATIONS.get(method)
    if requested and target.admits(requested) and requested.unsupported_reason(kind, p) is None:
        return Choice(requested, REQUESTED)
    floating = jnp.issubdtype(p.dtype, jnp.floating)
    rows = TABLES[target.platform][kind] if floating else INTEGERS if target.platform == "cpu" else ()
    for name, reason, condition in rows:
        formulation = FORMULATIONS[name]
        if name == without or not target.admits(formulation) or not condition(p):
            continue
        if formulation.unsupported_reason(kind, p) is None:
            return Choice(formulation, reason)
    return Choice(LAX, f"XLA's own on {target.platform}" if floating else "not a real floating dtype")
