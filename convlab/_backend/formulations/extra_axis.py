"""The formulation `extra_axis`: convolve a sequence as an image of height 1, for which cuDNN has more algorithms."""

from __future__ import annotations

from ..problem import Kind, Problem
from .base import Array, Formulation, Part, Solve


def unsupported(p: Problem) -> str | None:
    return None if p.rank == 1 else "extra_axis is for one spatial axis"


def parts(kind: Kind, p: Problem) -> list[Part]:
    return [(kind, p.with_unit_axis())]


def forward(x: Array, kernel: Array, p: Problem, solve: Solve) -> Array:
    return solve("forward", x[:, None], kernel[None], p.with_unit_axis())[:, 0]


def kernel_gradient(x: Array, dy: Array, p: Problem, solve: Solve) -> Array:
    return solve("kernel_gradient", x[:, None], dy[:, None], p.with_unit_axis())[0]


EXTRA_AXIS = Formulation("extra_axis", forward, kernel_gradient, unsupported, unsupported, parts)
