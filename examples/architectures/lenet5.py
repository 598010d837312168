"""LeNet-5, as the MNIST example trains it: ReLU, max pools and a full second convolution."""

from __future__ import annotations

import jax
from flax import nnx

from convlab import nnx as cn


class LeNet5(nnx.Module):
    """LeNet-5 today. LeCun et al., "Gradient-based learning applied to document recognition", Proc. IEEE 86(11), 1998.

    Input: 1 x 28 x 28 x 1
    Parameters: 61,706 (d2l.ai, section 7.6, the same layers)
    Multiply-adds: 416,520 (counted from the layers' shapes by hand: 117,600 + 240,000 + 48,000 + 10,080 + 840)
    """

    def __init__(self, classes: int = 10, *, rngs: nnx.Rngs):
        self.layers = nnx.Sequential(
            cn.Conv(1, 6, (5, 5), padding=2, rngs=rngs),
            nnx.relu,
            cn.MaxPool(2, strides=2),
            cn.Conv(6, 16, (5, 5), padding="VALID", rngs=rngs),
            nnx.relu,
            cn.MaxPool(2, strides=2),
            cn.Flatten(),
            nnx.Linear(400, 120, rngs=rngs),
            nnx.relu,
            nnx.Linear(120, 84, rngs=rngs),
            nnx.relu,
            nnx.Linear(84, classes, rngs=rngs),
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.layers(x)
