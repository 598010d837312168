"""The formulation `taps`: sum elementwise products of shifted images and weights in fused loops.

It is for convolutions in which a matrix product would contract only a few numbers: depthwise ones (Howard et al. 2017,
arXiv:1704.04861) with any multiplier, many small groups (Xie et al. 2017, arXiv:1611.05431), a handful of channels. The
forward map is a sum over the taps of the window, the kernel gradient a sum over the output positions.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
import operator

import jax
import jax.numpy as jnp
from jax import lax

from ..buffers import materialize, no_inline
from ..problem import Problem
from . import depthwise
from .base import (
    UNROLLED,
    Array,
    Formulation,
    Solve,
    join_groups,
    kernel_indices,
    pad_image,
    slice_at,
    slice_for_tap,
    split_groups,
    sum_over,
)

_LARGE = 2**18  # least number of elements of an image whose padded copy costs more than a border apart
_MOST_TERMS = 80  # of one loop over the features of a group
_MANY = 2**14  # least number of output positions for a loop for each kernel element


def forward_unsupported(p: Problem) -> str | None:
    if p.dilates_input:
        if p.plain_depthwise and all(s == 1 for s in p.strides) and depthwise.max_inputs_per_output(p) <= 64:
            return None
        return "taps would multiply the zeros of a dilated input; subpixel splits it first"
    if p.channels // p.groups > 16:
        return "taps unrolls the channels of a group, more than 16 here"
    return None


def kernel_gradient_unsupported(p: Problem) -> str | None:
    if p.dilates_input:
        return "taps would read the zeros of a dilated input; subpixel mirrors it first"
    if p.channels // p.groups * (p.features // p.groups) > 64:
        return "taps keeps a sum for each pair of channels in a group, more than 64 here"
    return forward_unsupported(p)


def sums_each_tap(p: Problem) -> bool:
    """Return whether its kernel gradient sums products for each tap, and not over the positions one by one."""
    return p.plain_depthwise and math.prod(p.window) <= 9 and p.batch * math.prod(p.out) >= _MANY


def _regions(p: Problem, axis: int) -> list[tuple[int, int]]:
    """Return the ranges of the outputs along an axis before, inside and after those that read no padding."""
    (low, _), stride, out = p.pads[axis], p.strides[axis], p.out[axis]
    first = min(max(0, -(-low // stride)), out)
    end = max(first, min(out, (p.spatial[axis] + low - p.effective_size[axis]) // stride + 1))
    return [(first, end) for first, end in ((0, first), (first, end), (end, out)) if first < end]


def borders_apart(p: Problem) -> bool:
    """Return whether a large image has most outputs inside its border, so that a padded copy of it would cost more."""
    padded = p.plain_depthwise and p.rank <= 2 and any(n > 0 for pair in p.pads for n in pair)
    if not padded or math.prod(p.window) > 25 or p.batch * math.prod(p.spatial) * p.channels < _LARGE:
        return False
    inside = [max(end - first for first, end in _regions(p, axis)) / p.out[axis] for axis in range(p.rank)]
    return math.prod(inside) >= 0.5


def _sums_by_regions(x: Array, kernel: Array, p: Problem) -> Array:
    """Compute the inside of the image as it lies and the border from padded strips, and join them."""

    def part(ranges: tuple[tuple[int, int], ...]) -> Array:
        cuts, pads = [slice(None)], []
        for (first, end), n, stride, effective, (low, _) in zip(ranges, p.spatial, p.strides, p.effective_size, p.pads):
            start, stop = first * stride - low, (end - 1) * stride - low + effective
            cuts.append(slice(min(max(start, 0), n), max(min(stop, n), 0)))
            pads.append((max(-start, 0), max(stop - n, 0)))
        image = x[tuple(cuts)]
        return _sums(image, kernel, dataclasses.replace(p, spatial=image.shape[1:-1], pads=tuple(pads)))

    def join(chosen: tuple[tuple[int, int], ...], axis: int) -> Array:
        if axis == p.rank:
            return part(chosen)
        return jnp.concatenate([join((*chosen, region), axis + 1) for region in _regions(p, axis)], axis + 1)

    return join((), 0)


def forward(x: Array, kernel: Array, p: Problem, solve: Solve) -> Array:
    if p.dilates_input:
        return depthwise.input_gradient(x, kernel, p, p.accumulator)
    if features_fill_vectors(p):
        return no_inline(lambda x, kernel: _sums_by_features(x, kernel, p).astype(p.out_dtype), x, kernel)
    compute = _sums_by_regions if borders_apart(p) else _sums
    return materialize(compute(x, kernel, p).astype(p.out_dtype))


def features_fill_vectors(p: Problem) -> bool:
    """Return whether a loop over the features of a group is vectorised, and its terms are few enough to compile."""
    channels, features = p.channels // p.groups, p.features // p.groups
    return p.groups > 1 and channels > 1 and features % 8 == 0 and channels * math.prod(p.window) <= _MOST_TERMS


def _sums_by_features(x: Array, kernel: Array, p: Problem) -> Array:
    """Multiply each channel by the weights of all features of its group; every term is part of one loop."""
    acc, image, per_group = p.accumulator, pad_image(x, p), p.channels // p.groups
    weights = kernel.astype(acc).reshape(*p.window, per_group, p.groups, -1)

    def products(tap: tuple[int, ...]) -> list[Array]:
        inputs = slice_for_tap(image, tap, p).astype(acc).reshape(p.batch, *p.out, p.groups, per_group)
        return [inputs[..., i, None] * weights[(*tap, i)] for i in range(per_group)]

    terms = itertools.chain.from_iterable(map(products, kernel_indices(p)))
    return functools.reduce(operator.add, terms).reshape(p.batch, *p.out, p.features)


def _sums(x: Array, kernel: Array, p: Problem) -> Array:
    acc, per_group = p.accumulator, p.channels // p.groups
    image = pad_image(x, p)
    if p.groups == 1:
        images, kernels = [image[..., i, None] for i in range(per_group)], [kernel]
    else:
        images, kernels = split_groups(image, p), split_groups(kernel, p)

    def output(weights):
        def term(tap, weights, *images):
            start = [t * d for t, d in zip(tap, p.kernel_dilation)]
            weight = lax.dynamic_slice(weights, (*tap, 0, 0), (*(1,) * p.rank, *weights.shape[-2:]))
            weight = weight.reshape(weights.shape[-2:]).astype(acc)
            return sum(slice_at(image, start, p.out, p.strides).astype(acc) * w for image, w in zip(images, weight))

        return sum_over(term, p.window, 64 // per_group, weights, *images)

    return join_groups([output(weights) for weights in kernels])


def kernel_gradient(x: Array, dy: Array, p: Problem, solve: Solve) -> Array:
    acc, one = p.accumulator, (1,) * p.rank
    if sums_each_tap(p):
        return depthwise.kernel_gradient(x, dy, p, acc)
    images, cotangents = split_groups(pad_image(x, p), p), jnp.stack(split_groups(dy, p))
    single = cotangents.shape[0] == 1

    def row(image):
        def term(at, image, cotangents):
            inputs = slice_at(image, [o * s for o, s in zip(at, p.strides)], p.window, p.kernel_dilation).astype(acc)
            if single:
                return inputs * slice_at(cotangents[0], at, one, one).astype(acc)
            return inputs * jax.vmap(lambda c: slice_at(c, at, one, one))(cotangents).astype(acc)

        entries = sum_over(term, p.out, UNROLLED, image, cotangents).sum(-p.rank - 2)
        return entries if single else jnp.moveaxis(entries, 0, -1).reshape(*p.window, -1)

    return jnp.stack([row(image) for image in images], -2)


TAPS = Formulation("taps", forward, kernel_gradient, forward_unsupported, kernel_gradient_unsupported)
