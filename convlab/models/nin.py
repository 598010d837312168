"""Network in Network, as its authors trained it on CIFAR-10."""

from __future__ import annotations

from typing import Any

import jax
from flax import nnx

from .. import nnx as cn
from ._blocks import Sequential
from ._registry import network


def mlpconv(in_features: int, features: tuple[int, int, int], window: int, *, rngs: nnx.Rngs) -> list:
    """Create a convolution and two 1x1 convolutions: a perceptron with two hidden layers at every position."""
    first, second, third = features
    return [
        cn.Conv(in_features, first, (window, window), rngs=rngs), nnx.relu,
        cn.Conv(first, second, (1, 1), rngs=rngs), nnx.relu,
        cn.Conv(second, third, (1, 1), rngs=rngs), nnx.relu,
    ]  # fmt: skip


@network
class NIN(nnx.Module):
    """Network in Network. Lin, Chen, Yan, "Network in network", arXiv 1312.4400.

    Input: 1 x 32 x 32 x 3
    Output: 1 x 10
    Parameters: 966,986 (github.com/osmr/imgclsmob, nin_cifar10)
    Multiply-adds: 222.97 million (github.com/osmr/imgclsmob, nin_cifar10)
    """

    def __init__(self, num_classes: int = 10, *, rngs: nnx.Rngs):
        half: dict[str, Any] = dict(window_shape=3, strides=2, padding="SAME")
        self.layers = Sequential(
            *mlpconv(3, (192, 160, 96), 5, rngs=rngs), cn.MaxPool(**half), nnx.Dropout(0.5, rngs=rngs),
            *mlpconv(96, (192, 192, 192), 5, rngs=rngs), cn.AvgPool(**half, count_include_pad=False),
                nnx.Dropout(0.5, rngs=rngs),
            *mlpconv(192, (192, 192, num_classes), 3, rngs=rngs), cn.GlobalAvgPool(),
        )  # fmt: skip

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.layers(x)
