"""WaveNet: van den Oord et al., "WaveNet: a generative model for raw audio", arXiv 1609.03499, figures 2 to 4."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
from flax import nnx

from .. import nnx as cn
from ._registry import network
from ._streamed import Streamed

Array = jax.Array
DILATIONS = tuple(2**i for i in range(10)) * 5


class Block(nnx.Module):
    """The gated unit of equation 2, tanh(filter) * sigmoid(gate), with its residual and its skip output.

    The last block has no residual output, since no block follows it.
    """

    def __init__(self, features: int, skip_features: int, dilation: int, *, last: bool, rngs: nnx.Rngs):
        self.filter = cn.CausalConv(features, features, 2, kernel_dilation=dilation, rngs=rngs)
        self.gate = cn.CausalConv(features, features, 2, kernel_dilation=dilation, rngs=rngs)
        self.skip = cn.Conv(features, skip_features, 1, rngs=rngs)
        self.residual = None if last else cn.Conv(features, features, 1, rngs=rngs)

    def __call__(self, x: Array, layer_of: Callable) -> tuple[Array, Array]:
        z = nnx.tanh(layer_of(self.filter, x)) * nnx.sigmoid(layer_of(self.gate, x))
        return x if self.residual is None else x + self.residual(z), self.skip(z)


@network
class WaveNet(Streamed):
    """WaveNet. Van den Oord et al., "WaveNet: a generative model for raw audio", arXiv 1609.03499, figure 4.

    Input: 1 x 5120 x 256
    Output: 1 x 5120 x 256
    Parameters: 1,514,912 (the sizes of ibab/tensorflow-wavenet, as the paper gives none: 2 * 256 * 32, 50 blocks of 2
        (2 * 32**2 + 32) + 33 * 512, 49 of 33 * 32, 513 * 512 + 513 * 256)
    Multiply-adds: 7.597 billion (the same without biases, for each of 5120 samples)
    Receptive field: 5117 at `blocks.49` (section 2.1: 1024 of each of the five runs of dilations 1 to 512, and the
    first layer's; 320 ms at 16 kHz, "about 300" in section 3.1)

    It maps one-hot samples `(n, time, quantization)` (the paper's are mu-law codes) to the scores of the next sample,
    `(n, time, num_classes)`, which depend on no later sample. `step` computes the same for
    chunks of any lengths, including single samples, after one call of `init_cache`.
    """

    def __init__(
        self,
        quantization: int = 256,
        num_classes: int | None = None,
        *,
        features: int = 32,
        skip_features: int = 512,
        dilations: Sequence[int] = DILATIONS,
        rngs: nnx.Rngs,
    ):
        self.causal = cn.CausalConv(quantization, features, 2, use_bias=False, rngs=rngs)
        last = len(dilations) - 1
        self.blocks = nnx.List(
            Block(features, skip_features, dilation, last=i == last, rngs=rngs) for i, dilation in enumerate(dilations)
        )
        self.conv1 = cn.Conv(skip_features, skip_features, 1, rngs=rngs)
        self.conv2 = cn.Conv(skip_features, quantization if num_classes is None else num_classes, 1, rngs=rngs)

    def run(self, x: Array, layer_of: Callable) -> Array:
        x = layer_of(self.causal, x)
        skips: Any = 0
        for block in self.blocks:
            x, skip = block(x, layer_of)
            skips += skip
        return self.conv2(nnx.relu(self.conv1(nnx.relu(skips))))
