"""The formulation `subpixel`: convolve a dilated input by one small undilated convolution for each phase of the output.

It supports transposed convolutions and the input gradients of strided ones. Each phase has only the taps that fall on
input, so none is multiplied by a zero of the dilation; the results are interleaved. (Shi et al. 2016, arXiv:1609.05158
and arXiv:1609.07009.)
"""

from __future__ import annotations

import dataclasses
import itertools
import math

import jax.numpy as jnp
import numpy as np
from jax import lax

from ..problem import Kind, Problem
from .base import Array, Formulation, Part, Solve

MAX_SLICES = 16  # of a kernel; more phases take their kernels by one gather


def forward_unsupported(p: Problem) -> str | None:
    return None if p.dilates_input else "subpixel needs a dilated input"


def kernel_gradient_unsupported(p: Problem) -> str | None:
    if any(s > 1 for s in p.strides):
        return "subpixel mirrors the kernel gradient of an undilated stride only"
    return forward_unsupported(p)


@dataclasses.dataclass(frozen=True)
class _Phase:
    """The output positions with one residue along one axis: their taps, and the convolution that computes them."""

    first: int  # the index of the first tap
    step: int  # from one tap to the next
    taps: int  # the number of taps
    stride: int
    dilation: int
    before: int  # padding

    @property
    def geometry(self) -> tuple[int, ...]:
        """Return the geometry that phases share if one convolution with more features computes them."""
        return self.taps, self.stride, self.dilation, self.before


def _phases(axis: int, p: Problem) -> list[_Phase]:
    """Return the phases of an axis.

    Output o = count * m + r reads input i through tap t if i * input_dilation = o * stride + t * kernel_dilation - pad.
    """
    base, stride, dilation = p.input_dilation[axis], p.strides[axis], p.kernel_dilation[axis]
    before, window = p.pads[axis][0], p.window[axis]
    count, step = base // math.gcd(base, stride), base // math.gcd(base, dilation)
    found = []
    for r in range(count):
        starts = [t for t in range(min(step, window)) if (r * stride + t * dilation - before) % base == 0]
        first = starts[0] if starts else window
        shift = (r * stride + first * dilation - before) // base
        taps = len(range(first, window, step))
        found.append(_Phase(first, step, taps, count * stride // base, step * dilation // base, -shift))
    return found


Phases = tuple[_Phase, ...]  # one for each axis


def _group_phases(p: Problem) -> tuple[list[Phases], list[list[int]]]:
    """Return all phases, and groups of indices of phases that differ only in their kernel elements."""
    phases = list(itertools.product(*(_phases(axis, p) for axis in range(p.rank))))
    alike: dict[tuple, list[int]] = {}
    for i, phase in enumerate(phases):
        alike.setdefault(tuple(f.geometry for f in phase), []).append(i)
    return phases, list(alike.values())


def _phase_sizes(p: Problem) -> tuple[int, ...]:
    """Return how many outputs a phase has along each axis."""
    return tuple(-(-out // len(_phases(axis, p))) for axis, out in enumerate(p.out))


def _phase_problem(first: Phases, many: int, p: Problem) -> Problem:
    """Return the problem of the convolution that computes `many` phases like the first."""
    sizes = _phase_sizes(p)
    spans = [(m - 1) * f.stride + (f.taps - 1) * f.dilation + 1 for m, f in zip(sizes, first)]
    return dataclasses.replace(
        p,
        window=tuple(f.taps for f in first),
        features=many * p.features,
        strides=tuple(f.stride for f in first),
        kernel_dilation=tuple(f.dilation for f in first),
        input_dilation=(1,) * p.rank,
        pads=tuple((f.before, span - s - f.before) for f, span, s in zip(first, spans, p.spatial)),
    )


def _mirrored_problem(p: Problem) -> Problem:
    """Return the problem of the kernel gradient with x and dy exchanged.

    x is then the output of a convolution of dy with strides `input_dilation`.
    """
    return dataclasses.replace(
        p,
        spatial=p.out,
        channels=p.features,
        features=p.channels,
        strides=p.input_dilation,
        input_dilation=(1,) * p.rank,
        pads=tuple(
            (size - 1 - lo, n - out + lo) for size, (lo, _), n, out in zip(p.effective_size, p.pads, p.dilated, p.out)
        ),
    )


def parts(kind: Kind, p: Problem) -> list[Part]:
    if kind == "kernel_gradient":
        return [(kind, _mirrored_problem(p))]
    phases, alike = _group_phases(p)
    groups = [(phases[group[0]], len(group)) for group in alike]
    return [(kind, _phase_problem(first, many, p)) for first, many in groups if all(f.taps for f in first)]


def _slice_kernel(kernel: Array, phases: Phases, p: Problem) -> Array:
    """Return a phase's kernel: `(*taps, c / g, f)`."""
    ends = [f.first + (f.taps - 1) * f.step + 1 for f in phases]
    rest = kernel.shape[p.rank :]
    return lax.slice(kernel, (*(f.first for f in phases), 0, 0), (*ends, *rest), (*(f.step for f in phases), 1, 1))


def _gather_kernels(kernel: Array, alike: list[Phases], p: Problem) -> Array:
    """Return the kernels of many phases like the first, `(taps, c / g, g, phases, f / g)`, by one gather.

    A slice for each phase makes a program of thousands of lines for strides of 16.
    """
    elements = [np.ix_(*(f.first + f.step * np.arange(f.taps) for f in phases)) for phases in alike]
    at = np.stack([np.ravel_multi_index(element, p.window).ravel() for element in elements])
    flat = kernel.reshape(math.prod(p.window), *kernel.shape[p.rank :])
    found = flat.at[jnp.asarray(at, jnp.int32)].get(mode="promise_in_bounds")  # (phases, taps, c / g, f)
    found = found.reshape(*found.shape[:-1], p.groups, p.features // p.groups)
    return jnp.moveaxis(found, 0, -2)


def _compute_phases(x: Array, kernel: Array, alike: list[Phases], p: Problem, solve: Solve) -> Array:
    """Compute the outputs of a group of phases: `(phases, n, *sizes, features)`."""
    first, many = alike[0], len(alike)
    if any(phase.taps == 0 for phase in first):
        return jnp.zeros((many, p.batch, *_phase_sizes(p), p.features), p.out_dtype)
    part = _phase_problem(first, many, p)
    if many == 1:
        return lax.expand_dims(solve("forward", x, _slice_kernel(kernel, first, p), part), (0,))
    if many > MAX_SLICES:
        together = _gather_kernels(kernel, alike, p)
    else:  # (*taps, c / g, g, phases, f / g): a group's features stay adjacent
        kernels = [_slice_kernel(kernel, phases, p) for phases in alike]
        together = lax.concatenate(
            [k.reshape(*k.shape[:-1], p.groups, 1, p.features // p.groups) for k in kernels], p.rank + 2
        )
    y = solve("forward", x, together.reshape(*part.window, -1, part.features), part)
    y = y.reshape(*y.shape[:-1], p.groups, many, -1)
    return jnp.moveaxis(y, -2, 0).reshape(many, *y.shape[:-3], p.features)


def forward(x: Array, kernel: Array, p: Problem, solve: Solve) -> Array:
    phases, alike = _group_phases(p)
    counts, sizes = [len(_phases(axis, p)) for axis in range(p.rank)], _phase_sizes(p)
    parts = [_compute_phases(x, kernel, [phases[i] for i in group], p, solve) for group in alike]
    if len(parts) == 1:
        y = parts[0]
    else:  # concatenate all phases before interleaving, so that XLA writes contiguous pieces
        single = [part[i : i + 1] for part in parts for i in range(len(part))]
        y = lax.concatenate([single[i] for i in np.argsort([*itertools.chain(*alike)])], 0)
    y = y.reshape(*counts, p.batch, *sizes, p.features)
    # (n, size, count, size, count, ..., features)
    interleaved = [p.rank, *itertools.chain(*((p.rank + 1 + a, a) for a in range(p.rank))), 2 * p.rank + 1]
    y = lax.transpose(y, interleaved).reshape(p.batch, *(m * c for m, c in zip(sizes, counts)), p.features)
    return y[(slice(None), *map(slice, p.out))]


def kernel_gradient(x: Array, dy: Array, p: Problem, solve: Solve) -> Array:
    flipped = jnp.flip(solve("kernel_gradient", dy, x, _mirrored_problem(p)), tuple(range(p.rank)))
    grouped = flipped.reshape(*p.window, p.features // p.groups, p.groups, p.channels // p.groups)
    return jnp.moveaxis(grouped, -1, -3).swapaxes(-1, -2).reshape(*p.window, -1, p.features)


SUBPIXEL = Formulation("subpixel", forward, kernel_gradient, forward_unsupported, kernel_gradient_unsupported, parts)
