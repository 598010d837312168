"""The formulations `lax` and `channels_last`: one convolution of lax's in the layout NHWC, HWIO, NHWC.

They support every problem. XLA:CPU has one fast loop nest for convolutions, in this layout, and brings other layouts to
it only outside of loops; with explicitly transposed operands it is used inside `scan` too. For kernel gradients JAX
itself writes `f01b_i01o->01bf` and `batch_group_count`.
"""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
from jax import lax

from .. import compat
from ..problem import Problem
from .base import Array, Formulation, Solve


def forward(x: Array, kernel: Array, p: Problem, solve: Solve | None = None) -> Array:
    pads, input_dilation, cropped = p.pads, p.input_dilation, [min(pad) < 0 for pad in p.pads]
    if any(cropped):  # jaxlib 0.10.2 reads beyond the image if a convolution's pads are negative
        crops = [(*pad, d - 1) if crop else (0, 0, 0) for crop, pad, d in zip(cropped, pads, input_dilation)]
        x = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *crops, (0, 0, 0)])
        pads = tuple((0, 0) if crop else pad for crop, pad in zip(cropped, pads))
        input_dilation = tuple(1 if crop else d for crop, d in zip(cropped, input_dilation))
    last = p.rank + 1
    image, taps = (0, last, *range(1, last)), (last, last - 1, *range(last - 1))
    with compat.marked("lax"):
        return lax.conv_general_dilated(
            x,
            kernel,
            p.strides,
            pads,
            input_dilation,
            p.kernel_dilation,
            lax.ConvDimensionNumbers(image, taps, image),
            feature_group_count=p.groups,
            precision=p.precision,
            preferred_element_type=p.out_dtype,
        )


def kernel_gradient(x: Array, dy: Array, p: Problem, solve: Solve | None = None) -> Array:
    """Convolve x with dy, with the channels in the role of the batch, and strides and kernel dilation swapped."""
    grouped = x.reshape(*x.shape[:-1], p.groups, p.channels // p.groups)
    # (c / g, *spatial, g * n): the channels of a group become the batch, and the sum is over n
    images = jnp.moveaxis(jnp.moveaxis(grouped, -1, 0), 1, -1).reshape(-1, *p.spatial, p.groups * p.batch)
    swapped = dataclasses.replace(p, strides=p.kernel_dilation, pads=p.exact_pads, kernel_dilation=p.strides)
    return jnp.moveaxis(forward(images, jnp.moveaxis(dy, 0, -2), swapped), 0, -2)


LAX = Formulation("lax", forward, kernel_gradient)
# The same under another name, because `method="lax"` means the equation as JAX writes it.
CHANNELS_LAST = Formulation("channels_last", forward, kernel_gradient)
