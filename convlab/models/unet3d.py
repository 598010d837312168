"""The 3-D U-Net: Çiçek et al., "3D U-Net: learning dense volumetric segmentation from sparse annotation", arXiv
1606.06650, figure 2."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from .. import nnx as cn
from ._registry import network
from .unet import UShape, crop

Array = jax.Array


class ConvNorm(nnx.Module):
    """A 3 x 3 x 3 convolution, batch normalisation with a shift only, since a ReLU and a convolution follow, and a
    ReLU."""

    def __init__(self, in_features: int, out_features: int, *, padding: Any, rngs: nnx.Rngs):
        self.conv = cn.Conv(in_features, out_features, (3, 3, 3), padding=padding, use_bias=False, rngs=rngs)
        self.norm = cn.BatchNorm(out_features, momentum=0.9, use_scale=False, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        return nnx.relu(self.norm(self.conv(x)))


class Double(nnx.Module):
    """Two convolutions with `between` channels between them: they double before a pool, which avoids bottlenecks."""

    def __init__(self, in_features: int, between: int, out_features: int, *, padding: Any, rngs: nnx.Rngs):
        self.conv1 = ConvNorm(in_features, between, padding=padding, rngs=rngs)
        self.conv2 = ConvNorm(between, out_features, padding=padding, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        return self.conv2(self.conv1(x))


class Up(nnx.Module):
    """A 2 x 2 x 2 up-convolution, concatenated after the cropped features of the contracting path, and a `Double`."""

    def __init__(self, in_features: int, out_features: int, *, padding: Any, rngs: nnx.Rngs):
        both: dict[str, Any] = dict(padding="VALID", use_bias=False, transpose_kernel=True, rngs=rngs)
        self.up = cn.ConvTranspose(in_features, in_features, (2, 2, 2), strides=2, **both)
        self.convs = Double(in_features + out_features, out_features, out_features, padding=padding, rngs=rngs)

    def __call__(self, x: Array, skip: Array) -> Array:
        x = self.up(x)
        return self.convs(jnp.concatenate([crop(skip, x.shape[1:-1]), x], -1))


@network
class UNet3D(UShape):
    """3-D U-Net. Çiçek, Abdulkadir, Lienkamp, Brox, Ronneberger, "3D U-Net: learning dense volumetric segmentation from
    sparse annotation", arXiv 1606.06650, figure 2.

    Input: 1 x 132 x 132 x 116 x 3
    Output: 1 x 44 x 44 x 28 x 3
    Parameters: 19,069,955 (section 2; it is the count of the kernels and of one number for each channel of the 3 x 3 x
        3 convolutions)
    Multiply-adds: 266.7 billion (figure 2: 27 c_in c_out for each position of a result, 8 c_in c_out for each
        input position of an up-convolution)
    Receptive field: 68 at `bottom` (figure 2: 1 + 4 (1 + 2 + 4 + 8) of the convolutions, 1 + 2 + 4 of the pools)

    It maps `(n, depth, height, width, in_features)` to the scores of the classes, `(n, depth - 88, height - 88, width -
    88, num_classes)`, or of the size of the input with `padding="SAME"`. The sizes must be even before each pool:
    multiples of 8, plus 4 without padding. `channels` are those after each level, from the finest to the bottom.
    """

    def __init__(
        self,
        in_features: int = 3,
        num_classes: int = 3,
        *,
        channels: Sequence[int] = (64, 128, 256, 512),
        padding: Any = "VALID",
        rngs: nnx.Rngs,
    ):
        *levels, bottom = [
            Double(a, b // 2, b, padding=padding, rngs=rngs) for a, b in zip((in_features, *channels), channels)
        ]
        self.down, self.bottom = nnx.List(levels), bottom
        self.pool = cn.MaxPool((2, 2, 2), strides=2)
        self.up = nnx.List(Up(b, a, padding=padding, rngs=rngs) for a, b in zip(channels[-2::-1], channels[:0:-1]))
        self.head = cn.Conv(channels[0], num_classes, (1, 1, 1), rngs=rngs)
