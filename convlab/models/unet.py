"""U-Net: Ronneberger, Fischer, Brox, "U-Net: convolutional networks for biomedical image segmentation", arXiv
1505.04597, figure 1."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from .. import nnx as cn
from .. import pad
from ._registry import network

Array = jax.Array


def crop(x: Array, spatial: Sequence[int]) -> Array:
    """Return the middle of an image, of size `spatial`."""
    left = [n - m for n, m in zip(x.shape[1:-1], spatial)]
    return pad(x, [(-(n // 2), n // 2 - n) for n in left])


class Double(nnx.Module):
    """Two 3 x 3 convolutions, each followed by an optional batch normalisation and a ReLU."""

    def __init__(self, in_features: int, out_features: int, *, padding: Any, batch_norm: bool = False, rngs: nnx.Rngs):
        options = dict(kernel_size=(3, 3), padding=padding, use_bias=not batch_norm, rngs=rngs)
        self.conv1 = cn.Conv(in_features, out_features, **options)
        self.conv2 = cn.Conv(out_features, out_features, **options)
        norm = (
            functools.partial(cn.BatchNorm, out_features, momentum=0.9, rngs=rngs)
            if batch_norm
            else lambda: nnx.identity
        )
        self.norm1, self.norm2 = norm(), norm()

    def __call__(self, x: Array) -> Array:
        return nnx.relu(self.norm2(self.conv2(nnx.relu(self.norm1(self.conv1(x))))))


class Up(nnx.Module):
    """A 2 x 2 up-convolution, concatenated after the cropped features of the contracting path, and a `Double`."""

    def __init__(self, in_features: int, out_features: int, *, padding: Any, batch_norm: bool = False, rngs: nnx.Rngs):
        self.up = cn.ConvTranspose(
            in_features, out_features, (2, 2), strides=2, padding="VALID", transpose_kernel=True, rngs=rngs
        )
        self.convs = Double(2 * out_features, out_features, padding=padding, batch_norm=batch_norm, rngs=rngs)

    def __call__(self, x: Array, skip: Array) -> Array:
        x = self.up(x)
        return self.convs(jnp.concatenate([crop(skip, x.shape[1:-1]), x], -1))


class UShape(nnx.Module):
    """A contracting path (`down`, each level followed by `pool`), `bottom`, an expanding path (`up`) that reads its
    features, and `head`."""

    down: nnx.List
    pool: nnx.Module
    bottom: nnx.Module
    up: nnx.List
    head: nnx.Module

    def __call__(self, x: Array) -> Array:
        skips = []
        for double in self.down:
            skips.append(double(x))
            x = self.pool(skips[-1])
        x = self.bottom(x)
        for up, skip in zip(self.up, reversed(skips)):
            x = up(x, skip)
        return self.head(x)


@network
class UNet(UShape):
    """U-Net. Ronneberger, Fischer, Brox, "U-Net: convolutional networks for biomedical image segmentation", arXiv
    1505.04597, figure 1.

    Input: 1 x 572 x 572 x 1
    Output: 1 x 388 x 388 x 2
    Parameters: 31,030,658 (figure 1: 37,568 + sum of 13.5 w**2 + 2 w for w = 128 to 1024 down, sum of 35 w**2 + 3 w for
        w = 512 to 64 up, 130; tf_unet of 5 layers has as many)
    Multiply-adds: 150.4 billion (figure 1: 9 c_in c_out for each position of a result, 4 c_in c_out for each
        input position of an up-convolution)
    Receptive field: 140 at `bottom` (figure 1: 1 + 4 (1 + 2 + 4 + 8 + 16) of the convolutions, 1 + 2 + 4 + 8 of the
        pools)

    It maps `(n, height, width, in_features)` to the scores of the classes, `(n, height - 184, width - 184,
    num_classes)`, or of the size of the input with `padding="SAME"`. The sizes must be even before each pool: 572 - 16
    k, or multiples of 16 with "SAME". `channels` are those of the levels, from the finest to the bottom. `batch_norm`
    is not in the paper; small U-Nets train faster with it.
    """

    def __init__(
        self,
        in_features: int = 1,
        num_classes: int = 2,
        *,
        channels: Sequence[int] = (64, 128, 256, 512, 1024),
        padding: Any = "VALID",
        batch_norm: bool = False,
        rngs: nnx.Rngs,
    ):
        widths, options = [in_features, *channels], dict(padding=padding, batch_norm=batch_norm, rngs=rngs)
        self.down = nnx.List(Double(a, b, **options) for a, b in pairwise(widths[:-1]))
        self.pool = cn.MaxPool((2, 2), strides=2)
        self.bottom = Double(*widths[-2:], **options)
        self.up = nnx.List(Up(b, a, **options) for a, b in zip(channels[-2::-1], channels[:0:-1]))
        self.head = cn.Conv(channels[0], num_classes, (1, 1), rngs=rngs)
