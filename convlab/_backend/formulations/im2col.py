"""The formulation `im2col`: store the windows of a part of the image as the rows of a matrix and multiply it.

A part is some images, or some rows of one, whose windows fit into a cache; a loop goes over the parts. The kernel
gradient is one product over the positions of each part, where XLA's own convolution has the batch in the place of the
channels. (Chellapilla et al. 2006, "High performance convolutional neural networks for document processing", in parts.)
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax.numpy as jnp
from jax import lax

from ..problem import Problem
from .base import Array, Formulation, Solve, kernel_indices, pad_image, slice_for_tap

MOST = 2**17  # elements of a part's matrix, which half a megabyte of cache holds


def unsupported(p: Problem) -> str | None:
    if p.rank == 0 or p.groups > 1 or p.dilates_input:
        return "im2col takes an undilated image, ungrouped"
    return None


def _sizes(p: Problem) -> tuple[int, int]:
    """Return the images of a part and the rows of their outputs, both divisors of all, one of them all or one."""
    row = math.prod(p.out[1:]) * math.prod(p.window) * p.channels
    rows = max(d for d in range(1, p.out[0] + 1) if p.out[0] % d == 0 and (d == 1 or d * row <= MOST))
    if rows < p.out[0]:
        return 1, rows
    return max(d for d in range(1, p.batch + 1) if p.batch % d == 0 and (d == 1 or d * rows * row <= MOST)), rows


def _part(p: Problem) -> Problem:
    """Return the problem of a part of the padded image."""
    images, rows = _sizes(p)
    lines = (rows - 1) * p.strides[0] + p.effective_size[0]
    spatial = (lines, *(n + sum(pair) for n, pair in zip(p.spatial[1:], p.pads[1:])))
    return dataclasses.replace(p, batch=images, spatial=spatial, pads=((0, 0),) * p.rank)


def _windows(image: Array, index: Array, p: Problem) -> Array:
    """Return the matrix (positions, taps * channels) of the part at this index."""
    part, (images, rows) = _part(p), _sizes(p)
    number, row = jnp.divmod(index, p.out[0] // rows)
    start: list[Any] = [number * images, row * rows * p.strides[0], *[0] * p.rank]
    view = lax.dynamic_slice(image, start, (part.batch, *part.spatial, p.channels))
    taps = [slice_for_tap(view, tap, part) for tap in kernel_indices(p)]
    return jnp.concatenate(taps, -1).reshape(-1, math.prod(p.window) * p.channels)


def _count(p: Problem) -> int:
    images, rows = _sizes(p)
    return p.batch // images * (p.out[0] // rows)


def _multiply(a: Array, b: Array, contracted: int, p: Problem) -> Array:
    dimensions = (((contracted,), (0,)), ((), ()))
    return lax.dot_general(a, b, dimensions, precision=p.precision, preferred_element_type=p.accumulator)


def forward(x: Array, kernel: Array, p: Problem, solve: Solve) -> Array:
    image, weights = pad_image(x, p), kernel.reshape(-1, p.features)

    def part(index: Array) -> Array:
        return _multiply(_windows(image, index, p), weights, 1, p).astype(p.out_dtype)

    return lax.map(part, jnp.arange(_count(p))).reshape(p.result_shape("forward"))


def kernel_gradient(x: Array, dy: Array, p: Problem, solve: Solve) -> Array:
    image, cotangents = pad_image(x, p), dy.reshape(_count(p), -1, p.features)

    def add(index: Array, total: Array) -> Array:
        return total + _multiply(_windows(image, index, p), cotangents[index], 0, p)

    zero = jnp.zeros((math.prod(p.window) * p.channels, p.features), p.accumulator)
    return lax.fori_loop(0, _count(p), add, zero).reshape(p.result_shape("kernel_gradient")).astype(p.out_dtype)


IM2COL = Formulation("im2col", forward, kernel_gradient, unsupported, unsupported, splits_batch=True)
