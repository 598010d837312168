"""ResNet-18 and ResNet-50. Strides are where torchvision has them: in the 3x3 convolution of a bottleneck ("v1.5")."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from flax import nnx

from convlab import nnx as cn


class ConvNorm(nnx.Module):
    """A convolution without bias and the batch normalisation behind it."""

    def __init__(
        self, seen: int, made: int, window: int, strides: int = 1, groups: int = 1, dilation: int = 1, *, rngs: nnx.Rngs
    ):
        options = dict(padding=dilation * (window // 2), kernel_dilation=dilation, feature_group_count=groups, use_bias=False)
        self.conv = cn.Conv(seen, made, (window, window), strides, **options, rngs=rngs)
        self.norm = nnx.BatchNorm(made, momentum=0.9, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.norm(self.conv(x))


class Basic(nnx.Module):
    """Two 3x3 convolutions beside the identity."""

    def __init__(self, seen: int, made: int, strides: int, *, rngs: nnx.Rngs):
        self.conv1 = ConvNorm(seen, made, 3, strides, rngs=rngs)
        self.conv2 = ConvNorm(made, made, 3, rngs=rngs)
        self.shortcut = shortcut(seen, made, strides, rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return nnx.relu(self.shortcut(x) + self.conv2(nnx.relu(self.conv1(x))))


class Bottleneck(nnx.Module):
    """1x1 to fewer channels, 3x3 among them, perhaps in groups or dilated, and 1x1 to `made`, beside the identity."""

    def __init__(
        self, seen: int, made: int, strides: int, narrowing: int = 4, groups: int = 1, dilation: int = 1, *, rngs: nnx.Rngs
    ):
        width = made // narrowing
        self.conv1 = ConvNorm(seen, width, 1, rngs=rngs)
        self.conv2 = ConvNorm(width, width, 3, strides, groups, dilation, rngs=rngs)
        self.conv3 = ConvNorm(width, made, 1, rngs=rngs)
        self.shortcut = shortcut(seen, made, strides, rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return nnx.relu(self.shortcut(x) + self.conv3(nnx.relu(self.conv2(nnx.relu(self.conv1(x))))))


def shortcut(seen: int, made: int, strides: int, rngs: nnx.Rngs) -> Callable:
    """The identity, or a strided 1x1 convolution where the shape changes."""
    return nnx.identity if seen == made and strides == 1 else ConvNorm(seen, made, 1, strides, rngs=rngs)


class ResNet(nnx.Module):
    """A 7x7 convolution, a max pool, four stages of blocks, each at half the size and twice the channels, and a classifier."""

    def __init__(self, block: Any, depths: tuple[int, ...], made: int, classes: int, *, rngs: nnx.Rngs):
        self.stem = ConvNorm(3, 64, 7, 2, rngs=rngs)
        self.pool = cn.MaxPool(3, 2, padding=1)
        blocks, seen = [], 64
        for stage, depth in enumerate(depths):
            for nth in range(depth):
                blocks.append(block(seen, made * 2**stage, 2 if stage and not nth else 1, rngs=rngs))
                seen = made * 2**stage
        self.blocks = nnx.Sequential(*blocks)
        self.head = nnx.Sequential(cn.GlobalAvgPool(), nnx.Linear(seen, classes, rngs=rngs))

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.head(self.blocks(self.pool(nnx.relu(self.stem(x)))))


class ResNet18(ResNet):
    """ResNet-18. He, Zhang, Ren, Sun, "Deep residual learning for image recognition", arXiv 1512.03385, table 1.

    Input: 1 x 224 x 224 x 3
    Output: 1 x 1000
    Parameters: 11,689,512 (torchvision's documentation, resnet18)
    Multiply-adds: 1.81 billion (torchvision's documentation, resnet18; the paper says 1.8)
    """

    def __init__(self, classes: int = 1000, *, rngs: nnx.Rngs):
        super().__init__(Basic, (2, 2, 2, 2), 64, classes, rngs=rngs)


class ResNet50(ResNet):
    """ResNet-50. He, Zhang, Ren, Sun, "Deep residual learning for image recognition", arXiv 1512.03385, table 1.

    Input: 1 x 224 x 224 x 3
    Output: 1 x 1000
    Parameters: 25,557,032 (torchvision's documentation, resnet50)
    Multiply-adds: 4.09 billion (torchvision's documentation, resnet50; the paper's 3.8 has the strides in the 1x1 convolutions)
    """

    def __init__(self, classes: int = 1000, *, rngs: nnx.Rngs):
        super().__init__(Bottleneck, (3, 4, 6, 3), 256, classes, rngs=rngs)
