"""The formulation `taps`: sum elementwise products of shifted images and weights in fused loops.

It is for convolutions in which a matrix product would contract only a few numbers: depthwise ones (Howard et al. 2017,
arXiv:1704.04861) with any multiplier, many small groups (Xie et al. 2017, arXiv:1611.05431), a handful of channels. The
forward map is a sum over the taps of the window, the kernel gradient a sum over the output positions.
"""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ..buffers import materialize
from ..problem import Problem
from . import depthwise
from .base import UNROLLED, Array, Formulation, Solve, join_groups, pad_image, slice_at, split_groups, sum_over

_LARGE = 2**18  # least number of elements of an image whose padded copy costs more than a few regions
_MOST_REGIONS = 9
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


def _regions(p: Problem, axis: int) -> list[tuple[int, int, int, int]]:
    """Return the regions (first, end, first tap, end tap) of the outputs along an axis that read the same taps."""
    stride, dilation, low = p.strides[axis], p.kernel_dilation[axis], p.pads[axis][0]
    at = np.arange(p.out[axis])[:, None] * stride + np.arange(p.window[axis]) * dilation - low
    inside = (at >= 0) & (at < p.spatial[axis])
    cuts = [0, *(np.flatnonzero((inside[1:] != inside[:-1]).any(1)) + 1), len(inside)]
    taps = [np.flatnonzero(inside[first]) for first in cuts[:-1]]
    ends = [(int(t[0]), int(t[-1]) + 1) if t.size else (0, 0) for t in taps]
    return [(int(first), int(end), *reads) for first, end, reads in zip(cuts, cuts[1:], ends)]


def _has_few_regions(p: Problem) -> bool:
    """Whether a large image is padded by so little that its border is a few regions, cheaper than a padded copy."""
    if not (p.plain_depthwise and any(map(any, p.pads)) and p.batch * math.prod(p.spatial) * p.channels >= _LARGE):
        return False
    regions = [_regions(p, axis) for axis in range(p.rank)]
    reads = all(taps > tap for axis in regions for _, _, tap, taps in axis)
    return reads and math.prod(map(len, regions)) <= _MOST_REGIONS


def _forward_by_regions(x: Array, kernel: Array, p: Problem) -> Array:
    """Compute each region from a part of the image without padding, and join them."""

    def part(region: tuple[tuple[int, int, int, int], ...]) -> Array:
        image, weights, spatial = [slice(None)], [], []
        for axis, (first, end, tap, taps) in enumerate(region):
            stride, dilation = p.strides[axis], p.kernel_dilation[axis]
            start = first * stride + tap * dilation - p.pads[axis][0]
            spatial.append((end - 1 - first) * stride + (taps - 1 - tap) * dilation + 1)
            image.append(slice(start, start + spatial[-1]))
            weights.append(slice(tap, taps))
        inner = dataclasses.replace(
            p,
            spatial=tuple(spatial),
            window=tuple(taps - tap for *_, tap, taps in region),
            pads=((0, 0),) * p.rank,
        )
        return _sums(x[tuple(image)], kernel[tuple(weights)], inner)

    def join(chosen: tuple, axis: int) -> Array:
        if axis == p.rank:
            return part(chosen)
        return jnp.concatenate([join((*chosen, region), axis + 1) for region in _regions(p, axis)], axis + 1)

    return join((), 0)


def forward(x: Array, kernel: Array, p: Problem, solve: Solve) -> Array:
    if p.dilates_input:
        return depthwise.input_gradient(x, kernel, p, p.accumulator)
    compute = _forward_by_regions if _has_few_regions(p) else _sums
    return materialize(compute(x, kernel, p).astype(p.out_dtype))


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
