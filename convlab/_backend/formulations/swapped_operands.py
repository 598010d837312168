"""Convolution commutes: the kernel as the image, its features as the batch, and the images as the kernel, with the
batch as features.

The batch then fills the engine's vectors, and where the window hangs over the image's edges most of the time, as in the
gradient of a convolution without padding, the engine leaves out what falls outside. (The oneDNN kernel gradient is the
same exchange.)
"""

from __future__ import annotations

import math

import jax.numpy as jnp
import numpy as np

from .. import engine
from ..problem import Problem
from . import onednn
from .base import Array, Formulation, Solve
from .batch_vectorized import fill


def inside(p: Problem) -> float:
    """The part of the window's places that fall on the image, over all outputs."""

    def along(out, stride, low, window, size):
        place = np.arange(out)[:, None] * stride + np.arange(window) - low
        return ((place >= 0) & (place < size)).mean()

    lows = [low for low, _ in p.pads]
    return math.prod(map(along, p.out, p.strides, lows, p.window, p.spatial))


def forward_unsupported(p: Problem) -> str | None:
    if p.groups > 1 or any(d > 1 for d in (*p.input_dilation, *p.kernel_dilation)):
        return "swapped_operands takes an undilated image and window, ungrouped"
    if not fill(p.batch):
        return "swapped_operands fills vectors with images, which are too few here"
    return onednn.forward_unsupported(p)


def forward(x: Array, kernel: Array, p: Problem, solve: Solve) -> Array:
    ends = [(out - 1) * s for out, s in zip(p.out, p.strides)]
    lows = [end - low for end, (low, _) in zip(ends, p.pads)]
    pads = [(low, end + n - low - w) for low, end, n, w in zip(lows, ends, p.spatial, p.window)]
    image, space = jnp.moveaxis(kernel, -1, 0), range(1, p.rank + 1)
    order = (*space, p.rank + 1, 0)
    y = engine.convolution(image, x, p.out, p.strides, pads, (1,) * p.rank, 1, p.out_dtype, order)
    return jnp.flip(y, space).transpose(p.rank + 1, *space, 0)


# The padding lies around the kernel, where its zeros may meet an inf of the image.
SWAPPED_OPERANDS = Formulation(
    "swapped_operands", forward, None, forward_unsupported, sums_directly=False, needs_engine=True, splits_batch=True
)
