"""A sequence as an image with an axis of one: what cuDNN has algorithms for, where it has none for one axis."""

from __future__ import annotations

import dataclasses
from typing import Any

from ..problem import Kind, Problem
from .base import Array, Formulation, Part, Solve


def unsupported(p: Problem) -> str | None:
    return None if p.rank == 1 else "extra_axis is for one spatial axis"


def _wide(p: Problem) -> Problem:
    ones: dict[str, Any] = {
        name: (1, *getattr(p, name)) for name in ("spatial", "window", "strides", "input_dilation", "kernel_dilation")
    }
    return dataclasses.replace(p, pads=((0, 0), *p.pads), **ones)


def parts(kind: Kind, p: Problem) -> list[Part]:
    return [(kind, _wide(p))]


def forward(x: Array, kernel: Array, p: Problem, solve: Solve) -> Array:
    return solve("forward", x[:, None], kernel[None], _wide(p))[:, 0]


def kernel_gradient(x: Array, dy: Array, p: Problem, solve: Solve) -> Array:
    return solve("kernel_gradient", x[:, None], dy[:, None], _wide(p))[0]


EXTRA_AXIS = Formulation("extra_axis", forward, kernel_gradient, unsupported, unsupported, parts)
