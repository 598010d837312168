"""Shift-multiply-add: elementwise products of shifted images and weights, summed.

The best form where a matrix product would have next to nothing to contract: depthwise convolution (Howard et al. 2017,
arXiv:1704.04861) with any multiplier, many small groups (Xie et al. 2017, arXiv:1611.05431), a handful of channels.
Forward is a sum over the taps of the window, the kernel gradient the same sum over the positions of the output, each
with an accumulator for every entry of its result (and, for the gradient, of the batch).
"""

from __future__ import annotations

import functools
import itertools
import math
import operator

import jax.numpy as jnp
from jax import lax

from .problem import Problem

# Terms of one fused loop. More would only compile longer; their own sum keeps the accumulators' chains short.
_UNROLLED = 16


def accumulator(p: Problem):
    """The dtype of sums: `out_dtype`, but never narrower than float32 among the floats."""
    narrow = jnp.issubdtype(p.out_dtype, jnp.floating) and jnp.finfo(p.out_dtype).bits < 32
    return jnp.dtype(jnp.float32) if narrow else jnp.dtype(p.out_dtype)


def padded(x, p: Problem):
    """x after `lhs_dilation` and `pads`."""
    config = [(0, 0, 0), *((lo, hi, d - 1) for (lo, hi), d in zip(p.pads, p.lhs_dilation)), (0, 0, 0)]
    return lax.pad(x, jnp.zeros((), x.dtype), config) if any(map(any, config)) else x


def shifted(image, tap, p: Problem):
    """What the tap at index `tap` of the window sees of the padded image: (n, *out, c)."""
    starts = [t * d for t, d in zip(tap, p.rhs_dilation)]
    limits = [start + (o - 1) * s + 1 for start, o, s in zip(starts, p.out, p.strides)]
    n, c = image.shape[0], image.shape[-1]
    return lax.slice(image, (0, *starts, 0), (n, *limits, c), (1, *p.strides, 1))


def indices(p: Problem):
    """The taps of the window, last axis fastest."""
    return itertools.product(*map(range, p.window))


def empty(p: Problem) -> bool:
    """Whether there is nothing to sum over or nothing to fill."""
    return 0 in (p.batch, p.channels, p.features, *p.out, *p.window)


def direct(p: Problem) -> bool:
    return True


def refusal_forward(p: Problem) -> str | None:
    if any(d > 1 for d in p.lhs_dilation):
        return "taps would multiply the zeros of a dilated input; phases splits it first"
    if p.channels // p.groups > 16:
        return "taps unrolls the channels of a group, more than 16 here"
    return None


def refusal_kernel_gradient(p: Problem) -> str | None:
    if p.channels // p.groups * (p.features // p.groups) > 64:
        return "taps keeps a sum for each pair of channels in a group, more than 64 here"
    return refusal_forward(p)


def _row(term, size: int):
    """The sum of term(i) over i < size."""

    def some(first, count):
        return functools.reduce(operator.add, (term(first + i) for i in range(count)))

    blocks, rest = divmod(size, _UNROLLED)
    if blocks < 2:
        return some(0, size)
    total = lax.fori_loop(1, blocks, lambda b, total: total + some(b * _UNROLLED, _UNROLLED), some(0, _UNROLLED))
    return total + some(size - rest, rest) if rest else total


def _sum(term, grid: tuple[int, ...]):
    """The sum of term(index) over a grid, row by row: short chains of additions, little code."""
    if not grid:
        return term(())
    *lead, size = grid
    rows = math.prod(lead)
    if rows * size <= 2 * _UNROLLED:
        return functools.reduce(operator.add, map(term, itertools.product(*map(range, grid))))

    def row(r):
        at = jnp.unravel_index(r, lead) if lead else ()
        return _row(lambda i: term((*at, i)), size)

    return lax.fori_loop(1, rows, lambda r, total: total + row(r), row(0))


def _view(image, start, sizes, strides):
    """A strided slice of the spatial axes, at a position that a loop may compute."""
    n, tail = image.shape[0], image.shape[1 + len(sizes) :]
    spans = [(size - 1) * s + 1 for size, s in zip(sizes, strides)]
    view = lax.dynamic_slice(image, (0, *start, *(0 for _ in tail)), (n, *spans, *tail))
    return lax.slice(view, (0,) * view.ndim, view.shape, (1, *strides, *(1 for _ in tail)))


def _transposed(p: Problem) -> bool:
    """Whether the groups, rather than a group's features, lie along the vector."""
    return p.groups >= p.features // p.groups


def _by_group(a, axis_size: int, p: Problem):
    """(..., g * i) -> (..., i, g) or (..., g, i)."""
    a = a.reshape(*a.shape[:-1], p.groups, axis_size // p.groups)
    return jnp.swapaxes(a, -1, -2) if _transposed(p) else a


def forward(x, kernel, p: Problem):
    if empty(p):
        return jnp.zeros((p.batch, *p.out, p.features), p.out_dtype)
    acc, per_group, side = accumulator(p), p.channels // p.groups, -1 if _transposed(p) else -2
    image = _by_group(padded(x, p), p.channels, p)
    weights = _by_group(kernel, p.features, p)

    def term(index):
        *tap, i = index
        seen = _view(image, [t * d for t, d in zip(tap, p.rhs_dilation)], p.out, p.strides)
        seen = lax.dynamic_slice_in_dim(seen, i, 1, seen.ndim - (2 if side == -1 else 1))
        weight = lax.dynamic_slice(weights, (*tap, i, 0, 0), (*(1,) * p.rank, 1, *weights.shape[-2:]))
        return seen.astype(acc) * weight.reshape(weights.shape[-2:]).astype(acc)

    y = _sum(term, (*p.window, per_group))
    y = jnp.swapaxes(y, -1, -2) if _transposed(p) else y
    return y.reshape(p.batch, *p.out, p.features).astype(p.out_dtype)


def kernel_gradient(x, dy, p: Problem):
    per_group = p.channels // p.groups
    if empty(p):
        return jnp.zeros((*p.window, per_group, p.features), p.out_dtype)
    acc = accumulator(p)
    image = _by_group(padded(x, p), p.channels, p)
    cotangent = _by_group(dy, p.features, p)
    # (..., i, 1, g) times (..., 1, o, g), or (..., g, i, 1) times (..., g, 1, o)
    image = image[..., None, :] if _transposed(p) else image[..., None]
    cotangent = jnp.expand_dims(cotangent, -3 if _transposed(p) else -2)

    def term(at):
        seen = _view(image, [o * s for o, s in zip(at, p.strides)], p.window, p.rhs_dilation)
        return seen.astype(acc) * _view(cotangent, at, (1,) * p.rank, (1,) * p.rank).astype(acc)

    dkernel = _sum(term, p.out).sum(0)
    order = (-3, -1, -2) if _transposed(p) else (-2, -3, -1)
    dkernel = dkernel.transpose(*range(p.rank), *(dkernel.ndim + o for o in order))
    return dkernel.reshape(*p.window, per_group, p.features).astype(p.out_dtype)
