"""The formulation `output_blocking`: compute neighbouring output positions as features, which are too few for a vector.

With blocks of m positions along an axis the convolution has m times the features, m times the stride and a window
longer by m - 1, whose kernel has a shifted copy for each position and zeros beside it. (The inverse of sub-pixel
convolution, Shi et al. 2016, arXiv:1609.05158.)
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math

import jax.numpy as jnp

from ..problem import Kind, Problem
from .base import VECTOR, Array, Formulation, Part, Solve


def _work(counts: tuple[int, ...], p: Problem) -> float:
    """Return the vector products for each output position and channel, with blocks of these sizes."""
    block = math.prod(counts)
    return -(-block * p.features // VECTOR) * math.prod(w + m - 1 for w, m in zip(p.window, counts)) / block


@functools.cache
def _counts(p: Problem) -> tuple[int, ...]:
    """Return the block's size along each axis."""
    plain = [s == d == 1 for s, d in zip(p.strides, p.kernel_dilation)]
    most = [min(VECTOR, out) if is_plain else 1 for is_plain, out in zip(plain, p.out)]
    choices = itertools.product(*(range(1, m + 1) for m in most))
    fitting = [counts for counts in choices if math.prod(counts) * p.features <= 2 * VECTOR]
    return min(fitting, key=lambda counts: _work(counts, p), default=(1,) * p.rank)


def remaining_work(p: Problem) -> float:
    """Return the fraction of the vector products that remains."""
    return _work(_counts(p), p) / _work((1,) * p.rank, p)


def forward_unsupported(p: Problem) -> str | None:
    if p.rank == 0 or p.groups > 1 or p.dilates_input:
        return "output_blocking takes an undilated image, ungrouped"
    if 0 in (p.features, *p.window, *p.out) or max(_counts(p)) == 1:
        return "output_blocking would only multiply zeros here"
    return None


def _blocked_problem(p: Problem) -> Problem:
    counts = _counts(p)
    blocks = [-(-out // m) for out, m in zip(p.out, counts)]
    window = tuple(w + m - 1 for w, m in zip(p.window, counts))
    strides = tuple(s * m for s, m in zip(p.strides, counts))
    problem = dataclasses.replace(p, window=window, features=math.prod(counts) * p.features, strides=strides)
    ends = zip(p.pads, blocks, strides, problem.effective_size, p.spatial)
    return dataclasses.replace(problem, pads=tuple((lo, (b - 1) * s + e - lo - n) for (lo, _), b, s, e, n in ends))


def parts(kind: Kind, p: Problem) -> list[Part]:
    return [(kind, _blocked_problem(p))]


def forward(x: Array, kernel: Array, p: Problem, solve: Solve) -> Array:
    counts, blocked = _counts(p), _blocked_problem(p)
    positions = itertools.product(*map(range, counts))
    copies = [jnp.pad(kernel, [*((j, m - 1 - j) for j, m in zip(at, counts)), (0, 0), (0, 0)]) for at in positions]
    y = solve("forward", x, jnp.concatenate(copies, -1), blocked).reshape(p.batch, *blocked.out, *counts, p.features)
    y = y.transpose(0, *itertools.chain(*((1 + a, 1 + p.rank + a) for a in range(p.rank))), 2 * p.rank + 1)
    y = y.reshape(p.batch, *(b * m for b, m in zip(blocked.out, counts)), p.features)
    return y[(slice(None), *map(slice, p.out))]


# A pixel is multiplied by the zeros beside each copy, where an inf becomes a NaN in windows that do not contain it.
OUTPUT_BLOCKING = Formulation("output_blocking", forward, None, forward_unsupported, parts=parts, sums_directly=False)
