"""Which formulation serves a convolution: tables read from top to bottom, static facts only; for the CPU as measured,
for TPU as its compiler estimates; on a GPU every convolution is lax's but for forms that users report as slow or
missing.

A row is (formulation, reason, condition). The first row wins whose condition holds, whose formulation can serve the
problem, and which is direct summation if the precision is "highest".
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
    """So few channels that a vector unit has little to hold but the pixels themselves."""
    return p.groups == 1 and p.channels * p.features <= 16 and math.prod(p.window) <= 25


def _few_wide(p: Problem) -> bool:
    """A first layer, with a window whose sums outweigh the two changes of layout."""
    return _few(p) and p.channels == 1 and p.rank >= 2 and math.prod(p.window) >= 16


def _few_pairs(p: Problem) -> bool:
    return p.groups == 1 and p.features < VECTOR and p.channels * p.features <= 32 and 1 < math.prod(p.window) <= 64


def _overhanging(p: Problem) -> bool:
    few = p.groups == 1 and p.rank >= 2 and p.features <= VECTOR and p.batch >= 128
    return (
        few
        and max(p.strides) == 1
        and max(*p.input_dilation, *p.kernel_dilation) == 1
        and swapped_operands.fraction_inside(p) <= 0.7
    )


def _packs(p: Problem) -> bool:
    few = p.groups == 1 and p.features <= VECTOR // 2 and p.macs >= 2**20
    return (
        few
        and onednn.forward_unsupported(p) is None
        and output_blocking.forward_unsupported(p) is None
        and output_blocking.remaining_work(p) <= 0.8
    )


def _single_channel(p: Problem) -> bool:
    return p.channels == 1 and (p.features == 1 or p.rank == 1)


def _first_layer(p: Problem) -> bool:
    return p.channels == 1 and 1 < p.features <= 8 and 16 <= math.prod(p.window) <= 64


def _long_dilated(p: Problem) -> bool:
    """Where the engine would have to split the sum, and lax's nest does not suffer."""
    return p.rank == 1 and p.groups == 1 and p.kernel_dilation[0] > 1 and p.batch * p.out[0] > onednn.LONGEST_SUM


def _thin(p: Problem) -> bool:
    """Groups of a channel or two."""
    return p.groups > 1 and not p.depthwise and (p.channels // p.groups) * (p.features // p.groups) <= 4


def _small_groups(p: Problem) -> bool:
    return p.groups > 1 and (p.channels // p.groups) * (p.features // p.groups) <= 16


def _banded(p: Problem) -> bool:
    row_in, row_out = p.spatial[-1] * p.channels, p.out[-1] * p.features
    return p.groups == 1 and max(p.channels, p.features) <= 16 and row_in * row_out <= 2**15


def _wide(p: Problem) -> bool:
    return p.groups == 1 and min(p.channels, p.features) >= 128


def _short_sums(p: Problem) -> bool:
    """Depthwise gradients that are a handful of sums over a large image, or a strided one."""
    taps, places = math.prod(p.window), p.batch * math.prod(p.out)
    return p.depthwise and (max(p.strides) > 1 and taps <= 32 or taps <= 9 and places >= 2**16)


def _large(p: Problem) -> bool:
    """A large image of a small batch, which XLA lays out with the channels in the lanes of a TPU, 128 for one."""
    return p.groups == 1 and p.batch <= 32 and p.batch * math.prod(p.out) >= 2**16 and math.prod(p.window) <= 27


def _one_channel(p: Problem) -> bool:
    return _large(p) and min(p.channels, p.features) == 1 and max(p.channels, p.features) <= 16


def _from_one(p: Problem) -> bool:
    return _one_channel(p) and (p.channels == 1 or p.channels * p.features <= 2)


def _to_few(p: Problem) -> bool:
    return _large(p) and p.rank == 2 and 1 < p.features <= 4 and 8 <= p.channels <= 16


def _patches(p: Problem) -> bool:
    """Of an image so large that XLA's layout of it, a channel to 128 lanes, outweighs that of the matrix."""
    return (
        p.groups == 1
        and p.channels <= 4
        and math.prod(p.window) > 1
        and math.prod(p.spatial) >= 2**12
        and gemm.tiles_image(p)
    )


def _small_patches(p: Problem) -> bool:
    return _patches(p) and math.prod(p.window) <= 16


def _narrow(p: Problem) -> bool:
    """Small groups, but for those of one channel in and out, which XLA has a loop of its own for."""
    many = max(p.channels, p.features) > p.groups > 1
    return many and min(p.channels, p.features) // p.groups <= (80 if block_diagonal.is_one_kernel(p) else 16)


def _narrow_sums(p: Problem) -> bool:
    """`_narrow`, but for one channel and several features, which XLA makes dense itself, and wide windows of 128
    features."""
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
        "depthwise, dilated input: each place adds up what reaches it",
        lambda p: _strided_gradient(p) and p.depthwise,
    ),
    ("subpixel", "a dilated input: no tap meets a stuffed zero", _strided_gradient),
    ("batch_vectorized", "few channels, a wide window: sixteen images fill a vector", _few_wide),
    ("taps", "few channels: one fused loop", _few),
    ("taps", "groups of a channel or two: one fused loop", _thin),
    (
        "swapped_operands",
        "few features, a window mostly over the edges: images fill the engine's vectors",
        _overhanging,
    ),
    ("output_blocking", "few features: neighbouring places share the engine's vectors", _packs),
    ("onednn", "jaxlib's own engine", lambda p: True),
    ("gemm", "one tap: a matrix product", _one_tap),
    ("taps", "depthwise: one fused loop", lambda p: p.depthwise),
    ("taps", "small groups: one fused loop", _small_groups),
    ("gemm", "many groups: products batched over the groups", lambda p: p.groups > 16),
    ("planes", "a volume: a sum over planes", lambda p: not p.depthwise),
    ("groups", "a few groups: a convolution each", lambda p: True),
    ("lax", "XLA's own loop nest", lambda p: True),
)
KERNEL_GRADIENT = (
    ("subpixel", "a dilated input: the mirrored strided convolution", _strided_gradient),
    ("planes", "one channel of a volume: plane by plane", _single_channel),
    ("lax", "one channel, in and out or along a sequence: XLA's own loop nest", _single_channel),
    ("taps", "depthwise, strided or a large image: fused sums", _short_sums),
    ("taps", "groups of a channel or two: fused sums", _thin),
    ("lax", "a long dilated sequence: XLA's own loop nest", _long_dilated),
    ("batch_vectorized", "few channels: sums of sixteen images side by side", _few_pairs),
    ("taps", "one channel, a wide window, few features: sums over the positions", _first_layer),
    ("onednn", "jaxlib's own engine, the batch in the place of the channels", lambda p: True),
    ("taps", "depthwise: sums over the positions", lambda p: p.depthwise),
    ("gemm", "one tap: a matrix product", _one_tap),
    ("taps", "few channels: sums over the positions", lambda p: p.groups == 1 and p.channels * p.features <= 8),
    ("toeplitz", "few channels: rows times rows", _banded),
    ("gemm", "wide channels: one product a tap", _wide),
    ("gemm", "a small volume: one product a tap", lambda p: p.groups == 1 and p.rank == 3 and math.prod(p.window) <= 8),
    ("taps", "small groups: sums over the positions", lambda p: p.groups > 1),
    ("gemm", "many groups: products batched over the groups", lambda p: p.groups > 16),
    ("planes", "a volume: a sum over planes", lambda p: not p.depthwise),
    ("groups", "a few groups: a convolution each", lambda p: True),
    ("lax", "XLA's own loop nest", lambda p: True),
)

_IN_LANES = "one channel, in or out, of a large image: products of pixels and weights"
_TO_FEW = "a large image, few features: a product for each tap"
_MATRIX = "a window that equals its strides: a matrix product"
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
# From what users of CUDA report; none of it was measured by convlab. `benchmarks/gpu` can.
_NO_ALGORITHM = (
    "a sequence in bfloat16, for which cuDNN finds no algorithm (jax issue 37922): an image with an axis of one"
)
GPU_FORWARD = (
    ("subpixel", "a dilated sequence, 400 times PyTorch's time (jax issue 23783): no stuffed zeros", _dilated_sequence),
    ("extra_axis", _NO_ALGORITHM, _narrow_sequence),
    ("lax", "XLA's own on gpu", lambda p: True),
)
GPU_KERNEL_GRADIENT = (
    (
        "subpixel",
        "of a transposed convolution, 30 times PyTorch's time (jax issue 31662): the mirrored strided convolution",
        _ungrouped_gradient,
    ),
    ("extra_axis", _NO_ALGORITHM, _narrow_sequence),
    ("lax", "XLA's own on gpu", lambda p: True),
)
# Of integers, on the CPU.
INTEGERS = (("floats", "bytes: float32 holds every sum", lambda p: True),)
TABLES: dict[str, dict[Kind, tuple[Row, ...]]] = {
    "cpu": {"forward": FORWARD, "kernel_gradient": KERNEL_GRADIENT},
    "tpu": {"forward": TPU_FORWARD, "kernel_gradient": TPU_KERNEL_GRADIENT},
    "gpu": {"forward": GPU_FORWARD, "kernel_gradient": GPU_KERNEL_GRADIENT},
}


@dataclasses.dataclass(frozen=True)
class Target:
    """For what a program is lowered, and what it may hold."""

    platform: str = "cpu"
    engine: bool = True  # a call of the engine may be in it
    partitioned: bool = False  # XLA will split it over devices
    measured: bool = False  # choices measured on this device come before the table's

    def admits(self, formulation: Formulation) -> bool:
        if formulation.needs_engine and not (self.engine and self.platform == "cpu"):
            return False
        return not (formulation.splits_batch and self.partitioned)


@dataclasses.dataclass(frozen=True)
class Choice:
    """What serves a problem, and why."""

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
