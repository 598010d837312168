"""A VGG-U-Net: Iglovikov, Shvets, "TernausNet: U-Net with VGG11 encoder pre-trained on ImageNet", arXiv 1801.05746,
figure 1."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from .. import nnx as cn
from ._registry import network

Array = jax.Array


class Convolutions(nnx.Module):
    """3 x 3 convolutions, each with a ReLU."""

    def __init__(self, *channels: int, rngs: nnx.Rngs):
        self.convs = nnx.List(cn.Conv(a, b, (3, 3), rngs=rngs) for a, b in pairwise(channels))

    def __call__(self, x: Array) -> Array:
        for conv in self.convs:
            x = nnx.relu(conv(x))
        return x


class Decoder(nnx.Module):
    """A 3 x 3 convolution and a transposed one that doubles the size, each with a ReLU."""

    def __init__(self, in_features: int, between: int, out_features: int, *, rngs: nnx.Rngs):
        doubling: dict[str, Any] = dict(strides=2, padding=((1, 2), (1, 2)), transpose_kernel=True)
        self.conv = cn.Conv(in_features, between, (3, 3), rngs=rngs)
        self.up = cn.ConvTranspose(between, out_features, (3, 3), rngs=rngs, **doubling)

    def __call__(self, x: Array) -> Array:
        return nnx.relu(self.up(nnx.relu(self.conv(x))))


@network
class VGGUNet(nnx.Module):
    """VGG-U-Net. Iglovikov, Shvets, "TernausNet: U-Net with VGG11 encoder pre-trained on ImageNet", arXiv 1801.05746,
    figure 1.

    Input: 1 x 224 x 224 x 3
    Output: 1 x 224 x 224 x 1
    Parameters: 22,927,393 (figure 1 and ternaus/TernausNet: 9,220,480 of VGG-11's convolutions, (9 c_in + 1) c_out of
        the others, 33)
    Multiply-adds: 19.68 billion (figure 1: 9 c_in c_out for each position of a result, for a transposed convolution of
    its input)

    It maps `(n, height, width, 3)`, with sizes that are multiples of 32, to the scores `(n, height, width,
    num_classes)`. The contracting path has the convolutions of VGG-11 and can load their weights.
    """

    def __init__(self, num_classes: int = 1, *, rngs: nnx.Rngs):
        down = [(3, 64), (64, 128), (128, 256, 256), (256, 512, 512), (512, 512, 512)]
        up = [(512, 512, 256), (768, 512, 256), (768, 512, 128), (384, 256, 64), (192, 128, 32)]
        self.down = nnx.List(Convolutions(*channels, rngs=rngs) for channels in down)
        self.pool = cn.MaxPool((2, 2), strides=2)
        self.up = nnx.List(Decoder(*channels, rngs=rngs) for channels in up)
        self.last = Convolutions(96, 32, rngs=rngs)
        self.head = cn.Conv(32, num_classes, (1, 1), rngs=rngs)

    def __call__(self, x: Array) -> Array:
        skips = []
        for convolutions in self.down:
            skips.append(convolutions(x))
            x = self.pool(skips[-1])
        for decoder, skip in zip(self.up, reversed(skips)):
            x = jnp.concatenate([decoder(x), skip], -1)
        return self.head(self.last(x))
