"""Neighbouring places of the output packed into its features, where these are too few to fill a vector.

With m places along an axis the convolution has m times the features, m times the stride there and a window m - 1 longer, whose
kernel holds a copy for every place and zeros beside it. (The inverse of sub-pixel convolution, Shi et al. 2016, arXiv:1609.05158.)
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math

import jax.numpy as jnp

from .batch_vectorized import LANES
from .problem import Problem


def sums_directly(p: Problem) -> bool:
    """A pixel meets the zeros beside each copy, where an inf becomes a NaN in windows that do not see it."""
    return False


def _work(counts: tuple[int, ...], p: Problem) -> float:
    """Vectors that are multiplied for a place of the output and a channel."""
    together = math.prod(counts)
    return -(-together * p.features // LANES) * math.prod(w + m - 1 for w, m in zip(p.window, counts)) / together


@functools.cache
def _counts(p: Problem) -> tuple[int, ...]:
    """How many places of each axis go together."""
    free = [s == d == 1 for s, d in zip(p.strides, p.rhs_dilation)]
    most = [min(LANES, out) if axis_free else 1 for axis_free, out in zip(free, p.out)]
    choices = itertools.product(*(range(1, m + 1) for m in most))
    fitting = [counts for counts in choices if math.prod(counts) * p.features <= 2 * LANES]
    return min(fitting, key=lambda counts: _work(counts, p), default=(1,) * p.rank)


def left(p: Problem) -> float:
    """The part of the multiplications that is left."""
    return _work(_counts(p), p) / _work((1,) * p.rank, p)


def unsupported_forward(p: Problem) -> str | None:
    if p.rank == 0 or p.groups > 1 or any(d > 1 for d in p.lhs_dilation):
        return "output_blocking takes an undilated image, ungrouped"
    if 0 in (p.features, *p.window, *p.out) or max(_counts(p)) == 1:
        return "output_blocking would only multiply zeros here"
    return None


def forward(x, kernel, p: Problem, conv):
    """`conv(x, kernel, problem)` computes the convolution with more features."""
    counts = _counts(p)
    blocks = tuple(-(-out // m) for out, m in zip(p.out, counts))
    window = tuple(w + m - 1 for w, m in zip(p.window, counts))
    strides = tuple(s * m for s, m in zip(p.strides, counts))
    problem = dataclasses.replace(p, window=window, features=math.prod(counts) * p.features, strides=strides)
    ends = zip(p.pads, blocks, strides, problem.effective_size, p.spatial)
    problem = dataclasses.replace(problem, pads=tuple((lo, (b - 1) * s + r - lo - n) for (lo, _), b, s, r, n in ends))
    places = itertools.product(*map(range, counts))
    copies = [jnp.pad(kernel, [*((j, m - 1 - j) for j, m in zip(place, counts)), (0, 0), (0, 0)]) for place in places]
    y = conv(x, jnp.concatenate(copies, -1), problem).reshape(p.batch, *blocks, *counts, p.features)
    y = y.transpose(0, *itertools.chain(*((1 + a, 1 + p.rank + a) for a in range(p.rank))), 2 * p.rank + 1)
    y = y.reshape(p.batch, *(b * m for b, m in zip(blocks, counts)), p.features)
    return y[(slice(None), *map(slice, p.out))]
