"""The fallback that serves everything: `lax.conv_general_dilated`, always as NHWC / HWIO / NHWC.

XLA:CPU has one fast loop nest for convolution and reaches other layouts' only outside loops; operands that are transposed
explicitly keep it inside `scan` too. For kernel gradients JAX itself would write `f01b_i01o->01bf` and `batch_group_count`.
It convolves planes several times faster than volumes, so a third axis becomes a sum over its taps; and it takes groups
one by one, the fewer channels the slower, so small ones are bundled into dense convolutions of some 32 channels.
"""

from __future__ import annotations

import dataclasses
import functools
import operator

import jax.numpy as jnp
from jax import lax

from .problem import Problem
from .taps import accumulator, empty


def direct(p: Problem) -> bool:
    return True


def refusal_forward(p: Problem) -> str | None:
    return None


refusal_kernel_gradient = refusal_forward


def _cropped(x, pads, lhs_dilation):
    """x, pads and dilation without negative pads: with some of them XLA:CPU (jaxlib 0.10.2) reads beyond the image."""
    crops = [(min(lo, 0), min(hi, 0), d - 1 if min(lo, hi) < 0 else 0) for (lo, hi), d in zip(pads, lhs_dilation)]
    if any(map(any, crops)):
        x = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *crops, (0, 0, 0)])
    dilation = tuple(1 if min(pad) < 0 else d for pad, d in zip(pads, lhs_dilation))
    return x, tuple((max(lo, 0), max(hi, 0)) for lo, hi in pads), dilation


def _convolve(x, kernel, strides, pads, lhs_dilation, rhs_dilation, groups, p):
    last = p.rank + 1
    image, taps = (0, last, *range(1, last)), (last, last - 1, *range(last - 1))
    x, pads, lhs_dilation = _cropped(x, pads, lhs_dilation)
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
    return p.rank > 2 and p.lhs_dilation[0] == 1 and not empty(p)


def _planes(x, p: Problem):
    """For each tap of the first axis what it sees, (n * out[0], *spatial[1:], c)."""
    widened = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), (*p.pads[0], 0), *((0, 0, 0),) * p.rank])
    span, stride, step = (p.out[0] - 1) * p.strides[0] + 1, p.strides[0], p.rhs_dilation[0]
    for tap in range(p.window[0]):
        yield lax.slice_in_dim(widened, tap * step, tap * step + span, stride, 1).reshape(-1, *x.shape[2:])


def _plane(p: Problem) -> Problem:
    """The problem of one tap of the first axis."""
    axes = ("spatial", "window", "strides", "pads", "lhs_dilation", "rhs_dilation")
    rest = {name: getattr(p, name)[1:] for name in axes}
    return dataclasses.replace(p, batch=p.batch * p.out[0], out_dtype=accumulator(p), **rest)


def _bundled(p: Problem, exact: bool) -> int:
    """How many groups share a dense convolution. Where it is `exact`, no pixel may meet the zeros between groups."""
    wide = max(p.channels, p.features) // p.groups
    fast = jnp.issubdtype(p.dtype, jnp.floating) and jnp.finfo(p.dtype).bits <= 32
    fits = [b for b in range(1, p.groups + 1) if p.groups % b == 0 and b * wide <= 32]
    return max(fits) if fits and fast and not exact else 1


def _divided(p: Problem, bundle: int) -> Problem:
    """The dense problem of one bundle of groups."""
    share = p.groups // bundle
    return dataclasses.replace(p, channels=p.channels // share, features=p.features // share, groups=1)


def _diagonal(kernel, bundle: int, p: Problem):
    """(*window, c / g, features) -> (*window, bundle * c / g, features): zeros between the groups of a bundle."""
    blocks = kernel.reshape(*kernel.shape[:-1], p.groups // bundle, bundle, -1)
    spread = jnp.where(jnp.eye(bundle, dtype=bool)[:, None, None, :, None], blocks[..., None, :, :, :, :], 0)
    return spread.reshape(*p.window, -1, p.features)


def _few(p: Problem, bundle: int) -> bool:
    return 1 < p.groups <= 16 * bundle and not empty(p)


def forward(x, kernel, p: Problem):
    if _by_planes(p):
        parts = (forward(seen, taps, _plane(p)) for seen, taps in zip(_planes(x, p), kernel))
        return functools.reduce(operator.add, parts).reshape(p.batch, *p.out, p.features).astype(p.out_dtype)
    bundle = _bundled(p, exact=p.precision is not None and lax.Precision.HIGHEST in p.precision)
    if _few(p, bundle):
        parts, kernel = p.groups // bundle, _diagonal(kernel, bundle, p) if bundle > 1 else kernel
        pairs = zip(jnp.split(x, parts, -1), jnp.split(kernel, parts, -1))
        return jnp.concatenate([forward(seen, taps, _divided(p, bundle)) for seen, taps in pairs], -1)
    return _convolve(x, kernel, p.strides, p.pads, p.lhs_dilation, p.rhs_dilation, p.groups, p)


def kernel_gradient(x, dy, p: Problem):
    """A convolution of x by dy with channels in the place of the batch: strides and dilation of the window trade places."""
    if empty(p) or 0 in p.spatial:
        return jnp.zeros((*p.window, p.channels // p.groups, p.features), p.out_dtype)
    if _by_planes(p):
        cotangent = dy.reshape(-1, *p.out[1:], p.features)
        return jnp.stack([kernel_gradient(seen, cotangent, _plane(p)) for seen in _planes(x, p)]).astype(p.out_dtype)
    bundle = _bundled(p, exact=False)
    if _few(p, bundle):
        parts = p.groups // bundle
        pairs = zip(jnp.split(x, parts, -1), jnp.split(dy, parts, -1))
        gram = jnp.concatenate([kernel_gradient(seen, dy, _divided(p, bundle)) for seen, dy in pairs], -1)
        return _diagonal_of(gram, bundle, p)
    grouped = x.reshape(*x.shape[:-1], p.groups, p.channels // p.groups)
    # (c / g, *spatial, g * n): each group sees its own channels as the batch and sums over n
    images = jnp.moveaxis(jnp.moveaxis(grouped, -1, 0), 1, -1).reshape(-1, *p.spatial, p.groups * p.batch)
    pads = tuple(
        (lo, (out - 1) * s + reach - size - lo)
        for (lo, _), out, s, reach, size in zip(p.pads, p.out, p.strides, p.reach, p.dilated)
    )
    dkernel = _convolve(images, jnp.moveaxis(dy, 0, -2), p.rhs_dilation, pads, p.lhs_dilation, p.strides, p.groups, p)
    return jnp.moveaxis(dkernel, 0, -2)


def _diagonal_of(gram, bundle: int, p: Problem):
    """The inverse of `_diagonal`; what crosses from group to group is dropped."""
    blocks = gram.reshape(*p.window, bundle, -1, p.groups // bundle, bundle, p.features // p.groups)
    own = jnp.stack([blocks[..., b, :, :, b, :] for b in range(bundle)], -2)
    return own.reshape(*p.window, -1, p.features)
