"""MobileNet: depthwise convolutions that filter, and 1x1 convolutions that mix."""

from __future__ import annotations

import jax
from flax import nnx

from convlab import nnx as cn

ROWS = (  # of the paper's table 1: channels made, strides
    (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1),
)  # fmt: skip


def norm(channels: int, rngs: nnx.Rngs) -> nnx.BatchNorm:
    return nnx.BatchNorm(channels, momentum=0.9, rngs=rngs)


class MobileNetV1(nnx.Module):
    """MobileNet v1. Howard et al., "MobileNets", arXiv 1704.04861, table 1.

    Input: 1 x 224 x 224 x 3
    Output: 1 x 1000
    Parameters: 4,231,976 (github.com/osmr/imgclsmob, mobilenet_w1, and the trainable ones of Keras' MobileNet; the paper says 4.2 million)
    Multiply-adds: 569 million (the paper, table 4)
    Receptive field: 315 at `features` (Araujo et al. 2019, mobilenet_v1/Conv2d_13_pointwise)
    """

    def __init__(self, classes: int = 1000, *, rngs: nnx.Rngs):
        layers, seen = [cn.Conv(3, 32, (3, 3), 2, padding=1, use_bias=False, rngs=rngs), norm(32, rngs), nnx.relu], 32
        for made, strides in ROWS:
            layers += [
                cn.DepthwiseConv(seen, (3, 3), strides, padding=1, use_bias=False, rngs=rngs), norm(seen, rngs), nnx.relu,
                cn.Conv(seen, made, (1, 1), use_bias=False, rngs=rngs), norm(made, rngs), nnx.relu,
            ]  # fmt: skip
            seen = made
        self.features = nnx.Sequential(*layers)
        self.head = nnx.Sequential(cn.GlobalAvgPool(), nnx.Linear(seen, classes, rngs=rngs))

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.head(self.features(x))
