"""The types of options, for annotations in users' code: `from convlab.typing import Padding`.

They tell a type checker which values an option may have. The functions also accept NumPy's integers and arrays.
"""

from collections.abc import Sequence
from typing import Literal, TypeAlias

__all__ = [
    "BorderMode",
    "Floats",
    "Interpolation",
    "Ints",
    "Method",
    "OptionalInts",
    "Padding",
    "PaddingMode",
    "PaddingModes",
    "Reduce",
    "Sampling",
]

# One int for every spatial axis, or one per axis; the sizes of an adaptive pool, where None keeps an axis; numbers.
Ints: TypeAlias = int | Sequence[int]
OptionalInts: TypeAlias = int | None | Sequence[int | None]
Floats: TypeAlias = float | Sequence[float]

# How much to pad: a name in either case, an int, or one int or (before, after) pair per axis.
Padding: TypeAlias = str | int | Sequence[int | Sequence[int]]

# The values of padding, on every axis or one per axis.
PaddingMode: TypeAlias = Literal["zeros", "constant", "reflect", "replicate", "circular"]
PaddingModes: TypeAlias = PaddingMode | Sequence[PaddingMode]

# The formulation of a convolution.
Method: TypeAlias = Literal[
    "auto",
    "lax",
    "onednn",
    "taps",
    "batch_vectorized",
    "gemm",
    "block_diagonal",
    "im2col",
    "toeplitz",
    "winograd",
    "fft",
    "swapped_operands",
    "output_blocking",
    "subpixel",
]

# How a pyramid reduces the elements of a bin.
Reduce: TypeAlias = Literal["max", "avg"]

# The `method` of `resize` and of `grid_sample`, and the values that `grid_sample` reads beyond the border.
Interpolation: TypeAlias = Literal[
    "nearest", "nearest-exact", "linear", "cubic", "area", "bilinear", "trilinear", "bicubic"
]
Sampling: TypeAlias = Literal["nearest", "linear", "cubic", "bilinear", "trilinear", "bicubic"]
BorderMode: TypeAlias = Literal["zeros", "border", "reflection"]
