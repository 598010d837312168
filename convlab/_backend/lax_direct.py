"""The fallback that serves everything: `lax.conv_general_dilated`, always as NHWC / HWIO / NHWC.

XLA:CPU has one fast loop nest for convolution and reaches other layouts' only outside loops; operands that are transposed
explicitly keep it inside `scan` too. For kernel gradients JAX itself would write `f01b_i01o->01bf` and `batch_group_count`.
The nest is for planes and for channels that all meet: a third axis becomes a sum over its taps, a few groups a convolution each.
"""

from __future__ import annotations

import dataclasses
import functools
import operator

import jax.numpy as jnp
from jax import lax

from .problem import Problem
from .taps import accumulator, empty

_FEW = 16  # groups


def sums_directly(p: Problem) -> bool:
    return True


def unsupported_forward(p: Problem) -> str | None:
    return None


unsupported_kernel_gradient = unsupported_forward


def _convolve(x, kernel, strides, pads, lhs_dilation, rhs_dilation, groups, p):
    cropped = [min(pad) < 0 for pad in pads]
    if any(cropped):  # jaxlib 0.10.2 reads beyond an image that its convolution crops
        crops = [(*pad, d - 1) if crop else (0, 0, 0) for crop, pad, d in zip(cropped, pads, lhs_dilation)]
        x = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *crops, (0, 0, 0)])
        pads = [(0, 0) if crop else pad for crop, pad in zip(cropped, pads)]
        lhs_dilation = [1 if crop else d for crop, d in zip(cropped, lhs_dilation)]
    last = p.rank + 1
    image, taps = (0, last, *range(1, last)), (last, last - 1, *range(last - 1))
    return lax.conv_general_dilated(
        x,
        kernel,
        strides,
        pads,
        lhs_dilation,
        rhs_dilation,
        lax.ConvDimensionNumbers(image, taps, image),
        feature_group_count=groups,
        precision=p.precision,
        preferred_element_type=p.out_dtype,
    )


def _by_planes(p: Problem) -> bool:
    return p.rank > 2 and p.lhs_dilation[0] == 1 and not p.depthwise and not empty(p) and 0 not in p.spatial


def _planes(x, p: Problem):
    """For each tap of the first axis what it sees, (n * out[0], *spatial[1:], c)."""
    widened = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), (*p.pads[0], 0), *((0, 0, 0),) * p.rank])
    span, stride, step = (p.out[0] - 1) * p.strides[0] + 1, p.strides[0], p.rhs_dilation[0]
    for tap in range(p.window[0]):
        yield lax.slice_in_dim(widened, tap * step, tap * step + span, stride, 1).reshape(-1, *x.shape[2:])


def _plane(p: Problem) -> Problem:
    """The problem of one tap of the first axis."""
    names = ("spatial", "window", "strides", "pads", "lhs_dilation", "rhs_dilation")
    rest = {name: getattr(p, name)[1:] for name in names}
    return dataclasses.replace(p, batch=p.batch * p.out[0], out_dtype=accumulator(p), **rest)


def _by_groups(p: Problem) -> bool:
    return 1 < p.groups <= _FEW and not empty(p)


def _group(p: Problem) -> Problem:
    return dataclasses.replace(p, channels=p.channels // p.groups, features=p.features // p.groups, groups=1)


def forward(x, kernel, p: Problem):
    if _by_planes(p):
        parts = (forward(seen, taps, _plane(p)) for seen, taps in zip(_planes(x, p), kernel))
        return functools.reduce(operator.add, parts).reshape(p.batch, *p.out, p.features).astype(p.out_dtype)
    if _by_groups(p):
        pairs = zip(jnp.split(x, p.groups, -1), jnp.split(kernel, p.groups, -1))
        return jnp.concatenate([forward(seen, taps, _group(p)) for seen, taps in pairs], -1)
    return convolve(x, kernel, p)


def convolve(x, kernel, p: Problem):
    """One convolution of lax's."""
    return _convolve(x, kernel, p.strides, p.pads, p.lhs_dilation, p.rhs_dilation, p.groups, p)


def kernel_gradient(x, dy, p: Problem):
    if empty(p) or 0 in p.spatial:
        return jnp.zeros((*p.window, p.channels // p.groups, p.features), p.out_dtype)
    if _by_planes(p):
        cotangent = dy.reshape(-1, *p.out[1:], p.features)
        return jnp.stack([kernel_gradient(seen, cotangent, _plane(p)) for seen in _planes(x, p)]).astype(p.out_dtype)
    if _by_groups(p):
        pairs = zip(jnp.split(x, p.groups, -1), jnp.split(dy, p.groups, -1))
        return jnp.concatenate([kernel_gradient(seen, sent, _group(p)) for seen, sent in pairs], -1)
    return convolve_gradient(x, dy, p)


def convolve_gradient(x, dy, p: Problem):
    """A convolution of x by dy with channels in the place of the batch: strides and dilation of the window trade places."""
    grouped = x.reshape(*x.shape[:-1], p.groups, p.channels // p.groups)
    # (c / g, *spatial, g * n): each group sees its own channels as the batch and sums over n
    images = jnp.moveaxis(jnp.moveaxis(grouped, -1, 0), 1, -1).reshape(-1, *p.spatial, p.groups * p.batch)
    pads = tuple(
        (lo, (out - 1) * s + reach - size - lo)
        for (lo, _), out, s, reach, size in zip(p.pads, p.out, p.strides, p.effective_size, p.dilated)
    )
    dkernel = _convolve(images, jnp.moveaxis(dy, 0, -2), p.rhs_dilation, pads, p.lhs_dilation, p.strides, p.groups, p)
    return jnp.moveaxis(dkernel, 0, -2)
