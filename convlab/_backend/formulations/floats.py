"""The formulation `floats`: convolve bytes in float32, which a CPU multiplies far faster than integers.

It supports problems whose sums, or those over a part of the channels, float32 represents exactly.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
import operator

import jax.numpy as jnp
from jax import lax

from ..problem import Kind, Problem
from .base import Array, Formulation, Part, Solve

_EXACT = 2**24  # float32 represents every integer up to here
_MOST_SUMS = 8


def _sums(terms: int, p: Problem) -> int:
    """Return into how many sums `terms` products are split, so that float32 represents each."""
    largest = p.largest_product or max(-int(jnp.iinfo(p.dtype).min), int(jnp.iinfo(p.dtype).max)) ** 2
    return -(-largest * terms // _EXACT)


def _unsupported(terms: int, p: Problem, most: int) -> str | None:
    if not jnp.issubdtype(p.dtype, jnp.integer) or p.out_dtype != jnp.int32:
        return "floats supports integers whose sums are int32"
    return None if _sums(terms, p) <= most else "float32 does not represent every sum of these exactly"


def _slices(p: Problem) -> list[tuple[int, int]] | None:
    """Return the channels of a group, first and last, that are summed at a time; None where one is too many."""
    each, window = p.channels // p.groups, math.prod(p.window)
    if _sums(window, p) > 1:
        return None
    count = next((k for k in range(1, each + 1) if _sums(window * -(-each // k), p) == 1), 1)
    ends = [each * k // count for k in range(count + 1)]
    return list(itertools.pairwise(ends))


def forward_unsupported(p: Problem) -> str | None:
    terms = math.prod(p.window) * p.channels // p.groups
    reason = _unsupported(terms, p, _MOST_SUMS)
    return reason or (None if _slices(p) else "float32 does not represent every sum of one channel exactly")


def kernel_gradient_unsupported(p: Problem) -> str | None:
    return _unsupported(p.batch * math.prod(p.out), p, 1)


def _float32_problem(p: Problem, channels: int | None = None) -> Problem:
    dtype, highest = jnp.dtype(jnp.float32), (lax.Precision.HIGHEST,) * 2
    channels = p.channels if channels is None else channels
    return dataclasses.replace(
        p, channels=channels, dtype=dtype, out_dtype=dtype, precision=highest, largest_product=None
    )


def parts(kind: Kind, p: Problem) -> list[Part]:
    slices = _slices(p) if kind == "forward" else None
    return [(kind, _float32_problem(p, p.groups * (b - a))) for a, b in slices or [(0, p.channels // p.groups)]]


def forward(x: Array, kernel: Array, p: Problem, solve: Solve) -> Array:
    """Add up sums over some of the channels, each exact."""
    slices, sums = _slices(p) or [(0, p.channels // p.groups)], []
    by_group = x.reshape(*x.shape[:-1], p.groups, p.channels // p.groups)
    for a, b in slices:
        some = by_group[..., a:b].reshape(*x.shape[:-1], p.groups * (b - a)).astype(jnp.float32)
        sums.append(
            solve("forward", some, kernel[..., a:b, :].astype(jnp.float32), _float32_problem(p, some.shape[-1]))
        )
    return functools.reduce(operator.add, [part.astype(jnp.int32) for part in sums]) if len(sums) > 1 else sums[0]


def kernel_gradient(x: Array, dy: Array, p: Problem, solve: Solve) -> Array:
    return solve("kernel_gradient", x.astype(jnp.float32), dy.astype(jnp.float32), _float32_problem(p))


FLOATS = Formulation("floats", forward, kernel_gradient, forward_unsupported, kernel_gradient_unsupported, parts)
