"""AlexNet in torchvision's version, in one column, and as published, with two groups, which ran on two GPUs."""

from __future__ import annotations

from typing import Any

import jax
from flax import nnx

from .. import nnx as cn
from ._blocks import LocalResponseNorm, Sequential, conv
from ._registry import network


@network
class AlexNet(nnx.Module):
    """AlexNet, one column. Krizhevsky, "One weird trick for parallelizing convolutional neural networks", arXiv
    1404.5997.

    Input: 1 x 224 x 224 x 3
    Output: 1 x 1000
    Parameters: 61,100,840 (torchvision's documentation, alexnet)
    Multiply-adds: 714 million (torchvision's documentation, alexnet)
    """

    torch_flattened = {"classifier.1": (6, 6, 256)}

    def __init__(self, num_classes: int = 1000, dropout: float = 0.5, *, rngs: nnx.Rngs):
        biased: dict[str, Any] = dict(use_bias=True, rngs=rngs)
        self.features = Sequential(
            conv(3, 64, 11, 4, padding=2, **biased), nnx.relu, cn.MaxPool(3, 2),
            conv(64, 192, 5, **biased), nnx.relu, cn.MaxPool(3, 2),
            conv(192, 384, **biased), nnx.relu,
            conv(384, 256, **biased), nnx.relu,
            conv(256, 256, **biased), nnx.relu, cn.MaxPool(3, 2),
        )  # fmt: skip
        self.avgpool = cn.AdaptiveAvgPool((6, 6))
        self.flatten = cn.Flatten()
        self.classifier = Sequential(
            nnx.Dropout(dropout, rngs=rngs), nnx.Linear(9216, 4096, rngs=rngs), nnx.relu,
            nnx.Dropout(dropout, rngs=rngs), nnx.Linear(4096, 4096, rngs=rngs), nnx.relu,
            nnx.Linear(4096, num_classes, rngs=rngs),
        )  # fmt: skip

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.classifier(self.flatten(self.avgpool(self.features(x))))


@network
class AlexNet2012(nnx.Module):
    """AlexNet as published. Krizhevsky, Sutskever, Hinton, "ImageNet classification with deep convolutional neural
    networks", NIPS 2012.

    The paper gives 224 x 224, which does not lead to its 55 x 55; the authors' program read 227 x 227.

    Input: 1 x 227 x 227 x 3
    Output: 1 x 1000
    Parameters: 60,965,224 (github.com/HewlettPackard/dlcookbook-dlbs, docs/models, of BVLC Caffe's bvlc_alexnet; the
        paper says 60 million)
    Multiply-adds: 727 million (github.com/albanie/convnet-burden, alexnet; with biases, pools and normalisation)
    Receptive field: 195 at `features` (Araujo et al. 2019, alexnet_v2/pool5)
    """

    torch_flattened = {"classifier.1": (6, 6, 256)}

    def __init__(self, num_classes: int = 1000, dropout: float = 0.5, *, rngs: nnx.Rngs):
        norm = lambda: LocalResponseNorm(5, alpha=5e-4, k=2.0)  # the paper's alpha, 1e-4, multiplies the sum
        biased: dict[str, Any] = dict(use_bias=True, rngs=rngs)
        self.features = Sequential(
            conv(3, 96, 11, 4, padding=0, **biased), nnx.relu, norm(), cn.MaxPool(3, 2),
            conv(96, 256, 5, groups=2, **biased), nnx.relu, norm(), cn.MaxPool(3, 2),
            conv(256, 384, **biased), nnx.relu,
            conv(384, 384, groups=2, **biased), nnx.relu,
            conv(384, 256, groups=2, **biased), nnx.relu, cn.MaxPool(3, 2),
        )  # fmt: skip
        self.classifier = Sequential(
            cn.Flatten(),
            nnx.Linear(9216, 4096, rngs=rngs), nnx.relu, nnx.Dropout(dropout, rngs=rngs),
            nnx.Linear(4096, 4096, rngs=rngs), nnx.relu, nnx.Dropout(dropout, rngs=rngs),
            nnx.Linear(4096, num_classes, rngs=rngs),
        )  # fmt: skip

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.classifier(self.features(x))
