"""SqueezeNet: few channels before each 3x3 convolution, and no dense layer."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from .. import nnx as cn
from ._blocks import Sequential, conv
from ._registry import named

FIRES = (
    (16, 64),
    (16, 64),
    (32, 128),
    (32, 128),
    (48, 192),
    (48, 192),
    (64, 256),
    (64, 256),
)  # squeezed, each expanded
FIRST = {"1_0": (96, 7), "1_1": (64, 3)}  # channels and window of the first convolution
POOLED = {"1_0": (0, 3, 7), "1_1": (0, 2, 4)}  # the fires before which a pool halves the size


class Fire(nnx.Module):
    """A 1x1 convolution to `squeezed` channels, then parallel 1x1 and 3x3 convolutions to `expanded` channels each."""

    def __init__(self, in_features: int, squeezed: int, expanded: int, *, rngs: nnx.Rngs):
        self.squeeze = conv(in_features, squeezed, 1, use_bias=True, rngs=rngs)
        self.expand1x1 = conv(squeezed, expanded, 1, use_bias=True, rngs=rngs)
        self.expand3x3 = conv(squeezed, expanded, 3, use_bias=True, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = nnx.relu(self.squeeze(x))
        return nnx.relu(jnp.concatenate([self.expand1x1(x), self.expand3x3(x)], axis=-1))


class SqueezeNet(nnx.Module):
    """SqueezeNet. Iandola et al., "SqueezeNet: AlexNet-level accuracy with 50x fewer parameters", arXiv 1602.07360.

    Args:
        version: "1_0" as published, or "1_1", with 2.4 times fewer multiply-adds.
        num_classes: number of scores.
        dropout: rate of the dropout before the last convolution.
    """

    def __init__(self, version: str = "1_0", num_classes: int = 1000, dropout: float = 0.5, *, rngs: nnx.Rngs):
        self.num_classes = num_classes
        inputs, window = FIRST[version]
        layers: list = [conv(3, inputs, window, 2, padding=0, use_bias=True, rngs=rngs), nnx.relu]
        for nth, (squeezed, expanded) in enumerate(FIRES):
            layers += [cn.MaxPool(3, 2, ceil_mode=True)] if nth in POOLED[version] else []
            layers += [Fire(inputs, squeezed, expanded, rngs=rngs)]
            inputs = 2 * expanded
        self.features = Sequential(*layers)
        last = conv(inputs, num_classes, 1, use_bias=True, rngs=rngs)
        self.classifier = Sequential(nnx.Dropout(dropout, rngs=rngs), last, nnx.relu, cn.GlobalAvgPool())

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.classifier(self.features(x))


SqueezeNet1_0 = named(SqueezeNet, "SqueezeNet1_0", version="1_0")
SqueezeNet1_1 = named(SqueezeNet, "SqueezeNet1_1", version="1_1")
