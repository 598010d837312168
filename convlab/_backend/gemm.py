"""Convolution as matrix products: every tap's view of the image times that tap's matrix (im2col without the columns;
Chellapilla et al. 2006), grouped ones as products batched over the groups.

A window of one tap is one product, a window that equals its strides one product after a reshape.
"""

from __future__ import annotations

import functools
import itertools
import operator

import jax.numpy as jnp
from jax import lax

from .problem import Problem
from .taps import accumulator, empty, indices, padded, shifted


def sums_directly(p: Problem) -> bool:
    return True


def unsupported_forward(p: Problem) -> str | None:
    return "gemm would multiply the zeros of a dilated input" if any(d > 1 for d in p.lhs_dilation) else None


unsupported_kernel_gradient = unsupported_forward


def tiles(p: Problem) -> bool:
    """Whether the windows tile the image."""
    tiled = all(o * w == s for o, w, s in zip(p.out, p.window, p.spatial))
    return tiled and p.window == p.strides and not any(map(any, p.pads)) and all(d == 1 for d in p.rhs_dilation)


def _columns(x, p: Problem):
    """(n, *out, taps * c) of windows that tile the image."""
    split = x.reshape(p.batch, *itertools.chain(*zip(p.out, p.window)), p.channels)
    order = [0, *range(1, 2 * p.rank, 2), *range(2, 2 * p.rank + 1, 2), 2 * p.rank + 1]
    return split.transpose(order).reshape(p.batch, *p.out, -1)


def _times(seen, weights, p: Problem):
    """(n, *out, g * i) times (i, g * o) -> (n, *out, g * o), group by group."""
    options = dict(precision=p.precision, preferred_element_type=accumulator(p))
    if p.groups == 1:
        return lax.dot_general(seen, weights, (((seen.ndim - 1,), (0,)), ((), ())), **options)
    rows = seen.reshape(-1, p.groups, p.channels // p.groups)
    matrices = weights.reshape(-1, p.groups, p.features // p.groups)
    y = lax.dot_general(rows, matrices, (((2,), (0,)), ((1,), (1,))), **options)
    return y.transpose(1, 0, 2).reshape(*seen.shape[:-1], p.features)


def forward(x, kernel, p: Problem):
    if empty(p):
        return jnp.zeros((p.batch, *p.out, p.features), p.out_dtype)
    if tiles(p) and p.groups == 1:
        return _times(_columns(x, p), kernel.reshape(-1, p.features), p).astype(p.out_dtype)
    image = padded(x, p)
    products = (_times(shifted(image, tap, p), kernel[tap], p) for tap in indices(p))
    return functools.reduce(operator.add, products).astype(p.out_dtype)


def _gram(seen, dy, p: Problem):
    """The sum over batch and space of seen[..., g, i] * dy[..., g, o]: (i, g * o)."""
    options = dict(precision=p.precision, preferred_element_type=accumulator(p))
    rows, cotangents = seen.reshape(-1, seen.shape[-1]), dy.reshape(-1, p.features)
    if p.groups == 1:
        return lax.dot_general(rows, cotangents, (((0,), (0,)), ((), ())), **options)
    rows, cotangents = (a.reshape(a.shape[0], p.groups, -1) for a in (rows, cotangents))
    products = lax.dot_general(rows, cotangents, (((0,), (0,)), ((1,), (1,))), **options)
    return products.transpose(1, 0, 2).reshape(-1, p.features)


def kernel_gradient(x, dy, p: Problem):
    shape = (*p.window, p.channels // p.groups, p.features)
    if empty(p):
        return jnp.zeros(shape, p.out_dtype)
    if tiles(p) and p.groups == 1:
        return _gram(_columns(x, p), dy, p).reshape(shape).astype(p.out_dtype)
    image = padded(x, p)
    return jnp.stack([_gram(shifted(image, tap, p), dy, p) for tap in indices(p)]).reshape(shape).astype(p.out_dtype)
