"""MobileNet: depthwise convolutions that filter, and 1x1 convolutions that mix channels. Attributes have timm's names,
because torchvision does not have this network."""

from __future__ import annotations

from collections.abc import Callable

import jax
from flax import nnx

from .. import nnx as cn
from ._blocks import Sequential, batch_norm, conv
from ._registry import named

ROWS = (  # of the paper's table 1, a stage a line: channels, strides
    ((64, 1),),
    ((128, 2), (128, 1)),
    ((256, 2), (256, 1)),
    ((512, 2), *[(512, 1)] * 5),
    ((1024, 2), (1024, 1)),
)


class DepthwiseSeparable(nnx.Module):
    """A depthwise convolution and a 1x1 convolution, each with normalisation and activation."""

    def __init__(self, in_features: int, out_features: int, strides: int, activation: Callable, *, rngs: nnx.Rngs):
        self.conv_dw = conv(in_features, in_features, 3, strides, groups=in_features, rngs=rngs)
        self.bn1 = batch_norm(in_features, rngs=rngs)
        self.conv_pw = conv(in_features, out_features, 1, rngs=rngs)
        self.bn2 = batch_norm(out_features, rngs=rngs)
        self.activation = activation

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.activation(self.bn1(self.conv_dw(x)))
        return self.activation(self.bn2(self.conv_pw(x)))


class MobileNetV1(nnx.Module):
    """MobileNet v1. Howard et al., "MobileNets", arXiv 1704.04861, table 1.

    Args:
        num_classes: number of scores.
        activation: ReLU in the paper, ReLU6 in timm (and in Google's code and weights).
    """

    def __init__(self, num_classes: int = 1000, activation: Callable = nnx.relu, *, rngs: nnx.Rngs):
        self.activation = activation
        self.conv_stem, self.bn1 = conv(3, 32, 3, 2, rngs=rngs), batch_norm(32, rngs=rngs)
        stages, inputs = [], 32
        for rows in ROWS:
            blocks = []
            for features, strides in rows:
                blocks.append(DepthwiseSeparable(inputs, features, strides, activation, rngs=rngs))
                inputs = features
            stages.append(Sequential(*blocks))
        self.blocks = Sequential(*stages)
        self.global_pool = cn.GlobalAvgPool()
        self.classifier = nnx.Linear(inputs, num_classes, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.blocks(self.activation(self.bn1(self.conv_stem(x))))
        return self.classifier(self.global_pool(x))


MobileNet_V1 = named(
    MobileNetV1,
    "MobileNet_V1",
    """MobileNet v1, with ReLU. Howard et al., "MobileNets", arXiv 1704.04861, table 1.

    Input: 1 x 224 x 224 x 3
    Output: 1 x 1000
    Parameters: 4,231,976 (github.com/osmr/imgclsmob, mobilenet_w1, and the trainable ones of Keras' MobileNet; the
        paper says 4.2 million)
    Multiply-adds: 569 million (the paper, table 4)
    Receptive field: 315 at `blocks` (Araujo et al. 2019, mobilenet_v1/Conv2d_13_pointwise)
    """,
    activation=nnx.relu,
)
MobileNetV1_100 = named(
    MobileNetV1,
    "MobileNetV1_100",
    """MobileNet v1 with ReLU6, as timm's `mobilenetv1_100`. Howard et al., "MobileNets", arXiv 1704.04861.""",
    activation=nnx.relu6,
)
