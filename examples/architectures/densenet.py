"""DenseNet-121: each layer sees what all layers before it made."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from convlab import nnx as cn

GROWTH, DEPTHS = 32, (6, 12, 24, 16)


def norm_relu_conv(seen: int, made: int, window: int, *, rngs: nnx.Rngs) -> list:
    conv = cn.Conv(seen, made, (window, window), padding=window // 2, use_bias=False, rngs=rngs)
    return [nnx.BatchNorm(seen, momentum=0.9, rngs=rngs), nnx.relu, conv]


class Dense(nnx.Module):
    """1x1 to a bottleneck, 3x3 to `GROWTH` channels, which are put behind those that it saw."""

    def __init__(self, seen: int, *, rngs: nnx.Rngs):
        self.layers = nnx.Sequential(
            *norm_relu_conv(seen, 4 * GROWTH, 1, rngs=rngs), *norm_relu_conv(4 * GROWTH, GROWTH, 3, rngs=rngs)
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        return jnp.concatenate([x, self.layers(x)], axis=-1)


class DenseNet121(nnx.Module):
    """DenseNet-121. Huang, Liu, van der Maaten, Weinberger, "Densely connected convolutional networks", arXiv 1608.06993.

    Input: 1 x 224 x 224 x 3
    Output: 1 x 1000
    Parameters: 7,978,856 (torchvision's documentation, densenet121)
    Multiply-adds: 2.83 billion (torchvision's documentation, densenet121)
    """

    def __init__(self, classes: int = 1000, *, rngs: nnx.Rngs):
        norm = lambda channels: nnx.BatchNorm(channels, momentum=0.9, rngs=rngs)
        self.stem = nnx.Sequential(
            cn.Conv(3, 64, (7, 7), 2, padding=3, use_bias=False, rngs=rngs), norm(64), nnx.relu, cn.MaxPool(3, 2, padding=1)
        )
        parts, seen = [], 64
        for stage, depth in enumerate(DEPTHS):
            if stage:  # a transition, to half the channels and half the size
                parts += [*norm_relu_conv(seen, seen // 2, 1, rngs=rngs), cn.AvgPool(2, 2)]
                seen //= 2
            for _ in range(depth):
                parts.append(Dense(seen, rngs=rngs))
                seen += GROWTH
        self.features = nnx.Sequential(*parts, norm(seen), nnx.relu)
        self.head = nnx.Sequential(cn.GlobalAvgPool(), nnx.Linear(seen, classes, rngs=rngs))

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.head(self.features(self.stem(x)))
