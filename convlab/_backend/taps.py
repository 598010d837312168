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

import jax
import jax.numpy as jnp
from jax import lax

from . import depthwise
from .problem import Problem
from .windows import materialize

# Terms of one fused loop. More would only compile longer; their own sum keeps the accumulators' chains short.
UNROLLED = 16
_MANY = 2**14  # places of the output that are worth a loop for each tap


def accumulator(p: Problem):
    """The dtype of sums: `out_dtype`, but never narrower than float32 among the floats."""
    narrow = jnp.issubdtype(p.out_dtype, jnp.floating) and jnp.finfo(p.out_dtype).bits < 32
    return jnp.dtype(jnp.float32) if narrow else jnp.dtype(p.out_dtype)


def padded(x, p: Problem):
    """x after `lhs_dilation` and `pads`, with one axis before the spatial ones."""
    config = [(0, 0, 0), *((lo, hi, d - 1) for (lo, hi), d in zip(p.pads, p.lhs_dilation))]
    config += [(0, 0, 0)] * (x.ndim - len(config))
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


def sums_directly(p: Problem) -> bool:
    return True


def _plain(p: Problem) -> bool:
    """Depthwise with one feature a channel."""
    return p.depthwise and p.features == p.channels


def unsupported_forward(p: Problem) -> str | None:
    if any(d > 1 for d in p.lhs_dilation):
        if _plain(p) and all(s == 1 for s in p.strides) and depthwise.meetings(p) <= 64:
            return None
        return "taps would multiply the zeros of a dilated input; subpixel splits it first"
    if p.channels // p.groups > 16:
        return "taps unrolls the channels of a group, more than 16 here"
    return None


def unsupported_kernel_gradient(p: Problem) -> str | None:
    if any(d > 1 for d in p.lhs_dilation):
        return "taps would read the zeros of a dilated input; subpixel mirrors it first"
    if p.channels // p.groups * (p.features // p.groups) > 64:
        return "taps keeps a sum for each pair of channels in a group, more than 64 here"
    return unsupported_forward(p)


def summed(term, grid: tuple[int, ...], unrolled: int):
    """The sum of term(index) over a grid: blocks into rows, rows into the whole, so that no chain of additions is long."""
    if math.prod(grid) <= unrolled:
        return functools.reduce(operator.add, map(term, itertools.product(*map(range, grid))))
    *lead, size = grid
    blocks, rest = divmod(size, UNROLLED)
    first = term((0,) * len(grid))
    zero = jnp.where(False, first, jnp.zeros((), first.dtype))  # of the term's type, inside shard_map too

    def some(at, first, count):
        return functools.reduce(operator.add, (term((*at, first + i)) for i in range(count)))

    def row(r, total):
        at = jnp.unravel_index(r, lead) if len(lead) > 1 else (r,) * len(lead)
        if blocks == 1:
            total += some(at, 0, UNROLLED)
        elif blocks:
            total += lax.fori_loop(0, blocks, lambda b, part: part + some(at, b * UNROLLED, UNROLLED), zero)
        return total + some(at, size - rest, rest) if rest else total

    return lax.fori_loop(0, math.prod(lead), row, zero) if lead else row(0, zero)


def window_at(image, start, sizes, strides):
    """A strided slice of the spatial axes, at a position that a loop may compute."""
    tail = image.shape[1 + len(sizes) :]
    spans = [(size - 1) * s + 1 for size, s in zip(sizes, strides)]
    view = lax.dynamic_slice(image, (0, *start, *(0 for _ in tail)), (image.shape[0], *spans, *tail))
    return lax.slice(view, (0,) * view.ndim, view.shape, (1, *strides, *(1 for _ in tail)))


def _vectors(a, p: Problem):
    """(..., g * i) -> i arrays (..., g): the groups lie along the vector."""
    per_group = a.shape[-1] // p.groups
    return [a[..., i::per_group] for i in range(per_group)] if per_group > 1 else [a]


def forward(x, kernel, p: Problem):
    if empty(p):
        return jnp.zeros((p.batch, *p.out, p.features), p.out_dtype)
    acc, per_group = accumulator(p), p.channels // p.groups
    if any(d > 1 for d in p.lhs_dilation):
        return depthwise.input_gradient(x, kernel, p, acc)
    image = padded(x, p)
    if p.groups == 1:
        images, kernels = [image[..., i, None] for i in range(per_group)], [kernel]
    else:
        images, kernels = _vectors(image, p), _vectors(kernel, p)

    def output(weights):
        def term(tap):
            start = [t * d for t, d in zip(tap, p.rhs_dilation)]
            weight = lax.dynamic_slice(weights, (*tap, 0, 0), (*(1,) * p.rank, *weights.shape[-2:]))
            weight = weight.reshape(weights.shape[-2:]).astype(acc)
            return sum(window_at(image, start, p.out, p.strides).astype(acc) * w for image, w in zip(images, weight))

        return summed(term, p.window, 64 // per_group)

    return materialize(_interleaved([output(weights) for weights in kernels]).astype(p.out_dtype))


def _interleaved(parts):
    """The inverse of `_vectors`."""
    return parts[0] if len(parts) == 1 else jnp.stack(parts, -1).reshape(*parts[0].shape[:-1], -1)


def kernel_gradient(x, dy, p: Problem):
    if empty(p):
        return jnp.zeros((*p.window, p.channels // p.groups, p.features), p.out_dtype)
    acc, one = accumulator(p), (1,) * p.rank
    if _plain(p) and math.prod(p.window) <= 9 and p.batch * math.prod(p.out) >= _MANY:
        return depthwise.gram(x, dy, p, acc)
    images, cotangents = _vectors(padded(x, p), p), jnp.stack(_vectors(dy, p))
    single = cotangents.shape[0] == 1

    def row(image):
        def term(at):
            seen = window_at(image, [o * s for o, s in zip(at, p.strides)], p.window, p.rhs_dilation).astype(acc)
            if single:
                return seen * window_at(cotangents[0], at, one, one).astype(acc)
            return seen * jax.vmap(lambda c: window_at(c, at, one, one))(cotangents).astype(acc)

        entries = summed(term, p.out, UNROLLED).sum(-p.rank - 2)
        return entries if single else jnp.moveaxis(entries, 0, -1).reshape(*p.window, -1)

    return jnp.stack([row(image) for image in images], -2).astype(p.out_dtype)
