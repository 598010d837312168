"""The formulation `explicit_zeros`: write the zeros of a dilated input to memory and convolve without dilation.

It multiplies the zeros too, and is for problems that XLA's dilation makes slower than that.
"""

from __future__ import annotations

import dataclasses

from ..buffers import materialize, pad_spatial
from ..problem import Kind, Problem
from .base import Array, Formulation, Part, Solve


def unsupported(p: Problem) -> str | None:
    return None if p.dilates_input else "explicit_zeros needs a dilated input"


def _undilated_problem(p: Problem) -> Problem:
    return dataclasses.replace(p, spatial=p.dilated, input_dilation=(1,) * p.rank)


def parts(kind: Kind, p: Problem) -> list[Part]:
    return [(kind, _undilated_problem(p))]


def _write_zeros(x: Array, p: Problem) -> Array:
    """Write the dilated input to a buffer, for XLA may turn a pad with interior zeros into a dilation again."""
    return materialize(pad_spatial(x, ((0, 0),) * p.rank, p.input_dilation))


def forward(x: Array, kernel: Array, p: Problem, solve: Solve) -> Array:
    return solve("forward", _write_zeros(x, p), kernel, _undilated_problem(p))


def kernel_gradient(x: Array, dy: Array, p: Problem, solve: Solve) -> Array:
    return solve("kernel_gradient", _write_zeros(x, p), dy, _undilated_problem(p))


EXPLICIT_ZEROS = Formulation("explicit_zeros", forward, kernel_gradient, unsupported, unsupported, parts)
