"""ResNet-18 and ResNet-50. Strides are where torchvision has them: in the 3x3 convolution of a bottleneck ("v1.5")."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from flax import nnx

from convlab import nnx as cn


class ConvNorm(nnx.Module):
    """A convolution without bias and the batch normalisation behind it."""

    def __init__(self, seen: int, made: int, window: int, stride: int = 1, groups: int = 1, *, rngs: nnx.Rngs):
        size, pads = (window, window), window // 2
        self.conv = cn.Conv(seen, made, size, stride, padding=pads, feature_group_count=groups, use_bias=False, rngs=rngs)
        self.norm = nnx.BatchNorm(made, momentum=0.9, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.norm(self.conv(x))


class Basic(nnx.Module):
    """Two 3x3 convolutions beside the identity."""

    expansion = 1

    def __init__(self, seen: int, width: int, stride: int, *, rngs: nnx.Rngs):
        self.conv1 = ConvNorm(seen, width, 3, stride, rngs=rngs)
        self.conv2 = ConvNorm(width, width, 3, rngs=rngs)
        self.shortcut = shortcut(seen, width, stride, rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return nnx.relu(self.shortcut(x) + self.conv2(nnx.relu(self.conv1(x))))


class Bottleneck(nnx.Module):
    """1x1 to `width` channels, 3x3 among them, 1x1 to four times as many, beside the identity."""

    expansion = 4

    def __init__(self, seen: int, width: int, stride: int, groups: int = 1, *, rngs: nnx.Rngs):
        self.conv1 = ConvNorm(seen, width, 1, rngs=rngs)
        self.conv2 = ConvNorm(width, width, 3, stride, groups, rngs=rngs)
        self.conv3 = ConvNorm(width, 4 * width, 1, rngs=rngs)
        self.shortcut = shortcut(seen, 4 * width, stride, rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return nnx.relu(self.shortcut(x) + self.conv3(nnx.relu(self.conv2(nnx.relu(self.conv1(x))))))


def shortcut(seen: int, made: int, stride: int, rngs: nnx.Rngs) -> Callable:
    """The identity, or a strided 1x1 convolution where the shape changes."""
    return nnx.identity if seen == made and stride == 1 else ConvNorm(seen, made, 1, stride, rngs=rngs)


class ResNet(nnx.Module):
    """A 7x7 convolution, a max pool, four stages of blocks, each at half the size and twice the channels, and a classifier."""

    def __init__(self, block: Any, depths: tuple[int, ...], classes: int, *, rngs: nnx.Rngs):
        self.stem = ConvNorm(3, 64, 7, 2, rngs=rngs)
        self.pool = cn.MaxPool(3, strides=2, padding=1)
        stages, seen = [], 64
        for stage, depth in enumerate(depths):
            blocks, width = [], 64 * 2**stage
            for nth in range(depth):
                blocks.append(block(seen, width, 2 if stage and not nth else 1, rngs=rngs))
                seen = width * block.expansion
            stages.append(nnx.Sequential(*blocks))
        self.stages = nnx.Sequential(*stages)
        self.head = nnx.Sequential(cn.GlobalAvgPool(), nnx.Linear(seen, classes, rngs=rngs))

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.head(self.stages(self.pool(nnx.relu(self.stem(x)))))


class ResNet18(ResNet):
    """ResNet-18. He, Zhang, Ren, Sun, "Deep residual learning for image recognition", arXiv 1512.03385, table 1.

    Input: 1 x 224 x 224 x 3
    Parameters: 11,689,512 (torchvision's documentation, resnet18)
    Multiply-adds: 1.814 billion (torchvision's documentation, resnet18; the paper rounds to 1.8)
    """

    def __init__(self, classes: int = 1000, *, rngs: nnx.Rngs):
        super().__init__(Basic, (2, 2, 2, 2), classes, rngs=rngs)


class ResNet50(ResNet):
    """ResNet-50. He, Zhang, Ren, Sun, "Deep residual learning for image recognition", arXiv 1512.03385, table 1.

    Input: 1 x 224 x 224 x 3
    Parameters: 25,557,032 (torchvision's documentation, resnet50)
    Multiply-adds: 4.089 billion (torchvision's documentation, resnet50; the paper's 3.8 has the stride in the 1x1 convolution)
    """

    def __init__(self, classes: int = 1000, *, rngs: nnx.Rngs):
        super().__init__(Bottleneck, (3, 4, 6, 3), classes, rngs=rngs)
