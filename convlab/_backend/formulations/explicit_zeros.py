"""A dilated input with its zeros written out, and a convolution without dilation: more work, where dilation costs more
than that."""

from __future__ import annotations

import dataclasses

from ..buffers import materialize, pad_spatial
from ..problem import Kind, Problem
from .base import Array, Formulation, Part, Solve


def unsupported(p: Problem) -> str | None:
    return None if p.dilates_input else "explicit_zeros needs a dilated input"


def _undilated(p: Problem) -> Problem:
    return dataclasses.replace(p, spatial=p.dilated, input_dilation=(1,) * p.rank)


def parts(kind: Kind, p: Problem) -> list[Part]:
    return [(kind, _undilated(p))]


def _with_zeros(x: Array, p: Problem) -> Array:
    """Kept from XLA, which may make a dilation of the zeros again."""
    return materialize(pad_spatial(x, ((0, 0),) * p.rank, p.input_dilation))


def forward(x: Array, kernel: Array, p: Problem, solve: Solve) -> Array:
    return solve("forward", _with_zeros(x, p), kernel, _undilated(p))


def kernel_gradient(x: Array, dy: Array, p: Problem, solve: Solve) -> Array:
    return solve("kernel_gradient", _with_zeros(x, p), dy, _undilated(p))


EXPLICIT_ZEROS = Formulation("explicit_zeros", forward, kernel_gradient, unsupported, unsupported, parts)
