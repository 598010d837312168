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

from .problem import Problem


def sums_directly(p: Problem) -> bool:
    return True


def unsupported_forward(p: Problem) -> str | None:
    return None if any(d > 1 for d in p.lhs_dilation) else "subpixel needs a dilated input"


def unsupported_kernel_gradient(p: Problem) -> str | None:
    if any(s > 1 for s in p.strides):
        return "subpixel mirrors the kernel gradient of an undilated stride only"
    return unsupported_forward(p)


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
    def kept(self) -> range:
        """The places of its taps in the window."""
        return range(self.first, self.first + self.taps * self.step, self.step)

    @property
    def geometry(self) -> tuple[int, ...]:
        """What phases that are one convolution with more features share."""
        return self.taps, self.stride, self.dilation, self.before


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


Phases = tuple[_Phase, ...]  # one an axis


def _part(x, kernel, alike: list[Phases], sizes, conv, p: Problem):
    """(n, *sizes, phases, features): the outputs of phases that differ in nothing but their taps."""
    first, many = alike[0], len(alike)
    if any(phase.taps == 0 for phase in first) or 0 in x.shape:
        return jnp.zeros((p.batch, *sizes, many, p.features), p.out_dtype)
    spans = [(m - 1) * f.stride + (f.taps - 1) * f.dilation + 1 for m, f in zip(sizes, first)]
    problem = dataclasses.replace(
        p,
        window=tuple(f.taps for f in first),
        features=many * p.features,
        strides=tuple(f.stride for f in first),
        rhs_dilation=tuple(f.dilation for f in first),
        lhs_dilation=(1,) * p.rank,
        pads=tuple((f.before, span - s - f.before) for f, span, s in zip(first, spans, p.spatial)),
    )
    taps = [np.ravel_multi_index(np.ix_(*(f.kept for f in phases)), p.window) for phases in alike]
    kernels = kernel.reshape(-1, *kernel.shape[p.rank :])[np.stack(taps, -1)]  # (*taps, phases, c / g, f)
    # (*taps, c / g, g, phases, f / g): a group's features stay together
    kernels = jnp.moveaxis(kernels.reshape(*kernels.shape[:-1], p.groups, -1), p.rank, -2)
    y = conv(x, kernels.reshape(*kernels.shape[: p.rank + 1], -1), problem)
    y = y.reshape(*y.shape[:-1], p.groups, many, -1).swapaxes(-3, -2)
    return y.reshape(*y.shape[:-2], p.features)


def forward(x, kernel, p: Problem, conv):
    """`conv(x, kernel, problem)` computes each phase."""
    axes = [_phases(axis, p) for axis in range(p.rank)]
    counts = tuple(map(len, axes))
    sizes = tuple(-(-out // count) for out, count in zip(p.out, counts))
    if 0 in sizes:
        return jnp.zeros((p.batch, *p.out, p.features), p.out_dtype)
    phases = list(itertools.product(*axes))
    alike: dict[tuple, list[int]] = {}
    for i, phase in enumerate(phases):
        alike.setdefault(tuple(f.geometry for f in phase), []).append(i)
    parts = [_part(x, kernel, [phases[i] for i in group], sizes, conv, p) for group in alike.values()]
    if len(parts) == 1:
        y = parts[0].reshape(p.batch, *sizes, *counts, p.features)
    else:  # one phase after another until all are there: what is written is then in one piece
        order = np.argsort(list(itertools.chain(*alike.values())))
        single = [part[..., i, :] for part in parts for i in range(part.shape[-2])]
        y = jnp.moveaxis(jnp.stack([single[i] for i in order]), 0, -2).reshape(p.batch, *sizes, *counts, p.features)
    # (n, size, count, size, count, ..., features)
    interleaved = [0, *itertools.chain(*((1 + a, 1 + p.rank + a) for a in range(p.rank))), 2 * p.rank + 1]
    y = y.transpose(interleaved).reshape(p.batch, *(m * c for m, c in zip(sizes, counts)), p.features)
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
            for reach, (lo, _), s, d, out in zip(p.effective_size, p.pads, p.spatial, p.lhs_dilation, p.out)
        ),
    )
    flipped = jnp.flip(gradient(dy, x, mirrored), tuple(range(p.rank)))
    grouped = flipped.reshape(*p.window, p.features // p.groups, p.groups, p.channels // p.groups)
    return jnp.moveaxis(grouped, -1, -3).swapaxes(-1, -2).reshape(*p.window, -1, p.features)
