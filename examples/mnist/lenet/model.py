"""LeNet-5 in NNX and in Linen, and the pure functions by which both are trained.

LeCun, Bottou, Bengio, Haffner, "Gradient-based learning applied to document recognition", 1998, with ReLU, max pooling
and a full second convolution. Both name their parameters alike, so a checkpoint of one is a checkpoint of the other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from flax import linen, nnx

import convlab
import convlab.linen
import convlab.nnx

from .data import CLASSES


class LeNet(nnx.Module):
    """LeNet-5: images `(n, 28, 28, 1)` to logits `(n, 10)`."""

    def __init__(self, *, rngs: nnx.Rngs):
        self.conv1 = convlab.nnx.Conv(1, 6, (5, 5), padding=2, rngs=rngs)
        self.conv2 = convlab.nnx.Conv(6, 16, (5, 5), padding="VALID", rngs=rngs)
        self.dense1 = nnx.Linear(400, 120, rngs=rngs)
        self.dense2 = nnx.Linear(120, 84, rngs=rngs)
        self.dense3 = nnx.Linear(84, CLASSES, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        # The pool goes before ReLU: the result is the same, and ReLU has a quarter of the work.
        x = nnx.relu(convlab.max_pool(self.conv1(images), (2, 2), (2, 2)))
        x = nnx.relu(convlab.max_pool(self.conv2(x), (2, 2), (2, 2)))
        x = nnx.relu(self.dense1(x.reshape(x.shape[0], -1)))
        x = nnx.relu(self.dense2(x))
        return self.dense3(x)


class LinenLeNet(linen.Module):
    """LeNet-5 in Linen: images `(n, 28, 28, 1)` to logits `(n, 10)`."""

    @linen.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        x = convlab.linen.Conv(6, (5, 5), padding=2, name="conv1")(images)
        x = linen.relu(convlab.max_pool(x, (2, 2), (2, 2)))
        x = convlab.linen.Conv(16, (5, 5), padding="VALID", name="conv2")(x)
        x = linen.relu(convlab.max_pool(x, (2, 2), (2, 2)))
        x = linen.relu(linen.Dense(120, name="dense1")(x.reshape(x.shape[0], -1)))
        x = linen.relu(linen.Dense(84, name="dense2")(x))
        return linen.Dense(CLASSES, name="dense3")(x)


class Network(NamedTuple):
    """Pure functions `init(key) -> params` and `apply(params, images) -> logits`; `params` is `{layer: {"kernel",
    "bias"}}`."""

    init: Callable[[jax.Array], Any]
    apply: Callable[[Any, jax.Array], jax.Array]


def nnx_network() -> Network:
    """Return the NNX LeNet as pure functions; its object graph is walked only while tracing, never while training."""
    graph, shape = nnx.split(nnx.eval_shape(lambda: LeNet(rngs=nnx.Rngs(0))))

    def init(key: jax.Array) -> Any:
        return nnx.to_pure_dict(nnx.state(LeNet(rngs=nnx.Rngs(key))))

    def apply(params: Any, images: jax.Array) -> jax.Array:
        state = jax.tree.map(lambda leaf: leaf, shape)
        nnx.replace_by_pure_dict(state, params)
        return nnx.merge(graph, state)(images)

    return Network(jax.jit(init), apply)


def linen_network() -> Network:
    """Return the Linen LeNet as pure functions; it starts from NNX's parameters, so that a key gives the same network
    in both."""
    return Network(nnx_network().init, lambda params, images: LinenLeNet().apply({"params": params}, images))


NETWORKS = {"nnx": nnx_network, "linen": linen_network}
