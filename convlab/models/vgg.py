"""VGG: the paper's configurations A, B, D and E, and the same with batch normalisation."""

from __future__ import annotations

from collections.abc import Sequence

import jax
from flax import nnx

from .. import nnx as cn
from ._blocks import Sequential, batch_norm, conv
from ._registry import named

CHANNELS = (64, 128, 256, 512, 512)
DEPTHS = {
    11: (1, 1, 2, 2, 2),
    13: (2, 2, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
}  # convolutions before each pool


class VGG(nnx.Module):
    """VGG. Simonyan, Zisserman, "Very deep convolutional networks for large-scale image recognition", arXiv
    1409.1556."""

    torch_flattened = {"classifier.0": (7, 7, 512)}

    def __init__(
        self, depths: Sequence[int], norm: bool, num_classes: int = 1000, dropout: float = 0.5, *, rngs: nnx.Rngs
    ):
        layers: list = []
        inputs = 3
        for channels, depth in zip(CHANNELS, depths):
            for _ in range(depth):
                layers += [conv(inputs, channels, use_bias=True, rngs=rngs)]
                layers += [batch_norm(channels, rngs=rngs)] if norm else []
                layers += [nnx.relu]
                inputs = channels
            layers += [cn.MaxPool(2, 2)]
        self.features = Sequential(*layers)
        self.avgpool = cn.AdaptiveAvgPool((7, 7))
        self.flatten = cn.Flatten()
        self.classifier = Sequential(
            nnx.Linear(7 * 7 * 512, 4096, rngs=rngs), nnx.relu, nnx.Dropout(dropout, rngs=rngs),
            nnx.Linear(4096, 4096, rngs=rngs), nnx.relu, nnx.Dropout(dropout, rngs=rngs),
            nnx.Linear(4096, num_classes, rngs=rngs),
        )  # fmt: skip

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.classifier(self.flatten(self.avgpool(self.features(x))))


VGG11 = named(VGG, "VGG11", depths=DEPTHS[11], norm=False)
VGG13 = named(VGG, "VGG13", depths=DEPTHS[13], norm=False)
VGG16 = named(
    VGG,
    "VGG16",
    """VGG-16. Simonyan, Zisserman, "Very deep convolutional networks for large-scale image recognition", arXiv
    1409.1556.

    Input: 1 x 224 x 224 x 3
    Output: 1 x 1000
    Parameters: 138,357,544 (torchvision's documentation, vgg16; the paper says 138 million)
    Multiply-adds: 15.47 billion (torchvision's documentation, vgg16)
    Receptive field: 212 at `features` (Araujo et al. 2019, vgg_16/pool5)
    """,
    depths=DEPTHS[16],
    norm=False,
)
VGG19 = named(VGG, "VGG19", depths=DEPTHS[19], norm=False)
VGG11_BN = named(VGG, "VGG11_BN", depths=DEPTHS[11], norm=True)
VGG13_BN = named(VGG, "VGG13_BN", depths=DEPTHS[13], norm=True)
VGG16_BN = named(VGG, "VGG16_BN", depths=DEPTHS[16], norm=True)
VGG19_BN = named(VGG, "VGG19_BN", depths=DEPTHS[19], norm=True)
