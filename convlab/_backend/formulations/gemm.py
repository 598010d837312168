"""The formulation `gemm`: for each tap, multiply the slice of the image that it reads by the tap's matrix, and sum.

This is im2col without storing the columns (Chellapilla et al. 2006). Groups are a batch axis of the products. A window
of one tap is one product; windows that tile the image are one product after a reshape. Where many taps fall on padding,
as those of a dilated window or of a small image do, each tap has a product of the positions that it reads inside only.
"""

from __future__ import annotations

import functools
import itertools
import math
import operator

import jax.numpy as jnp
from jax import lax

from ..problem import Problem
from .base import Array, Formulation, Solve, kernel_indices, pad_image, slice_for_tap

LARGE = 256  # taps of a window
MOSTLY = 0.85  # part of the taps inside of the image above which padding costs less than to avoid it


def forward_unsupported(p: Problem) -> str | None:
    return "gemm would multiply the zeros of a dilated input" if p.dilates_input else None


def tiles_image(p: Problem) -> bool:
    """Return whether the windows tile the image."""
    tiled = all(o * w == s for o, w, s in zip(p.out, p.window, p.spatial))
    return tiled and p.window == p.strides and not any(map(any, p.pads)) and all(d == 1 for d in p.kernel_dilation)


def _inside(p: Problem, axis: int, tap: int) -> tuple[int, int]:
    """Return the range (first, end) of the outputs along an axis whose tap at this index falls on the image."""
    stride, shift = p.strides[axis], tap * p.kernel_dilation[axis] - p.pads[axis][0]
    first = min(max(0, -(shift // stride)), p.out[axis])
    return first, max(first, min(p.out[axis], (p.spatial[axis] - 1 - shift) // stride + 1))


def fraction_inside(p: Problem) -> float:
    """Return the part of the taps that fall on the image, over all outputs."""
    counts = [
        sum(end - first for first, end in (_inside(p, axis, tap) for tap in range(window)))
        for axis, window in enumerate(p.window)
    ]
    return math.prod(count / (window * out) for count, window, out in zip(counts, p.window, p.out))


def skips_padding(p: Problem) -> bool:
    """Return whether so many taps fall on padding that products of the positions inside are less work."""
    return p.rank > 0 and fraction_inside(p) <= MOSTLY


Ranges = list[tuple[int, int]]


def _parts_inside(p: Problem) -> list[tuple[tuple[int, ...], Ranges]]:
    """Return the taps that fall on the image, each with the ranges of its outputs."""
    ranges = [(tap, [_inside(p, axis, t) for axis, t in enumerate(tap)]) for tap in kernel_indices(p)]
    return [(tap, spans) for tap, spans in ranges if all(first < end for first, end in spans)]


def _read(x, tap, spans: Ranges, p: Problem):
    """Return the values that a tap reads for a range of outputs, all of them on the image."""
    shifts = [t * d - lo for t, d, (lo, _) in zip(tap, p.kernel_dilation, p.pads)]
    starts = [first * s + shift for (first, _), s, shift in zip(spans, p.strides, shifts)]
    ends = [(end - 1) * s + shift + 1 for (_, end), s, shift in zip(spans, p.strides, shifts)]
    return lax.slice(x, (0, *starts, 0), (x.shape[0], *ends, x.shape[-1]), (1, *p.strides, 1))


def _forward_inside(x, kernel, p: Problem):
    def term(tap, spans: Ranges):
        y = _multiply(_read(x, tap, spans, p), kernel[tap], p)
        around = [(0, 0, 0), *((first, out - end, 0) for (first, end), out in zip(spans, p.out)), (0, 0, 0)]
        return lax.pad(y, jnp.zeros((), y.dtype), around)

    terms = [term(tap, spans) for tap, spans in _parts_inside(p)]
    return functools.reduce(operator.add, terms, jnp.zeros(p.result_shape("forward"), p.accumulator))


def _kernel_gradient_inside(x, dy, p: Problem):
    entries = dict.fromkeys(kernel_indices(p), jnp.zeros((p.channels // p.groups, p.features), p.accumulator))
    for tap, spans in _parts_inside(p):
        cotangents = dy[(slice(None), *(slice(first, end) for first, end in spans))]
        entries[tap] = _multiply_transposed(_read(x, tap, spans, p), cotangents, p)
    return jnp.stack(list(entries.values()))


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
    if skips_padding(p):
        return _forward_inside(x, kernel, p)
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
    if skips_padding(p):
        return _kernel_gradient_inside(x, dy, p).reshape(shape)
    image = pad_image(x, p)
    return jnp.stack([_multiply_transposed(slice_for_tap(image, tap, p), dy, p) for tap in kernel_indices(p)]).reshape(
        shape
    )


GEMM = Formulation("gemm", forward, kernel_gradient, forward_unsupported, forward_unsupported)
