"""MobileNet v2: bottlenecks inside out, narrow where ResNet's are wide."""

from __future__ import annotations

import jax
from flax import nnx
from mobilenet_v1 import norm

from convlab import nnx as cn

ROWS = (  # of the paper's table 2: expansion, channels made, repetitions, strides of the first
    (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1),
)  # fmt: skip


class InvertedResidual(nnx.Module):
    """1x1 to more channels, 3x3 in each, 1x1 to fewer without a nonlinearity, beside the identity where it fits."""

    def __init__(self, seen: int, made: int, expansion: int, strides: int, *, rngs: nnx.Rngs):
        wide = seen * expansion
        expand = [cn.Conv(seen, wide, (1, 1), use_bias=False, rngs=rngs), norm(wide, rngs), nnx.relu6]
        self.branch = nnx.Sequential(
            *(expand if expansion > 1 else []),
            cn.DepthwiseConv(wide, (3, 3), strides, padding=1, use_bias=False, rngs=rngs), norm(wide, rngs), nnx.relu6,
            cn.Conv(wide, made, (1, 1), use_bias=False, rngs=rngs), norm(made, rngs),
        )  # fmt: skip
        self.residual = strides == 1 and seen == made

    def __call__(self, x: jax.Array) -> jax.Array:
        return x + self.branch(x) if self.residual else self.branch(x)


class MobileNetV2(nnx.Module):
    """MobileNet v2. Sandler et al., "MobileNetV2: Inverted residuals and linear bottlenecks", arXiv 1801.04381, table 2.

    Input: 1 x 224 x 224 x 3
    Output: 1 x 1000
    Parameters: 3,504,872 (torchvision's documentation, mobilenet_v2; the paper says 3.4 million)
    Multiply-adds: 300 million (the paper, table 4)
    """

    def __init__(self, classes: int = 1000, *, rngs: nnx.Rngs):
        self.stem = nnx.Sequential(cn.Conv(3, 32, (3, 3), 2, padding=1, use_bias=False, rngs=rngs), norm(32, rngs), nnx.relu6)
        blocks, seen = [], 32
        for expansion, made, repetitions, strides in ROWS:
            for nth in range(repetitions):
                blocks.append(InvertedResidual(seen, made, expansion, 1 if nth else strides, rngs=rngs))
                seen = made
        self.blocks = nnx.Sequential(*blocks)
        self.head = nnx.Sequential(
            cn.Conv(320, 1280, (1, 1), use_bias=False, rngs=rngs), norm(1280, rngs), nnx.relu6,
            cn.GlobalAvgPool(), nnx.Dropout(0.2, rngs=rngs), nnx.Linear(1280, classes, rngs=rngs),
        )  # fmt: skip

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.head(self.blocks(self.stem(x)))
