"""ConvNeXt-T: a ResNet with the habits of a transformer."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from convlab import nnx as cn

WIDTHS, DEPTHS, DROPPED = (96, 192, 384, 768), (3, 3, 9, 3), 0.1
gelu = partial(nnx.gelu, approximate=False)


class Block(nnx.Module):
    """7x7 in each channel, a normalisation, and two dense layers with GELU between them, scaled and beside the identity.

    In training a sample skips the branch at `rate` (stochastic depth).
    """

    def __init__(self, width: int, rate: float, *, rngs: nnx.Rngs):
        self.branch = nnx.Sequential(
            cn.DepthwiseConv(width, (7, 7), padding=3, rngs=rngs),
            nnx.LayerNorm(width, epsilon=1e-6, rngs=rngs),
            nnx.Linear(width, 4 * width, rngs=rngs),
            gelu,
            nnx.Linear(4 * width, width, rngs=rngs),
        )
        self.gamma = nnx.Param(jnp.full(width, 1e-6))
        self.skip = nnx.Dropout(rate, broadcast_dims=(1, 2, 3), rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return x + self.skip(self.gamma * self.branch(x))


class ConvNeXtTiny(nnx.Module):
    """ConvNeXt-T. Liu et al., "A ConvNet for the 2020s", arXiv 2201.03545.

    Input: 1 x 224 x 224 x 3
    Output: 1 x 1000
    Parameters: 28,589,128 (torchvision's documentation, convnext_tiny; the paper says 29 million)
    Multiply-adds: 4.46 billion (torchvision's documentation, convnext_tiny; the paper says 4.5)
    """

    def __init__(self, classes: int = 1000, *, rngs: nnx.Rngs):
        norm = lambda width: nnx.LayerNorm(width, epsilon=1e-6, rngs=rngs)
        layers = [cn.Conv(3, WIDTHS[0], (4, 4), 4, padding="VALID", rngs=rngs), norm(WIDTHS[0])]
        rates = iter(DROPPED * nth / (sum(DEPTHS) - 1) for nth in range(sum(DEPTHS)))
        for seen, width, depth in zip((None, *WIDTHS), WIDTHS, DEPTHS):
            if seen:
                layers += [norm(seen), cn.Conv(seen, width, (2, 2), 2, padding="VALID", rngs=rngs)]
            layers += [Block(width, next(rates), rngs=rngs) for _ in range(depth)]
        self.features = nnx.Sequential(*layers)
        self.head = nnx.Sequential(cn.GlobalAvgPool(), norm(width), nnx.Linear(width, classes, rngs=rngs))

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.head(self.features(x))
