"""MNASNet, the variant B1."""

from __future__ import annotations

from functools import partial

import jax
from flax import nnx

from .. import nnx as cn
from ._blocks import Sequential, batch_norm, conv, divisible
from ._registry import named

norm = partial(batch_norm, momentum=0.9997)
ROWS = (  # of the paper's figure 7: channels, window, strides of the first, expansion, repetitions
    (24, 3, 2, 3, 3), (40, 5, 2, 3, 3), (80, 5, 2, 6, 3), (96, 3, 1, 6, 2), (192, 5, 2, 6, 4), (320, 3, 1, 6, 1),
)  # fmt: skip


class InvertedResidual(nnx.Module):
    """A 1x1 convolution to more channels, a depthwise convolution and a 1x1 convolution to fewer channels without an
    activation; the input is added where the shapes are equal."""

    def __init__(
        self, in_features: int, out_features: int, window: int, strides: int, expansion: int, *, rngs: nnx.Rngs
    ):
        wide = in_features * expansion
        self.layers = Sequential(
            conv(in_features, wide, 1, rngs=rngs), norm(wide, rngs=rngs), nnx.relu,
            conv(wide, wide, window, strides, groups=wide, rngs=rngs), norm(wide, rngs=rngs), nnx.relu,
            conv(wide, out_features, 1, rngs=rngs), norm(out_features, rngs=rngs),
        )  # fmt: skip
        self.residual = strides == 1 and in_features == out_features

    def __call__(self, x: jax.Array) -> jax.Array:
        return x + self.layers(x) if self.residual else self.layers(x)


class MNASNet(nnx.Module):
    """MNASNet. Tan et al., "MnasNet: Platform-aware neural architecture search for mobile", arXiv 1807.11626.

    Args:
        alpha: multiplies all channels, which are rounded to multiples of 8.
        num_classes: number of scores.
        dropout: rate of the dropout before the classifier.
    """

    torch_version = 2  # since this version `alpha` also scales the first layers

    def __init__(self, alpha: float, num_classes: int = 1000, dropout: float = 0.2, *, rngs: nnx.Rngs):
        first, second = divisible(32 * alpha, 8), divisible(16 * alpha, 8)
        layers: list = [
            conv(3, first, 3, 2, rngs=rngs), norm(first, rngs=rngs), nnx.relu,
            conv(first, first, 3, groups=first, rngs=rngs), norm(first, rngs=rngs), nnx.relu,
            conv(first, second, 1, rngs=rngs), norm(second, rngs=rngs),
        ]  # fmt: skip
        inputs = second
        for channels, window, strides, expansion, repetitions in ROWS:
            features, blocks = divisible(channels * alpha, 8), []
            for nth in range(repetitions):
                blocks.append(InvertedResidual(inputs, features, window, 1 if nth else strides, expansion, rngs=rngs))
                inputs = features
            layers.append(Sequential(*blocks))
        self.layers = Sequential(*layers, conv(inputs, 1280, 1, rngs=rngs), norm(1280, rngs=rngs), nnx.relu)
        self.avgpool = cn.GlobalAvgPool()
        self.classifier = Sequential(nnx.Dropout(dropout, rngs=rngs), nnx.Linear(1280, num_classes, rngs=rngs))

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.classifier(self.avgpool(self.layers(x)))


MNASNet0_5 = named(MNASNet, "MNASNet0_5", alpha=0.5)
MNASNet0_75 = named(MNASNet, "MNASNet0_75", alpha=0.75)
MNASNet1_0 = named(MNASNet, "MNASNet1_0", alpha=1.0)
MNASNet1_3 = named(MNASNet, "MNASNet1_3", alpha=1.3)
