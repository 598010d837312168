"""EfficientNet B0 to B7, one table scaled in width and depth, and EfficientNet v2 S, M and L."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import jax
from flax import nnx

from .. import nnx as cn
from ._blocks import ConvNormActivation, Sequential, SqueezeExcitation, batch_norm, multiple_of_8, stochastic_depth
from ._registry import named


class Residual(nnx.Module):
    """A layer that adds the input to the result of `block` where their shapes are equal; training skips the block for a
    fraction `rate` of the images."""

    def __init__(self, block: Sequential, equal: bool, rate: float, *, rngs: nnx.Rngs):
        self.block = block
        self.stochastic_depth = stochastic_depth(rate, rngs=rngs) if equal else None

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.block(x) if self.stochastic_depth is None else x + self.stochastic_depth(self.block(x))


def mbconv(
    inputs: int, features: int, expansion: int, window: int, strides: int, unit: Callable, rngs: nnx.Rngs
) -> Sequential:
    """Create an MBConv block: a 1x1 convolution to more channels, a depthwise convolution, squeeze and excitation, and
    a 1x1 convolution to fewer channels."""
    wide = multiple_of_8(inputs * expansion)
    return Sequential(
        *([] if wide == inputs else [unit(inputs, wide, 1)]),
        unit(wide, wide, window, strides, groups=wide),
        SqueezeExcitation(wide, max(1, inputs // 4), activation=nnx.silu, rngs=rngs),
        unit(wide, features, 1, activation=None),
    )


def fused(
    inputs: int, features: int, expansion: int, window: int, strides: int, unit: Callable, rngs: nnx.Rngs
) -> Sequential:
    """Create a fused MBConv block: a convolution to more channels and a 1x1 convolution to fewer; a single convolution
    if the block does not expand the channels."""
    wide = multiple_of_8(inputs * expansion)
    if wide == inputs:
        return Sequential(unit(inputs, features, window, strides))
    return Sequential(unit(inputs, wide, window, strides), unit(wide, features, 1, activation=None))


# A row for each stage: block, expansion, window, strides of the first block, channels, repetitions.
B = (
    (mbconv, 1, 3, 1, 16, 1),
    (mbconv, 6, 3, 2, 24, 2),
    (mbconv, 6, 5, 2, 40, 2),
    (mbconv, 6, 3, 2, 80, 3),
    (mbconv, 6, 5, 1, 112, 3),
    (mbconv, 6, 5, 2, 192, 4),
    (mbconv, 6, 3, 1, 320, 1),
)
S = (
    (fused, 1, 3, 1, 24, 2),
    (fused, 4, 3, 2, 48, 4),
    (fused, 4, 3, 2, 64, 4),
    (mbconv, 4, 3, 2, 128, 6),
    (mbconv, 6, 3, 1, 160, 9),
    (mbconv, 6, 3, 2, 256, 15),
)
MEDIUM = (
    (fused, 1, 3, 1, 24, 3),
    (fused, 4, 3, 2, 48, 5),
    (fused, 4, 3, 2, 80, 5),
    (mbconv, 4, 3, 2, 160, 7),
    (mbconv, 6, 3, 1, 176, 14),
    (mbconv, 6, 3, 2, 304, 18),
    (mbconv, 6, 3, 1, 512, 5),
)
L = (
    (fused, 1, 3, 1, 32, 4),
    (fused, 4, 3, 2, 64, 7),
    (fused, 4, 3, 2, 96, 7),
    (mbconv, 4, 3, 2, 192, 10),
    (mbconv, 6, 3, 1, 224, 19),
    (mbconv, 6, 3, 2, 384, 25),
    (mbconv, 6, 3, 1, 640, 7),
)


class EfficientNet(nnx.Module):
    """EfficientNet. Tan, Le, "EfficientNet: Rethinking model scaling for convolutional neural networks", arXiv
    1905.11946, and "EfficientNetV2: Smaller models and faster training", arXiv 2104.00298.

    Args:
        rows: the stages, of one of the tables in this file.
        dropout: rate of the dropout before the classifier.
        stochastic_depth_prob: the rate at which whole images skip the last block in training; it grows from 0 with the
            depth.
        num_classes: number of scores.
        stem: channels of the first convolution.
        last_channel: channels of the last convolution; 4 times the last stage's by default.
        width_mult, depth_mult: scale channels and repetitions.
        norm: a function that makes a normalisation.
    """

    def __init__(
        self,
        rows: Sequence[tuple],
        dropout: float,
        stochastic_depth_prob: float = 0.2,
        num_classes: int = 1000,
        *,
        stem: int = 32,
        last_channel: int | None = None,
        width_mult: float = 1.0,
        depth_mult: float = 1.0,
        norm: Callable = batch_norm,
        rngs: nnx.Rngs,
    ):
        unit = partial(ConvNormActivation, norm=norm, activation=nnx.silu, rngs=rngs)
        inputs, depths = multiple_of_8(stem * width_mult), [math.ceil(row[-1] * depth_mult) for row in rows]
        layers: list = [unit(3, inputs, 3, 2)]
        nth, total = 0, sum(depths)
        for (block, expansion, window, first, channels, _), depth in zip(rows, depths):
            features, blocks = multiple_of_8(channels * width_mult), []
            for position in range(depth):
                strides = 1 if position else first
                inner = block(inputs, features, expansion, window, strides, unit, rngs)
                equal = strides == 1 and inputs == features
                blocks.append(Residual(inner, equal, stochastic_depth_prob * nth / total, rngs=rngs))
                inputs, nth = features, nth + 1
            layers.append(Sequential(*blocks))
        last = last_channel or 4 * inputs
        self.features = Sequential(*layers, unit(inputs, last, 1))
        self.avgpool = cn.GlobalAvgPool()
        self.classifier = Sequential(nnx.Dropout(dropout, rngs=rngs), nnx.Linear(last, num_classes, rngs=rngs))

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.classifier(self.avgpool(self.features(x)))


scaled = partial(named, EfficientNet, rows=B)
EfficientNet_B0 = scaled("EfficientNet_B0", dropout=0.2)
EfficientNet_B1 = scaled("EfficientNet_B1", dropout=0.2, depth_mult=1.1)
EfficientNet_B2 = scaled("EfficientNet_B2", dropout=0.3, width_mult=1.1, depth_mult=1.2)
EfficientNet_B3 = scaled("EfficientNet_B3", dropout=0.3, width_mult=1.2, depth_mult=1.4)
EfficientNet_B4 = scaled("EfficientNet_B4", dropout=0.4, width_mult=1.4, depth_mult=1.8)
slow = partial(batch_norm, epsilon=1e-3, momentum=0.99)
EfficientNet_B5 = scaled("EfficientNet_B5", dropout=0.4, width_mult=1.6, depth_mult=2.2, norm=slow)
EfficientNet_B6 = scaled("EfficientNet_B6", dropout=0.5, width_mult=1.8, depth_mult=2.6, norm=slow)
EfficientNet_B7 = scaled("EfficientNet_B7", dropout=0.5, width_mult=2.0, depth_mult=3.1, norm=slow)
second = partial(named, EfficientNet, last_channel=1280, norm=partial(batch_norm, epsilon=1e-3))
EfficientNet_V2_S = second("EfficientNet_V2_S", rows=S, dropout=0.2, stem=24)
EfficientNet_V2_M = second("EfficientNet_V2_M", rows=MEDIUM, dropout=0.3, stem=24)
EfficientNet_V2_L = second("EfficientNet_V2_L", rows=L, dropout=0.4, stem=32)
