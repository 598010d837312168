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

from .problem import Problem


def direct(p: Problem) -> bool:
    return True


def refusal_forward(p: Problem) -> str | None:
    return None if any(d > 1 for d in p.lhs_dilation) else "phases needs a dilated input"


def refusal_kernel_gradient(p: Problem) -> str | None:
    if any(s > 1 for s in p.strides):
        return "phases mirrors the kernel gradient of an undilated stride only"
    return refusal_forward(p)


@dataclasses.dataclass(frozen=True)
class _Phase:
    """One residue of the output positions of one axis: which taps it keeps, and the convolution they make."""

    first: int  # tap
    step: int  # between its taps
    taps: int
    stride: int
    dilation: int
    before: int  # padding


def _phases(axis: int, p: Problem) -> list[_Phase]:
    """Output o = count * m + r sees input i where i * lhs_dilation = o * stride + t * rhs_dilation - pad."""
    base, stride, dilation = p.lhs_dilation[axis], p.strides[axis], p.rhs_dilation[axis]
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


def _part(x, kernel, phases: tuple[_Phase, ...], sizes, conv, p: Problem):
    """The outputs of one phase, `sizes` of them."""
    if any(phase.taps == 0 for phase in phases) or 0 in x.shape:
        return jnp.zeros((p.batch, *sizes, p.features), p.out_dtype)
    spans = [(m - 1) * f.stride + (f.taps - 1) * f.dilation + 1 for m, f in zip(sizes, phases)]
    problem = dataclasses.replace(
        p,
        window=tuple(f.taps for f in phases),
        strides=tuple(f.stride for f in phases),
        rhs_dilation=tuple(f.dilation for f in phases),
        lhs_dilation=(1,) * p.rank,
        pads=tuple((f.before, span - s - f.before) for f, span, s in zip(phases, spans, p.spatial)),
    )
    return conv(x, kernel[tuple(slice(f.first, None, f.step) for f in phases)], problem)


def forward(x, kernel, p: Problem, conv):
    """`conv(x, kernel, problem)` computes each phase."""
    axes = [_phases(axis, p) for axis in range(p.rank)]
    counts = tuple(map(len, axes))
    sizes = tuple(-(-out // count) for out, count in zip(p.out, counts))
    if 0 in sizes:
        return jnp.zeros((p.batch, *p.out, p.features), p.out_dtype)
    parts = [_part(x, kernel, phases, sizes, conv, p) for phases in itertools.product(*axes)]
    y = jnp.stack(parts).reshape(*counts, p.batch, *sizes, p.features)
    # (n, size, count, size, count, ..., features)
    order = [p.rank, *itertools.chain(*((p.rank + 1 + a, a) for a in range(p.rank))), 2 * p.rank + 1]
    y = y.transpose(order).reshape(p.batch, *(m * c for m, c in zip(sizes, counts)), p.features)
    return y[(slice(None), *map(slice, p.out))]


def kernel_gradient(x, dy, p: Problem, gradient):
    """Seen from dy, x is the output of a convolution strided by `lhs_dilation`; `gradient(dy, x, problem)` is mirrored."""
    mirrored = dataclasses.replace(
        p,
        spatial=p.out,
        channels=p.features,
        features=p.channels,
        strides=p.lhs_dilation,
        lhs_dilation=(1,) * p.rank,
        pads=tuple(
            (reach - 1 - lo, (s - 1) * d + 1 - out + lo)
            for reach, (lo, _), s, d, out in zip(p.reach, p.pads, p.spatial, p.lhs_dilation, p.out)
        ),
    )
    flipped = jnp.flip(gradient(dy, x, mirrored), tuple(range(p.rank)))
    grouped = flipped.reshape(*p.window, p.features // p.groups, p.groups, p.channels // p.groups)
    return jnp.moveaxis(grouped, -1, -3).swapaxes(-1, -2).reshape(*p.window, -1, p.features)
