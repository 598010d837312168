"""AlexNet, with the two groups that were two GPUs, and local response normalisation."""

from __future__ import annotations

import jax
from flax import nnx

from convlab import nnx as cn


class LocalResponseNorm(nnx.Module):
    """Divides each channel by `(k + alpha * mean of the squares of `size` neighbouring channels) ** beta`.

    The mean is a pool along the channels: they become a spatial axis, and every place of the image a batch axis.
    """

    def __init__(self, size: int = 5, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0):
        self.mean = cn.AvgPool((size,), padding="SAME")
        self.alpha, self.beta, self.k = alpha, beta, k

    def __call__(self, x: jax.Array) -> jax.Array:
        return x * (self.k + self.alpha * self.mean(x[..., None] ** 2)[..., 0]) ** -self.beta


class AlexNet(nnx.Module):
    """AlexNet. Krizhevsky, Sutskever, Hinton, "ImageNet classification with deep convolutional neural networks", NIPS 2012.

    The paper says 224 x 224, of which its 55 x 55 do not follow; 227 is what the authors' program read.

    Input: 1 x 227 x 227 x 3
    Output: 1 x 1000
    Parameters: 60,965,224 (github.com/HewlettPackard/dlcookbook-dlbs, docs/models, of BVLC Caffe's bvlc_alexnet; the paper says 60 million)
    Multiply-adds: 727 million (github.com/albanie/convnet-burden, alexnet; with biases, pools and normalisation)
    Receptive field: 195 at `features` (Araujo et al. 2019, alexnet_v2/pool5)
    """

    def __init__(self, classes: int = 1000, *, rngs: nnx.Rngs):
        norm = lambda: LocalResponseNorm(5, alpha=5e-4, k=2.0)  # the paper's alpha, 1e-4, is of the sum
        self.features = nnx.Sequential(
            cn.Conv(3, 96, (11, 11), 4, padding="VALID", rngs=rngs), nnx.relu, norm(), cn.MaxPool(3, 2),
            cn.Conv(96, 256, (5, 5), padding=2, feature_group_count=2, rngs=rngs), nnx.relu, norm(), cn.MaxPool(3, 2),
            cn.Conv(256, 384, (3, 3), padding=1, rngs=rngs), nnx.relu,
            cn.Conv(384, 384, (3, 3), padding=1, feature_group_count=2, rngs=rngs), nnx.relu,
            cn.Conv(384, 256, (3, 3), padding=1, feature_group_count=2, rngs=rngs), nnx.relu, cn.MaxPool(3, 2),
        )  # fmt: skip
        self.classifier = nnx.Sequential(
            cn.Flatten(),
            nnx.Linear(9216, 4096, rngs=rngs), nnx.relu, nnx.Dropout(0.5, rngs=rngs),
            nnx.Linear(4096, 4096, rngs=rngs), nnx.relu, nnx.Dropout(0.5, rngs=rngs),
            nnx.Linear(4096, classes, rngs=rngs),
        )  # fmt: skip

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.classifier(self.features(x))
