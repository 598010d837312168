"""VGG-16, the paper's configuration D."""

from __future__ import annotations

import jax
from flax import nnx

from convlab import nnx as cn

CONFIGURATION = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))  # channels and depth between pools


class VGG16(nnx.Module):
    """VGG-16. Simonyan, Zisserman, "Very deep convolutional networks for large-scale image recognition", arXiv 1409.1556.

    Input: 1 x 224 x 224 x 3
    Output: 1 x 1000
    Parameters: 138,357,544 (torchvision's documentation, vgg16; the paper says 138 million)
    Multiply-adds: 15.47 billion (torchvision's documentation, vgg16)
    Receptive field: 212 at `features` (Araujo et al. 2019, vgg_16/pool5)
    """

    def __init__(self, classes: int = 1000, *, rngs: nnx.Rngs):
        layers, seen = [], 3
        for channels, depth in CONFIGURATION:
            for _ in range(depth):
                layers += [cn.Conv(seen, channels, (3, 3), padding=1, rngs=rngs), nnx.relu]
                seen = channels
            layers += [cn.MaxPool(2, 2)]
        self.features = nnx.Sequential(*layers)
        self.classifier = nnx.Sequential(
            cn.Flatten(),
            nnx.Linear(7 * 7 * 512, 4096, rngs=rngs), nnx.relu, nnx.Dropout(0.5, rngs=rngs),
            nnx.Linear(4096, 4096, rngs=rngs), nnx.relu, nnx.Dropout(0.5, rngs=rngs),
            nnx.Linear(4096, classes, rngs=rngs),
        )  # fmt: skip

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.classifier(self.features(x))
