"""The formulation `planes`: convolutions of two axes for convolutions of three, of which XLA's fast loop nest on a CPU
supports two.

Forward, the planes that a tap of the kernel's first axis reads with a stride s are every s-th one, so that several taps
read the same planes: one convolution computes the features of all these taps, and the results, each shifted by its tap,
are summed. No plane is copied or padded. The kernel gradient is a gradient for each tap.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import operator
from collections.abc import Iterator
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax

from ..problem import Kind, Problem
from .base import Array, Formulation, Part, Solve


class Tap(NamedTuple):
    """A tap of the kernel's first axis: its outputs `first` to `end` read the planes `planes[start:]` in turn."""

    number: int
    first: int
    end: int
    start: int


class Phase(NamedTuple):
    """The planes `slice(first, end, stride)` and the taps that read them."""

    first: int
    end: int
    taps: list[Tap]


def unsupported(p: Problem) -> str | None:
    if p.rank < 3 or p.input_dilation[0] > 1:
        return "planes takes three axes or more, the first of them undilated"
    return None


def _phases(p: Problem) -> list[Phase]:
    """Return the planes by their number modulo the stride, each with the taps that read them."""
    size, stride, (low, _), taken = p.spatial[0], p.strides[0], p.pads[0], dict[int, list[Tap]]()
    for index in range(p.window[0]):
        shift = index * p.kernel_dilation[0] - low
        first = min(max(0, -(shift // stride)), p.out[0])
        end = max(first, min(p.out[0], (size - 1 - shift) // stride + 1))
        if first < end:
            taken.setdefault(shift % stride, []).append(Tap(index, first, end, first * stride + shift))
    phases = []
    for taps in taken.values():
        least = min(tap.start for tap in taps)
        most = max(tap.start + (tap.end - tap.first - 1) * stride for tap in taps)
        inside = [tap._replace(start=(tap.start - least) // stride) for tap in taps]
        phases.append(Phase(least, most + 1, inside))
    return phases


def _phase_problem(p: Problem, phase: Phase) -> Problem:
    """Return the problem of a phase: its planes join the batch, and its taps the features."""
    planes, features = len(range(phase.first, phase.end, p.strides[0])), len(phase.taps) * p.features
    return dataclasses.replace(_plane_problem(p), batch=p.batch * planes, features=features)


def _plane_problem(p: Problem) -> Problem:
    """Return the problem of one index of the kernel's first axis: the planes join the batch."""
    return dataclasses.replace(p.without_axis(0), batch=p.batch * p.out[0], out_dtype=p.accumulator)


def parts(kind: Kind, p: Problem) -> list[Part]:
    if kind == "kernel_gradient":
        return [(kind, _plane_problem(p))]
    return [(kind, _phase_problem(p, phase)) for phase in _phases(p)]


def _read_planes(x: Array, p: Problem) -> Iterator[Array]:
    """Iterate over the planes `(n * out[0], *spatial[1:], c)` that each index of the kernel's first axis reads."""
    widened = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), (*p.pads[0], 0), *((0, 0, 0),) * p.rank])
    span, stride, step = (p.out[0] - 1) * p.strides[0] + 1, p.strides[0], p.kernel_dilation[0]
    for tap in range(p.window[0]):
        yield lax.slice_in_dim(widened, tap * step, tap * step + span, stride, 1).reshape(-1, *x.shape[2:])


def _phase_sums(x: Array, kernel: Array, p: Problem, phase: Phase, solve: Solve) -> Iterator[Array]:
    """Yield each tap's part of the result of a phase, with zeros where the tap reads padding."""
    planes = lax.slice_in_dim(x, phase.first, phase.end, p.strides[0], 1).reshape(-1, *x.shape[2:])
    # The features of a group stay together: (*window, in, groups, taps, features of a group).
    weights = jnp.stack([kernel[tap.number].reshape(*kernel.shape[1:-1], p.groups, -1) for tap in phase.taps], -2)
    y = solve("forward", planes, weights.reshape(*kernel.shape[1:-1], -1), _phase_problem(p, phase))
    y = y.reshape(p.batch, -1, *p.out[1:], p.groups, len(phase.taps), p.features // p.groups)
    for i, tap in enumerate(phase.taps):
        mine = lax.slice_in_dim(y, tap.start, tap.start + tap.end - tap.first, 1, 1)[..., i, :]
        mine = mine.reshape(*mine.shape[:-2], p.features)
        around = [(0, 0, 0), (tap.first, p.out[0] - tap.end, 0), *((0, 0, 0),) * p.rank]
        yield lax.pad(mine, jnp.zeros((), mine.dtype), around)


def forward(x: Array, kernel: Array, p: Problem, solve: Solve) -> Array:
    parts_ = itertools.chain.from_iterable(_phase_sums(x, kernel, p, phase, solve) for phase in _phases(p))
    sums = list(parts_) or [jnp.zeros(p.result_shape("forward"), p.accumulator)]
    return functools.reduce(operator.add, sums)


def kernel_gradient(x: Array, dy: Array, p: Problem, solve: Solve) -> Array:
    cotangent = dy.reshape(-1, *p.out[1:], p.features)
    return jnp.stack([solve("kernel_gradient", planes, cotangent, _plane_problem(p)) for planes in _read_planes(x, p)])


PLANES = Formulation("planes", forward, kernel_gradient, unsupported, unsupported, parts)
