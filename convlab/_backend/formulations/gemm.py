"""The formulation `gemm`: for each tap, multiply the slice of the image that it reads by the tap's matrix, and sum.

This is im2col without storing the columns (Chellapilla et al. 2006). Groups are a batch axis of the products. A window
of one tap is one product; windows that tile the image are one product after a reshape.
"""

from __future__ import annotations

import functools
import itertools
import operator

import jax.numpy as jnp
from jax import lax

from ..problem import Problem
from .base import Array, Formulation, Solve, kernel_indices, pad_image, slice_for_tap


def forward_unsupported(p: Problem) -> str | None:
    return "gemm would multiply the zeros of a dilated input" if p.dilates_input else None


def tiles_image(p: Problem) -> bool:
    """Return whether the windows tile the image."""
    tiled = all(o * w == s for o, w, s in zip(p.out, p.window, p.spatial))
    return tiled and p.window == p.strides and not any(map(any, p.pads)) and all(d == 1 for d in p.kernel_dilation)


def _columns(x, p: Problem):
    """Reshape an image that the windows tile to (n, *out, taps * c)."""
    split = x.reshape(p.batch, *itertools.chain(*zip(p.out, p.window)), p.channels)
    order = [0, *range(1, 2 * p.rank, 2), *range(2, 2 * p.rank + 1, 2), 2 * p.rank + 1]
    return split.transpose(order).reshape(p.batch, *p.out, -1)


def _multiply(inputs, weights, p: Problem):
    """Multiply (n, *out, g * i) by (i, g * o), group by group: (n, *out, g * o)."""
    options = dict(precision=p.precision, preferred_element_type=p.accumulator)
    if p.groups == 1:
        return lax.dot_general(inputs, weights, (((inputs.ndim - 1,), (0,)), ((), ())), **options)
    rows = inputs.reshape(-1, p.groups, p.channels // p.groups)
    matrices = weights.reshape(-1, p.groups, p.features // p.groups)
    y = lax.dot_general(rows, matrices, (((2,), (0,)), ((1,), (1,))), **options)
    return y.transpose(1, 0, 2).reshape(*inputs.shape[:-1], p.features)


def forward(x: Array, kernel: Array, p: Problem, solve: Solve) -> Array:
    if tiles_image(p) and p.groups == 1:
        return _multiply(_columns(x, p), kernel.reshape(-1, p.features), p).astype(p.out_dtype)
    image = pad_image(x, p)
    products = (_multiply(slice_for_tap(image, tap, p), kernel[tap], p) for tap in kernel_indices(p))
    return functools.reduce(operator.add, products)


def _multiply_transposed(inputs, dy, p: Problem):
    """Sum inputs[..., g, i] * dy[..., g, o] over batch and space: (i, g * o)."""
    options = dict(precision=p.precision, preferred_element_type=p.accumulator)
    rows, cotangents = inputs.reshape(-1, inputs.shape[-1]), dy.reshape(-1, p.features)
    if p.groups == 1:
        return lax.dot_general(rows, cotangents, (((0,), (0,)), ((), ())), **options)
    rows, cotangents = (a.reshape(a.shape[0], p.groups, -1) for a in (rows, cotangents))
    products = lax.dot_general(rows, cotangents, (((0,), (0,)), ((1,), (1,))), **options)
    return products.transpose(1, 0, 2).reshape(-1, p.features)


def kernel_gradient(x: Array, dy: Array, p: Problem, solve: Solve) -> Array:
    shape = (*p.window, p.channels // p.groups, p.features)
    if tiles_image(p) and p.groups == 1:
        return _multiply_transposed(_columns(x, p), dy, p).reshape(shape).astype(p.out_dtype)
    image = pad_image(x, p)
    return jnp.stack([_multiply_transposed(slice_for_tap(image, tap, p), dy, p) for tap in kernel_indices(p)]).reshape(
        shape
    )


GEMM = Formulation("gemm", forward, kernel_gradient, forward_unsupported, forward_unsupported)
