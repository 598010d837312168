"""Sub-pixel convolution: a convolution of a dilated input (a strided one's input gradient, a transposed convolution)
as one small convolution of the undilated input for each phase of the output, interleaved.

No tap ever meets a stuffed zero: of `window` taps each phase keeps those that fall on input. (Shi et al. 2016,
arXiv:1609.05158 and arXiv:1609.07009.)
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


def forward_unsupported(p: Problem) -> str | None:
    return None if p.dilates_input else "subpixel needs a dilated input"


def kernel_gradient_unsupported(p: Problem) -> str | None:
    if any(s > 1 for s in p.strides):
        return "subpixel mirrors the kernel gradient of an undilated stride only"
    return forward_unsupported(p)


@dataclasses.dataclass(frozen=True)
class _Phase:
    """One residue of the output positions of one axis: which taps it keeps, and the convolution they make."""

    first: int  # tap
    step: int  # between its taps
    taps: int
    stride: int
    dilation: int
    before: int  # padding

    @property
    def geometry(self) -> tuple[int, ...]:
        """What phases that are one convolution with more features share."""
        return self.taps, self.stride, self.dilation, self.before


def _phases(axis: int, p: Problem) -> list[_Phase]:
    """Output o = count * m + r sees input i where i * input_dilation = o * stride + t * kernel_dilation - pad."""
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


Phases = tuple[_Phase, ...]  # one an axis


def _groups_of(p: Problem) -> tuple[list[Phases], list[list[int]]]:
    """All phases, and which of them differ in nothing but their kernel elements."""
    phases = list(itertools.product(*(_phases(axis, p) for axis in range(p.rank))))
    alike: dict[tuple, list[int]] = {}
    for i, phase in enumerate(phases):
        alike.setdefault(tuple(f.geometry for f in phase), []).append(i)
    return phases, list(alike.values())


def _sizes(p: Problem) -> tuple[int, ...]:
    """How many outputs a phase has along each axis."""
    return tuple(-(-out // len(_phases(axis, p))) for axis, out in enumerate(p.out))


def _part(first: Phases, many: int, p: Problem) -> Problem:
    """The convolution that computes `many` phases like the first."""
    sizes = _sizes(p)
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


def _mirrored(p: Problem) -> Problem:
    """For dy, x is the output of a convolution strided by `input_dilation`: the problem of its kernel
    gradient."""
    return dataclasses.replace(
        p,
        spatial=p.out,
        channels=p.features,
        features=p.channels,
        strides=p.input_dilation,
        input_dilation=(1,) * p.rank,
        pads=tuple(
            (extent - 1 - lo, (s - 1) * d + 1 - out + lo)
            for extent, (lo, _), s, d, out in zip(p.effective_size, p.pads, p.spatial, p.input_dilation, p.out)
        ),
    )


def parts(kind: Kind, p: Problem) -> list[Part]:
    if kind == "kernel_gradient":
        return [(kind, _mirrored(p))]
    phases, alike = _groups_of(p)
    return [(kind, _part(phases[group[0]], len(group), p)) for group in alike if all(f.taps for f in phases[group[0]])]


def _kernel_of(kernel: Array, phases: Phases, p: Problem) -> Array:
    """`(*taps, c / g, f)`: what a phase keeps of the kernel."""
    ends = [f.first + (f.taps - 1) * f.step + 1 for f in phases]
    rest = kernel.shape[p.rank :]
    return lax.slice(kernel, (*(f.first for f in phases), 0, 0), (*ends, *rest), (*(f.step for f in phases), 1, 1))


def _outputs(x: Array, kernel: Array, alike: list[Phases], p: Problem, solve: Solve) -> Array:
    """`(phases, n, *sizes, features)`: the outputs of phases that are alike."""
    first, many = alike[0], len(alike)
    if any(phase.taps == 0 for phase in first):
        return jnp.zeros((many, p.batch, *_sizes(p), p.features), p.out_dtype)
    kernels, part = [_kernel_of(kernel, phases, p) for phases in alike], _part(first, many, p)
    if many == 1:
        return lax.expand_dims(solve("forward", x, kernels[0], part), (0,))
    # (*taps, c / g, g, phases, f / g): a group's features stay together
    together = lax.concatenate(
        [k.reshape(*k.shape[:-1], p.groups, 1, p.features // p.groups) for k in kernels], p.rank + 2
    )
    y = solve("forward", x, together.reshape(*part.window, -1, part.features), part)
    y = y.reshape(*y.shape[:-1], p.groups, many, -1)
    return jnp.moveaxis(y, -2, 0).reshape(many, *y.shape[:-3], p.features)


def forward(x: Array, kernel: Array, p: Problem, solve: Solve) -> Array:
    phases, alike = _groups_of(p)
    counts, sizes = [len(_phases(axis, p)) for axis in range(p.rank)], _sizes(p)
    parts = [_outputs(x, kernel, [phases[i] for i in group], p, solve) for group in alike]
    if len(parts) == 1:
        y = parts[0]
    else:  # one phase after another until all are there: what is written is then in one piece
        single = [part[i : i + 1] for part in parts for i in range(len(part))]
        y = lax.concatenate([single[i] for i in np.argsort([*itertools.chain(*alike)])], 0)
    y = y.reshape(*counts, p.batch, *sizes, p.features)
    # (n, size, count, size, count, ..., features)
    interleaved = [p.rank, *itertools.chain(*((p.rank + 1 + a, a) for a in range(p.rank))), 2 * p.rank + 1]
    y = lax.transpose(y, interleaved).reshape(p.batch, *(m * c for m, c in zip(sizes, counts)), p.features)
    return y[(slice(None), *map(slice, p.out))]


def kernel_gradient(x: Array, dy: Array, p: Problem, solve: Solve) -> Array:
    flipped = jnp.flip(solve("kernel_gradient", dy, x, _mirrored(p)), tuple(range(p.rank)))
    grouped = flipped.reshape(*p.window, p.features // p.groups, p.groups, p.channels // p.groups)
    return jnp.moveaxis(grouped, -1, -3).swapaxes(-1, -2).reshape(*p.window, -1, p.features)


SUBPIXEL = Formulation("subpixel", forward, kernel_gradient, forward_unsupported, kernel_gradient_unsupported, parts)
