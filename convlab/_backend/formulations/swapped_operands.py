"""The formulation `swapped_operands`: convolve the kernel, as the image, with the images as the kernel.

The batch becomes the features, which fill the engine's vectors, and the features become the batch. If most of the
window falls on padding, as in the input gradient of a convolution without padding, the engine skips that part. (The
kernel gradient of `onednn` swaps the operands the same way.)
"""

from __future__ import annotations

import math

import jax.numpy as jnp
import numpy as np

from .. import engine
from ..problem import Problem
from . import onednn
from .base import Array, Formulation, Solve
from .batch_vectorized import fills_vectors


def fraction_inside(p: Problem) -> float:
    """Return the fraction of taps that fall on the image, over all outputs."""

    def along(out, stride, low, window, size):
        position = np.arange(out)[:, None] * stride + np.arange(window) - low
        return ((position >= 0) & (position < size)).mean()

    lows = [low for low, _ in p.pads]
    return math.prod(map(along, p.out, p.strides, lows, p.window, p.spatial))


def forward_unsupported(p: Problem) -> str | None:
    if p.groups > 1 or any(d > 1 for d in (*p.input_dilation, *p.kernel_dilation)):
        return "swapped_operands takes an undilated image and window, ungrouped"
    if not fills_vectors(p.batch):
        return "swapped_operands fills vectors with images, which are too few here"
    return onednn.forward_unsupported(p)


def forward(x: Array, kernel: Array, p: Problem, solve: Solve) -> Array:
    ends = [(out - 1) * s for out, s in zip(p.out, p.strides)]
    lows = [end - low for end, (low, _) in zip(ends, p.pads)]
    pads = [(low, end + n - low - w) for low, end, n, w in zip(lows, ends, p.spatial, p.window)]
    image, space = jnp.moveaxis(kernel, -1, 0), range(1, p.rank + 1)
    order = (*space, p.rank + 1, 0)
    options = dict(out=p.out, strides=p.strides, pads=pads, dilation=(1,) * p.rank, groups=1)
    y = engine.convolution(image, x, dtype=p.out_dtype, order=order, **options)
    return jnp.flip(y, space).transpose(p.rank + 1, *space, 0)


# The padding is around the kernel, where its zeros are multiplied by the image, which may be inf.
SWAPPED_OPERANDS = Formulation(
    "swapped_operands", forward, None, forward_unsupported, sums_directly=False, needs_engine=True, splits_batch=True
)
