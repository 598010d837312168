"""The formulation `planes`: sum convolutions of two axes over the kernel's first axis, for convolutions of three.

XLA's fast loop nest on a CPU supports two axes.
"""

from __future__ import annotations

import dataclasses
import functools
import operator
from collections.abc import Iterator

import jax.numpy as jnp
from jax import lax

from ..problem import Kind, Problem
from .base import Array, Formulation, Part, Solve


def unsupported(p: Problem) -> str | None:
    if p.rank < 3 or p.input_dilation[0] > 1:
        return "planes takes three axes or more, the first of them undilated"
    return None


def _plane_problem(p: Problem) -> Problem:
    """Return the problem of one index of the kernel's first axis: the planes join the batch."""
    return dataclasses.replace(p.without_axis(0), batch=p.batch * p.out[0], out_dtype=p.accumulator)


def parts(kind: Kind, p: Problem) -> list[Part]:
    return [(kind, _plane_problem(p))]


def _read_planes(x: Array, p: Problem) -> Iterator[Array]:
    """Iterate over the planes `(n * out[0], *spatial[1:], c)` that each index of the kernel's first axis reads."""
    widened = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), (*p.pads[0], 0), *((0, 0, 0),) * p.rank])
    span, stride, step = (p.out[0] - 1) * p.strides[0] + 1, p.strides[0], p.kernel_dilation[0]
    for tap in range(p.window[0]):
        yield lax.slice_in_dim(widened, tap * step, tap * step + span, stride, 1).reshape(-1, *x.shape[2:])


def forward(x: Array, kernel: Array, p: Problem, solve: Solve) -> Array:
    sums = (solve("forward", planes, taps, _plane_problem(p)) for planes, taps in zip(_read_planes(x, p), kernel))
    return functools.reduce(operator.add, sums).reshape(p.result_shape("forward"))


def kernel_gradient(x: Array, dy: Array, p: Problem, solve: Solve) -> Array:
    cotangent = dy.reshape(-1, *p.out[1:], p.features)
    return jnp.stack([solve("kernel_gradient", planes, cotangent, _plane_problem(p)) for planes in _read_planes(x, p)])


PLANES = Formulation("planes", forward, kernel_gradient, unsupported, unsupported, parts)
