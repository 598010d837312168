"""GoogLeNet, Inception v1: torchvision's version, with batch normalisation, and as published, with local response
normalisation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from .. import nnx as cn
from ._blocks import BasicConv, LocalResponseNorm, Sequential, conv, imagenet_input
from ._registry import network

Array = jax.Array

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
CLASSIFIED = ("4a", "4d")  # the blocks whose results the auxiliary classifiers read


class Inception(nnx.Module):
    """Four parallel branches, concatenated along the channels.

    Args:
        row: a row of `TABLE`.
        unit: a function that makes a convolution with its normalisation and activation, called as
            `unit(in_features, out_features, window, rngs=rngs)`.
        window: window of the third branch: 5 in the paper, 3 in torchvision.
    """

    def __init__(self, in_features: int, row: tuple[int, ...], unit: Callable, window: int, *, rngs: nnx.Rngs):
        one, reduce3, three, reduce5, five, projected = row
        self.branch1 = unit(in_features, one, 1, rngs=rngs)
        self.branch2 = Sequential(unit(in_features, reduce3, 1, rngs=rngs), unit(reduce3, three, 3, rngs=rngs))
        self.branch3 = Sequential(unit(in_features, reduce5, 1, rngs=rngs), unit(reduce5, five, window, rngs=rngs))
        self.branch4 = Sequential(cn.MaxPool(3, padding=1), unit(in_features, projected, 1, rngs=rngs))

    def __call__(self, x: Array) -> Array:
        return jnp.concatenate([self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)], axis=-1)


def inceptions(unit: Callable, window: int, rngs: nnx.Rngs) -> Iterator[tuple[str, Inception, int]]:
    """Create the modules of the rows of the table, with their names and their output channels."""
    inputs = 192
    for name, row in TABLE.items():
        module = Inception(inputs, row, unit, window, rngs=rngs)
        inputs = row[0] + row[2] + row[4] + row[5]
        yield name, module, inputs


def basic(in_features: int, out_features: int, window: int, strides: int = 1, *, rngs: nnx.Rngs) -> BasicConv:
    return BasicConv(in_features, out_features, window, strides, padding=window // 2, rngs=rngs)


class GoogLeNetOutputs(NamedTuple):
    """The results of the network in training."""

    logits: Array
    aux_logits2: Array
    aux_logits1: Array


class InceptionAux(nnx.Module):
    """An auxiliary classifier of intermediate features, used in training only."""

    torch_flattened = {"fc1": (4, 4, 128)}

    def __init__(self, in_features: int, num_classes: int, dropout: float, *, rngs: nnx.Rngs):
        self.pool = cn.AdaptiveAvgPool((4, 4))
        self.conv = basic(in_features, 128, 1, rngs=rngs)
        self.flatten = cn.Flatten()
        self.fc1 = nnx.Linear(2048, 1024, rngs=rngs)
        self.dropout = nnx.Dropout(dropout, rngs=rngs)
        self.fc2 = nnx.Linear(1024, num_classes, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        x = self.flatten(self.conv(self.pool(x)))
        return self.fc2(self.dropout(nnx.relu(self.fc1(x))))


@network
class GoogLeNet(nnx.Module):
    """GoogLeNet with batch normalisation, as in torchvision. Szegedy et al., "Going deeper with convolutions", arXiv
    1409.4842.

    In training it returns a `GoogLeNetOutputs` if it has auxiliary classifiers, otherwise only the scores. Its third
    branches have 3x3 windows instead of the paper's 5x5; `GoogLeNet2014` is the paper's network.

    Args:
        num_classes: number of scores.
        aux_logits: whether it has the auxiliary classifiers; with `weights`, as in the file by default.
        transform_input: whether images are normalised with ImageNet's means, and not between -1 and 1; True by default
            with `weights`, as in torchvision.
        dropout, dropout_aux: rates of the dropout before the classifier, and in the auxiliary ones.

    Input: 1 x 224 x 224 x 3
    Output: 1 x 1000
    Parameters: 13,004,888 (torchvision 0.29.1, googlenet, with its auxiliary classifiers)
    Multiply-adds: 1.498 billion (torchvision's documentation, googlenet)
    """

    torch_flattened = {"fc": None}  # the means over positions have only one order
    torch_optional = {"aux_logits": ("aux1.", "aux2.")}
    torch_options = {"transform_input": True}

    def __init__(
        self,
        num_classes: int = 1000,
        aux_logits: bool = True,
        transform_input: bool = False,
        dropout: float = 0.2,
        dropout_aux: float = 0.7,
        *,
        rngs: nnx.Rngs,
    ):
        self.transform_input, self.deterministic = transform_input, False
        pool = lambda size=3: cn.MaxPool(size, 2, ceil_mode=True)
        self.conv1, self.maxpool1 = basic(3, 64, 7, 2, rngs=rngs), pool()
        self.conv2, self.conv3, self.maxpool2 = basic(64, 64, 1, rngs=rngs), basic(64, 192, 3, rngs=rngs), pool()
        self.maxpool3, self.maxpool4 = pool(), pool(2)
        features_of = {}
        for name, module, features in inceptions(basic, 3, rngs):
            setattr(self, f"inception{name}", module)
            features_of[name] = features
        auxiliary = lambda name: (
            InceptionAux(features_of[name], num_classes, dropout_aux, rngs=rngs) if aux_logits else None
        )
        self.aux1, self.aux2 = map(auxiliary, CLASSIFIED)
        self.avgpool, self.dropout = cn.GlobalAvgPool(), nnx.Dropout(dropout, rngs=rngs)
        self.fc = nnx.Linear(1024, num_classes, rngs=rngs)

    def __call__(self, x: Array) -> Array | GoogLeNetOutputs:
        x = imagenet_input(x) if self.transform_input else x
        x = self.maxpool2(self.conv3(self.conv2(self.maxpool1(self.conv1(x)))))
        read = {}
        for name in TABLE:
            x = {"4a": self.maxpool3, "5a": self.maxpool4}.get(name, nnx.identity)(x)
            read[name] = x = getattr(self, f"inception{name}")(x)
        logits = self.fc(self.dropout(self.avgpool(x)))
        if self.deterministic or self.aux1 is None or self.aux2 is None:
            return logits
        first, second = CLASSIFIED
        return GoogLeNetOutputs(logits, self.aux2(read[second]), self.aux1(read[first]))

    def set_view(self, deterministic: bool | None = None) -> None:
        """Set the mode, for `nnx.view`."""
        self.deterministic = self.deterministic if deterministic is None else deterministic


def rectified(in_features: int, out_features: int, window: int, strides: int = 1, *, rngs: nnx.Rngs) -> Sequential:
    return Sequential(conv(in_features, out_features, window, strides, use_bias=True, rngs=rngs), nnx.relu)


@network
class GoogLeNet2014(nnx.Module):
    """GoogLeNet as published. Szegedy et al., "Going deeper with convolutions", arXiv 1409.4842, table 1.

    It does not have the auxiliary classifiers, which were used only in training.

    Input: 1 x 224 x 224 x 3
    Output: 1 x 1000
    Parameters: 6,998,552 (github.com/HewlettPackard/dlcookbook-dlbs, docs/models, of BVLC Caffe's bvlc_googlenet)
    Multiply-adds: 1,586 million (the paper's table 1, with 118 million in place of 34 for the first layer: 7 * 7 * 3 *
    64 * 112 * 112)
    """

    def __init__(self, num_classes: int = 1000, *, rngs: nnx.Rngs):
        pool = lambda: cn.MaxPool(3, 2, padding="SAME")  # half the size, rounded up
        self.stem = Sequential(
            rectified(3, 64, 7, 2, rngs=rngs), pool(), LocalResponseNorm(),
            rectified(64, 64, 1, rngs=rngs), rectified(64, 192, 3, rngs=rngs), LocalResponseNorm(), pool(),
        )  # fmt: skip
        parts: list = []
        for name, module, _ in inceptions(rectified, 5, rngs):
            parts += [pool(), module] if name in ("4a", "5a") else [module]
        self.inceptions = Sequential(*parts)
        self.head = Sequential(
            cn.GlobalAvgPool(), nnx.Dropout(0.4, rngs=rngs), nnx.Linear(1024, num_classes, rngs=rngs)
        )

    def __call__(self, x: Array) -> Array:
        return self.head(self.inceptions(self.stem(x)))
