"""MobileNet v2: inverted residual blocks, whose narrow ends are connected by the identity."""

from __future__ import annotations

import jax
from flax import nnx

from .. import nnx as cn
from ._blocks import ConvNormActivation, Sequential, batch_norm, conv, multiple_of_8
from ._registry import named

ROWS = (  # of the paper's table 2: expansion, channels, repetitions, strides of the first
    (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1),
)  # fmt: skip


class InvertedResidual(nnx.Module):
    """A 1x1 convolution to more channels, a depthwise 3x3 convolution and a 1x1 convolution to fewer channels without
    an activation; the input is added where the shapes are equal."""

    def __init__(self, in_features: int, out_features: int, strides: int, expansion: int, *, rngs: nnx.Rngs):
        wide = in_features * expansion
        expand = ConvNormActivation(in_features, wide, 1, activation=nnx.relu6, rngs=rngs) if expansion > 1 else None
        self.conv = Sequential(
            *([] if expand is None else [expand]),
            ConvNormActivation(wide, wide, 3, strides, groups=wide, activation=nnx.relu6, rngs=rngs),
            conv(wide, out_features, 1, rngs=rngs),
            batch_norm(out_features, rngs=rngs),
        )
        self.residual = strides == 1 and in_features == out_features

    def __call__(self, x: jax.Array) -> jax.Array:
        return x + self.conv(x) if self.residual else self.conv(x)


class MobileNetV2(nnx.Module):
    """MobileNet v2. Sandler et al., "MobileNetV2: Inverted residuals and linear bottlenecks", arXiv 1801.04381, table
    2.

    Args:
        num_classes: number of scores.
        width_mult: multiplies all channels, which are rounded to multiples of 8.
        dropout: rate of the dropout before the classifier.
    """

    def __init__(self, num_classes: int = 1000, width_mult: float = 1.0, dropout: float = 0.2, *, rngs: nnx.Rngs):
        inputs, last = multiple_of_8(32 * width_mult), multiple_of_8(1280 * max(1.0, width_mult))
        layers: list = [ConvNormActivation(3, inputs, 3, 2, activation=nnx.relu6, rngs=rngs)]
        for expansion, channels, repetitions, strides in ROWS:
            features = multiple_of_8(channels * width_mult)
            for nth in range(repetitions):
                layers.append(InvertedResidual(inputs, features, 1 if nth else strides, expansion, rngs=rngs))
                inputs = features
        self.features = Sequential(*layers, ConvNormActivation(inputs, last, 1, activation=nnx.relu6, rngs=rngs))
        self.avgpool = cn.GlobalAvgPool()
        self.classifier = Sequential(nnx.Dropout(dropout, rngs=rngs), nnx.Linear(last, num_classes, rngs=rngs))

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.classifier(self.avgpool(self.features(x)))


MobileNet_V2 = named(
    MobileNetV2,
    "MobileNet_V2",
    """MobileNet v2. Sandler et al., "MobileNetV2: Inverted residuals and linear bottlenecks", arXiv 1801.04381, table
    2.

    Input: 1 x 224 x 224 x 3
    Output: 1 x 1000
    Parameters: 3,504,872 (torchvision's documentation, mobilenet_v2; the paper says 3.4 million)
    Multiply-adds: 300 million (the paper, table 4)
    """,
)
