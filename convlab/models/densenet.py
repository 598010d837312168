"""DenseNet: each layer reads the results of all layers before it in its block."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from .. import nnx as cn
from ._blocks import Sequential, batch_norm, conv
from ._registry import named

Array = jax.Array


class DenseLayer(nnx.Module):
    """A 1x1 convolution to `bn_size * growth_rate` channels and a 3x3 convolution to `growth_rate` channels, each after
    a normalisation and a ReLU."""

    def __init__(self, in_features: int, growth_rate: int, bn_size: int, drop_rate: float, *, rngs: nnx.Rngs):
        between = bn_size * growth_rate
        self.norm1, self.conv1 = batch_norm(in_features, rngs=rngs), conv(in_features, between, 1, rngs=rngs)
        self.norm2, self.conv2 = batch_norm(between, rngs=rngs), conv(between, growth_rate, 3, rngs=rngs)
        self.dropout = nnx.Dropout(drop_rate, rngs=rngs) if drop_rate else None

    def __call__(self, x: Array) -> Array:
        x = self.conv1(nnx.relu(self.norm1(x)))
        x = self.conv2(nnx.relu(self.norm2(x)))
        return x if self.dropout is None else self.dropout(x)


class DenseBlock(Sequential):
    """Layers that each append their result to their input along the channels."""

    def __call__(self, x: Array) -> Array:
        for layer in self:
            x = jnp.concatenate([x, layer(x)], axis=-1)
        return x


class DenseNet(nnx.Module):
    """DenseNet. Huang, Liu, van der Maaten, Weinberger, "Densely connected convolutional networks", arXiv
    1608.06993.

    Args:
        growth_rate: channels that each layer makes.
        block_config: layers in each of the four blocks.
        num_init_features: channels that the first convolution makes.
        bn_size: channels of a bottleneck, in units of `growth_rate`.
        drop_rate: rate of the dropout after each layer.
        num_classes: number of scores.
    """

    @staticmethod
    def torch_renamed(key: str) -> str:
        """Rename `norm.1` of the published files to `norm1` within a dense layer, and likewise `norm.2` and `conv`."""
        return re.sub(r"(denselayer\d+\.(?:norm|conv))\.([12])\.", r"\1\2.", key)

    def __init__(
        self,
        growth_rate: int = 32,
        block_config: Sequence[int] = (6, 12, 24, 16),
        num_init_features: int = 64,
        bn_size: int = 4,
        drop_rate: float = 0.0,
        num_classes: int = 1000,
        *,
        rngs: nnx.Rngs,
    ):
        inputs = num_init_features
        parts: dict[str, Any] = dict(
            conv0=conv(3, inputs, 7, 2, rngs=rngs), norm0=batch_norm(inputs, rngs=rngs), relu0=nnx.relu
        )
        parts["pool0"] = cn.MaxPool(3, 2, padding=1)
        for nth, depth in enumerate(block_config, 1):
            layers = {}
            for position in range(1, depth + 1):
                layers[f"denselayer{position}"] = DenseLayer(inputs, growth_rate, bn_size, drop_rate, rngs=rngs)
                inputs += growth_rate
            parts[f"denseblock{nth}"] = DenseBlock(**layers)
            if nth < len(block_config):  # half the channels and half the size
                norm, half = batch_norm(inputs, rngs=rngs), conv(inputs, inputs // 2, 1, rngs=rngs)
                parts[f"transition{nth}"] = Sequential(norm=norm, relu=nnx.relu, conv=half, pool=cn.AvgPool(2, 2))
                inputs //= 2
        self.features = Sequential(**parts, norm5=batch_norm(inputs, rngs=rngs))
        self.avgpool = cn.GlobalAvgPool()
        self.classifier = nnx.Linear(inputs, num_classes, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        return self.classifier(self.avgpool(nnx.relu(self.features(x))))


DenseNet121 = named(
    DenseNet,
    "DenseNet121",
    """DenseNet-121. Huang, Liu, van der Maaten, Weinberger, "Densely connected convolutional networks", arXiv
    1608.06993.

    Input: 1 x 224 x 224 x 3
    Output: 1 x 1000
    Parameters: 7,978,856 (torchvision's documentation, densenet121)
    Multiply-adds: 2.83 billion (torchvision's documentation, densenet121)
    """,
)
DenseNet161 = named(DenseNet, "DenseNet161", growth_rate=48, block_config=(6, 12, 36, 24), num_init_features=96)
DenseNet169 = named(DenseNet, "DenseNet169", block_config=(6, 12, 32, 32))
DenseNet201 = named(DenseNet, "DenseNet201", block_config=(6, 12, 48, 32))
