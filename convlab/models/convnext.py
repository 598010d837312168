"""ConvNeXt: a ResNet with design choices of transformers."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from .. import nnx as cn
from ._blocks import Sequential, dense, gelu, per_channel, stochastic_depth
from ._registry import named

Array = jax.Array
norm = partial(cn.LayerNorm, epsilon=1e-6)


class CNBlock(nnx.Module):
    """A depthwise 7x7 convolution, a normalisation, and two dense layers with GELU between them, scaled, plus the
    identity."""

    def __init__(self, width: int, layer_scale: float, rate: float, *, rngs: nnx.Rngs):
        self.block = Sequential(
            cn.DepthwiseConv(width, (7, 7), padding=3, rngs=rngs),
            None,  # PyTorch permutes axes here
            norm(width, rngs=rngs),
            dense(width, 4 * width, rngs=rngs),
            gelu,
            dense(4 * width, width, rngs=rngs),
        )
        self.layer_scale = nnx.Param(jnp.full(width, layer_scale))
        self.stochastic_depth = stochastic_depth(rate, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        y = self.block(x)
        return x + self.stochastic_depth(y * per_channel(self.layer_scale[...], y))


class ConvNeXt(nnx.Module):
    """ConvNeXt. Liu et al., "A ConvNet for the 2020s", arXiv 2201.03545.

    Args:
        widths, depths: channels and blocks of each stage.
        stochastic_depth_prob: the rate at which whole images skip the last block in training; it grows from 0 with the
            depth.
        layer_scale: the initial value of each block's scale.
        num_classes: number of scores.
    """

    def __init__(
        self,
        widths: Sequence[int],
        depths: Sequence[int],
        stochastic_depth_prob: float = 0.0,
        layer_scale: float = 1e-6,
        num_classes: int = 1000,
        *,
        rngs: nnx.Rngs,
    ):
        halving = partial(cn.Conv, padding="VALID", rngs=rngs)
        layers: list = [Sequential(halving(3, widths[0], (4, 4), 4), norm(widths[0], rngs=rngs))]
        rates = iter(stochastic_depth_prob * nth / (sum(depths) - 1) for nth in range(sum(depths)))
        for nth, (width, depth) in enumerate(zip(widths, depths)):
            if nth:
                layers += [Sequential(norm(widths[nth - 1], rngs=rngs), halving(widths[nth - 1], width, (2, 2), 2))]
            layers += [Sequential(*(CNBlock(width, layer_scale, next(rates), rngs=rngs) for _ in range(depth)))]
        self.features, self.avgpool = Sequential(*layers), cn.GlobalAvgPool()
        head = nnx.Linear(widths[-1], num_classes, rngs=rngs)
        self.classifier = Sequential(norm(widths[-1], rngs=rngs), None, head)

    def __call__(self, x: Array) -> Array:
        return self.classifier(self.avgpool(self.features(x)))


ConvNeXt_Tiny = named(
    ConvNeXt,
    "ConvNeXt_Tiny",
    """ConvNeXt-T. Liu et al., "A ConvNet for the 2020s", arXiv 2201.03545.

    Input: 1 x 224 x 224 x 3
    Output: 1 x 1000
    Parameters: 28,589,128 (torchvision's documentation, convnext_tiny; the paper says 29 million)
    Multiply-adds: 4.46 billion (torchvision's documentation, convnext_tiny; the paper says 4.5)
    """,
    widths=(96, 192, 384, 768),
    depths=(3, 3, 9, 3),
    stochastic_depth_prob=0.1,
)
large = partial(named, ConvNeXt, depths=(3, 3, 27, 3))
ConvNeXt_Small = large("ConvNeXt_Small", widths=(96, 192, 384, 768), stochastic_depth_prob=0.4)
ConvNeXt_Base = large("ConvNeXt_Base", widths=(128, 256, 512, 1024), stochastic_depth_prob=0.5)
ConvNeXt_Large = large("ConvNeXt_Large", widths=(192, 384, 768, 1536), stochastic_depth_prob=0.5)
