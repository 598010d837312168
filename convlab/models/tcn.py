"""TCN: Bai, Kolter, Koltun, "An empirical evaluation of generic convolutional and recurrent networks", arXiv
1803.01271, figure 1."""

from __future__ import annotations

from collections.abc import Callable

import jax
from flax import nnx

from .. import nnx as cn
from ._registry import network
from ._streamed import Streamed

Array = jax.Array


class Block(nnx.Module):
    """Two dilated causal convolutions with weight normalisation, ReLU and dropout, plus the identity or a 1x1
    convolution."""

    def __init__(
        self, in_features: int, features: int, kernel_size: int, dilation: int, dropout: float, *, rngs: nnx.Rngs
    ):
        def causal(channels: int) -> nnx.Module:
            return cn.CausalConv(channels, features, kernel_size, kernel_dilation=dilation, weight_norm=True, rngs=rngs)

        self.conv1, self.conv2 = causal(in_features), causal(features)
        self.dropout = nnx.Dropout(dropout, broadcast_dims=(-2,), rngs=rngs)  # zeroes whole channels
        self.downsample = None if in_features == features else cn.Conv(in_features, features, 1, rngs=rngs)

    def __call__(self, x: Array, layer_of: Callable) -> Array:
        y = self.dropout(nnx.relu(layer_of(self.conv1, x)))
        y = self.dropout(nnx.relu(layer_of(self.conv2, y)))
        return nnx.relu(y + (x if self.downsample is None else self.downsample(x)))


@network
class TCN(Streamed):
    """TCN. Bai, Kolter, Koltun, "An empirical evaluation of generic convolutional and recurrent networks for sequence
    modeling", arXiv 1803.01271, table 1, sequential MNIST.

    Input: 1 x 784 x 1
    Output: 1 x 784 x 10
    Parameters: 66,910 (locuslab/TCN mnist_pixel, table 1 says 70K: with 25 channels, 7 taps 7 * 25 + 15 * 7 * 25**2, 25
        + 25 beside, 16 (25 + 25) biases and norms, 260)
    Multiply-adds: 51.8 million (the same without biases and norms, for each of 784 positions)
    Receptive field: 3061 at `head` (section 3.2: 1 + 2 (7 - 1) (1 + 2 + ... + 128))

    It maps `(n, time, in_features)` to the scores `(n, time, num_classes)` after each position; `[:, -1]` are the
    scores of a whole sequence, as for the paper's digits, pixel by pixel. `step` computes the same for chunks of any
    lengths, after one call of `init_cache`.
    """

    def __init__(
        self,
        in_features: int = 1,
        num_classes: int = 10,
        *,
        features: int = 25,
        levels: int = 8,
        kernel_size: int = 7,
        dropout: float = 0.05,
        rngs: nnx.Rngs,
    ):
        self.blocks = nnx.List(
            Block(features if level else in_features, features, kernel_size, 2**level, dropout, rngs=rngs)
            for level in range(levels)
        )
        self.head = nnx.Linear(features, num_classes, rngs=rngs)

    def run(self, x: Array, layer_of: Callable) -> Array:
        for block in self.blocks:
            x = block(x, layer_of)
        return self.head(x)
