"""The fallback that serves everything: `lax.conv_general_dilated`, always as NHWC / HWIO / NHWC.

XLA:CPU has one fast loop nest for convolution and reaches other layouts' only outside loops; operands that are transposed
explicitly keep it inside `scan` too. For kernel gradients JAX itself would write `f01b_i01o->01bf` and `batch_group_count`.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import lax

from .problem import Problem


def direct(p: Problem) -> bool:
    return True


def refusal_forward(p: Problem) -> str | None:
    return None


refusal_kernel_gradient = refusal_forward


def _convolve(x, kernel, strides, pads, lhs_dilation, rhs_dilation, groups, p):
    if any(min(pad) < 0 for pad in pads):  # jaxlib 0.10.2 reads beyond an image that its convolution crops
        crops = [(min(lo, 0), min(hi, 0), d - 1) for (lo, hi), d in zip(pads, lhs_dilation)]
        x = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *crops, (0, 0, 0)])
        pads, lhs_dilation = [(max(lo, 0), max(hi, 0)) for lo, hi in pads], (1,) * p.rank
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


def forward(x, kernel, p: Problem):
    return _convolve(x, kernel, p.strides, p.pads, p.lhs_dilation, p.rhs_dilation, p.groups, p)


def kernel_gradient(x, dy, p: Problem):
    """A convolution of x by dy with channels in the place of the batch: strides and dilation of the window trade places."""
    if 0 in x.shape or 0 in dy.shape:
        return jnp.zeros((*p.window, p.channels // p.groups, p.features), p.out_dtype)
    grouped = x.reshape(*x.shape[:-1], p.groups, p.channels // p.groups)
    # (c / g, *spatial, g * n): each group sees its own channels as the batch and sums over n
    images = jnp.moveaxis(jnp.moveaxis(grouped, -1, 0), 1, -1).reshape(-1, *p.spatial, p.groups * p.batch)
    pads = tuple(
        (lo, (out - 1) * s + reach - size - lo)
        for (lo, _), out, s, reach, size in zip(p.pads, p.out, p.strides, p.reach, p.dilated)
    )
    dkernel = _convolve(images, jnp.moveaxis(dy, 0, -2), p.rhs_dilation, pads, p.lhs_dilation, p.strides, p.groups, p)
    return jnp.moveaxis(dkernel, 0, -2)
