"""GoogLeNet, Inception v1, without the auxiliary classifiers that only its training had."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from alexnet import LocalResponseNorm
from flax import nnx

from convlab import nnx as cn

TABLE = {  # of the paper: 1x1, 3x3 reduce, 3x3, 5x5 reduce, 5x5, pool proj
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}


def conv(seen: int, made: int, window: int, strides: int = 1, *, rngs: nnx.Rngs) -> nnx.Sequential:
    return nnx.Sequential(cn.Conv(seen, made, (window, window), strides, padding=window // 2, rngs=rngs), nnx.relu)


class Inception(nnx.Module):
    """Four branches side by side, put together along the channels."""

    def __init__(self, seen: int, row: tuple[int, ...], *, rngs: nnx.Rngs):
        one, reduce3, three, reduce5, five, projected = row
        self.branch1 = conv(seen, one, 1, rngs=rngs)
        self.branch2 = nnx.Sequential(conv(seen, reduce3, 1, rngs=rngs), conv(reduce3, three, 3, rngs=rngs))
        self.branch3 = nnx.Sequential(conv(seen, reduce5, 1, rngs=rngs), conv(reduce5, five, 5, rngs=rngs))
        self.branch4 = nnx.Sequential(cn.MaxPool(3, padding="SAME"), conv(seen, projected, 1, rngs=rngs))

    def __call__(self, x: jax.Array) -> jax.Array:
        return jnp.concatenate([self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)], axis=-1)


class GoogLeNet(nnx.Module):
    """GoogLeNet. Szegedy et al., "Going deeper with convolutions", arXiv 1409.4842, table 1.

    Input: 1 x 224 x 224 x 3
    Output: 1 x 1000
    Parameters: 6,998,552 (github.com/HewlettPackard/dlcookbook-dlbs, docs/models, of BVLC Caffe's bvlc_googlenet)
    Multiply-adds: 1,586 million (the paper's table 1, with 118 million in place of 34 for the first layer: 7 * 7 * 3 * 64 * 112 * 112)
    """

    def __init__(self, classes: int = 1000, *, rngs: nnx.Rngs):
        pool = lambda: cn.MaxPool(3, 2, padding="SAME")  # half the size, rounded up
        self.stem = nnx.Sequential(
            conv(3, 64, 7, 2, rngs=rngs), pool(), LocalResponseNorm(),
            conv(64, 64, 1, rngs=rngs), conv(64, 192, 3, rngs=rngs), LocalResponseNorm(), pool(),
        )  # fmt: skip
        parts, seen = [], 192
        for name, row in TABLE.items():
            parts += [pool()] if name in ("4a", "5a") else []
            parts += [Inception(seen, row, rngs=rngs)]
            seen = row[0] + row[2] + row[4] + row[5]
        self.inceptions = nnx.Sequential(*parts)
        self.head = nnx.Sequential(cn.GlobalAvgPool(), nnx.Dropout(0.4, rngs=rngs), nnx.Linear(seen, classes, rngs=rngs))

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.head(self.inceptions(self.stem(x)))
