"""LeNet-5 as it was published, and as it is trained today."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from .. import nnx as cn
from ._blocks import Sequential
from ._registry import network


@network
class LeNet5(nnx.Module):
    """LeNet-5 today, with ReLU, max pools and a full second convolution. LeCun et al. 1998, as `examples/mnist` trains
    it.

    Input: 1 x 28 x 28 x 1
    Output: 1 x 10
    Parameters: 61,706 (from the layers' shapes: 156 + 2,416 + 48,120 + 10,164 + 850)
    Multiply-adds: 416,520 (from the layers' shapes: 117,600 + 240,000 + 48,000 + 10,080 + 840)
    """

    torch_flattened = {"layers.7": (5, 5, 16)}

    def __init__(self, num_classes: int = 10, *, rngs: nnx.Rngs):
        self.layers = Sequential(
            cn.Conv(1, 6, (5, 5), padding=2, rngs=rngs), nnx.relu, cn.MaxPool(2, 2),
            cn.Conv(6, 16, (5, 5), padding="VALID", rngs=rngs), nnx.relu, cn.MaxPool(2, 2),
            cn.Flatten(),
            nnx.Linear(400, 120, rngs=rngs), nnx.relu,
            nnx.Linear(120, 84, rngs=rngs), nnx.relu,
            nnx.Linear(84, num_classes, rngs=rngs),
        )  # fmt: skip

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.layers(x)


TABLE_I = (  # the paper's table: the maps of S2 that each map of C3 reads
    (0, 1, 2), (1, 2, 3), (2, 3, 4), (3, 4, 5), (4, 5, 0), (5, 0, 1),
    (0, 1, 2, 3), (1, 2, 3, 4), (2, 3, 4, 5), (3, 4, 5, 0), (4, 5, 0, 1), (5, 0, 1, 2),
    (0, 1, 3, 4), (1, 2, 4, 5), (0, 2, 3, 5), (0, 1, 2, 3, 4, 5),
)  # fmt: skip


def squash(x: jax.Array) -> jax.Array:
    return 1.7159 * jnp.tanh(x * (2 / 3))


class Subsampling(nnx.Module):
    """The sum of 2 x 2 positions, times a learned coefficient and plus a learned bias for each channel."""

    def __init__(self, channels: int):
        self.sum = cn.SumPool(2, 2)
        self.coefficient = nnx.Param(jnp.full(channels, 0.25))
        self.bias = nnx.Param(jnp.zeros(channels))

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.sum(x) * self.coefficient + self.bias


class Connected(nnx.Module):
    """Layer C3: maps that read equally many input maps are the groups of one convolution."""

    def __init__(self, *, rngs: nnx.Rngs):
        rows = {wide: [row for row in TABLE_I if len(row) == wide] for wide in (3, 4, 6)}
        self.read = tuple(tuple(sum(some, ())) for some in rows.values())
        self.convs = nnx.List(
            cn.Conv(wide * len(some), len(some), (5, 5), padding="VALID", feature_group_count=len(some), rngs=rngs)
            for wide, some in rows.items()
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        return jnp.concatenate([conv(x[..., read]) for read, conv in zip(self.read, self.convs)], axis=-1)


def codes(num_classes: int) -> np.ndarray:
    """Return the target of F6 for each class: 84 numbers of -1 and 1, `(num_classes, 84)`. The paper drew digits; these
    are random."""
    return np.random.default_rng(1998).choice((-1.0, 1.0), (num_classes, 84)).astype(np.float32)


@network
class LeNet5of1998(nnx.Module):
    """LeNet-5 as published. LeCun, Bottou, Bengio, Haffner, "Gradient-based learning applied to document recognition",
    Proc. IEEE 86(11), 1998.

    Outputs are squared distances: the predicted class is the one with the smallest output.

    Input: 1 x 32 x 32 x 1
    Output: 1 x 10
    Parameters: 60,000 (the paper, section II.B: "60,000 trainable free parameters")
    Multiply-adds: 325,680 (the paper's 340,908 connections less 6,508 biases, 7,880 of the subsampling, 840 of the
    distances)
    """

    def __init__(self, num_classes: int = 10, *, rngs: nnx.Rngs):
        self.num_classes = num_classes
        self.c1 = cn.Conv(1, 6, (5, 5), padding="VALID", rngs=rngs)
        self.s2 = Subsampling(6)
        self.c3 = Connected(rngs=rngs)
        self.s4 = Subsampling(16)
        self.c5 = cn.Conv(16, 120, (5, 5), padding="VALID", rngs=rngs)
        self.flatten = cn.Flatten()
        self.f6 = nnx.Linear(120, 84, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = squash(self.s2(squash(self.c1(x))))
        x = squash(self.s4(squash(self.c3(x))))
        x = squash(self.f6(self.flatten(squash(self.c5(x)))))
        return ((x[:, None] - codes(self.num_classes).astype(x.dtype)) ** 2).sum(-1)
