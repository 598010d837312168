"""One convolution of lax's, always as NHWC / HWIO / NHWC: it serves everything.

XLA:CPU has one fast loop nest for convolution and reaches other layouts' only outside loops; operands that are
transposed explicitly keep it inside `scan` too. For kernel gradients JAX itself would write `f01b_i01o->01bf` and
`batch_group_count`.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import lax

from .. import compat
from ..problem import Problem
from .base import Array, Formulation, Solve


def _convolve(x, kernel, strides, pads, input_dilation, kernel_dilation, groups, p: Problem) -> Array:
    cropped = [min(pad) < 0 for pad in pads]
    if any(cropped):  # jaxlib 0.10.2 reads beyond an image that its convolution crops
        crops = [(*pad, d - 1) if crop else (0, 0, 0) for crop, pad, d in zip(cropped, pads, input_dilation)]
        x = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *crops, (0, 0, 0)])
        pads = [(0, 0) if crop else pad for crop, pad in zip(cropped, pads)]
        input_dilation = [1 if crop else d for crop, d in zip(cropped, input_dilation)]
    last = p.rank + 1
    image, taps = (0, last, *range(1, last)), (last, last - 1, *range(last - 1))
    with compat.marked("lax"):
        return lax.conv_general_dilated(
            x,
            kernel,
            strides,
            pads,
            input_dilation,
            kernel_dilation,
            lax.ConvDimensionNumbers(image, taps, image),
            feature_group_count=groups,
            precision=p.precision,
            preferred_element_type=p.out_dtype,
        )


def forward(x: Array, kernel: Array, p: Problem, solve: Solve | None = None) -> Array:
    return _convolve(x, kernel, p.strides, p.pads, p.input_dilation, p.kernel_dilation, p.groups, p)


def kernel_gradient(x: Array, dy: Array, p: Problem, solve: Solve | None = None) -> Array:
    """A convolution of x by dy with channels in the place of the batch: strides and dilation of the window trade
    places."""
    grouped = x.reshape(*x.shape[:-1], p.groups, p.channels // p.groups)
    # (c / g, *spatial, g * n): each group has its own channels as the batch and sums over n
    images = jnp.moveaxis(jnp.moveaxis(grouped, -1, 0), 1, -1).reshape(-1, *p.spatial, p.groups * p.batch)
    pads = tuple(
        (lo, (out - 1) * s + extent - size - lo)
        for (lo, _), out, s, extent, size in zip(p.pads, p.out, p.strides, p.effective_size, p.dilated)
    )
    dkernel = _convolve(
        images, jnp.moveaxis(dy, 0, -2), p.kernel_dilation, pads, p.input_dilation, p.strides, p.groups, p
    )
    return jnp.moveaxis(dkernel, 0, -2)


LAX = Formulation("lax", forward, kernel_gradient)
# The same under a name of its own: `method="lax"` asks for the equation as JAX writes it.
CHANNELS_LAST = Formulation("channels_last", forward, kernel_gradient)
