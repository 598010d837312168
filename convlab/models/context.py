"""The context module of Yu and Koltun, "Multi-scale context aggregation by dilated convolutions", arXiv 1511.07122,
table 1."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from .. import nnx as cn
from ._registry import network

Array = jax.Array
DILATIONS = (1, 1, 2, 4, 8, 16, 1)
LARGE = (2, 2, 4, 8, 16, 32, 32)


def identity(features: int, noise: float = 0.0) -> Callable:
    """Return an initializer by equation 5, near the identity: each of `features` maps passes through, plus noise."""

    def init(key: Array, shape: Sequence[int], dtype: Any = jnp.float32) -> Array:
        *window, in_channels, out_channels = shape
        read = jnp.arange(in_channels)[:, None] * features // in_channels
        same = read == jnp.arange(out_channels)[None] * features // out_channels
        middle = tuple(n // 2 for n in window)
        kernel = noise * jax.random.normal(key, shape, dtype)
        return kernel.at[middle].add(jnp.where(same, features / out_channels, 0).astype(dtype))

    return init


@network
class Context(nnx.Module):
    """Context module. Yu, Koltun, "Multi-scale context aggregation by dilated convolutions", arXiv 1511.07122, table 1,
    "Basic".

    Input: 1 x 64 x 64 x 21
    Output: 1 x 64 x 64 x 21
    Parameters: 28,392 (table 1: 64 C**2 weights in 7 layers of 3 x 3 C C and one of C C, 8 C biases, C = 21)
    Multiply-adds: 115.6 million (table 1: 64 C**2 for each of 64 x 64 positions)
    Receptive field: 67 at `layers` (table 1)

    It maps `(n, height, width, features)` to the same shape. Before training it is the identity where the input is not
    negative. `multipliers` are the table's channels in units of `features`, and `LARGE` those of "Large".
    """

    def __init__(
        self, features: int = 21, *, multipliers: Sequence[int] = (1,) * 7, noise: float = 0.0, rngs: nnx.Rngs
    ):
        widths = [features * m for m in (1, *multipliers)]
        self.layers = nnx.List(
            cn.Conv(a, b, (3, 3), kernel_dilation=d, kernel_init=identity(features, noise), rngs=rngs)
            for (a, b), d in zip(pairwise(widths), DILATIONS, strict=True)
        )
        self.head = cn.Conv(widths[-1], features, (1, 1), kernel_init=identity(features, noise), rngs=rngs)

    def __call__(self, x: Array) -> Array:
        for layer in self.layers:
            x = nnx.relu(layer(x))
        return self.head(x)
