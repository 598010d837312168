"""Inception v3: convolutions with windows of 7 are factored into a row and a column."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from .. import nnx as cn
from ._blocks import BasicConv, imagenet_input
from ._registry import named

Array = jax.Array

# A convolution's window, padding and strides.
ONE, THREE, FIVE, HALVING = (1, 0, 1), (3, 1, 1), (5, 2, 1), (3, 0, 2)
ROW7, COLUMN7 = ((1, 7), (0, 3), 1), ((7, 1), (3, 0), 1)
ROW3, COLUMN3 = ((1, 3), (0, 1), 1), ((3, 1), (1, 0), 1)

# A branch is a row of (name, channels, form); a list in it is a fork, whose results are concatenated. The last branch
# reads a pool.


def inception_a(pooled: int) -> list:
    return [
        [("branch1x1", 64, ONE)],
        [("branch5x5_1", 48, ONE), ("branch5x5_2", 64, FIVE)],
        [("branch3x3dbl_1", 64, ONE), ("branch3x3dbl_2", 96, THREE), ("branch3x3dbl_3", 96, THREE)],
        [("branch_pool", pooled, ONE)],
    ]


INCEPTION_B = [
    [("branch3x3", 384, HALVING)],
    [("branch3x3dbl_1", 64, ONE), ("branch3x3dbl_2", 96, THREE), ("branch3x3dbl_3", 96, HALVING)],
    [],
]


def inception_c(width: int) -> list:
    double = [("branch7x7dbl_1", width, ONE), ("branch7x7dbl_2", width, COLUMN7), ("branch7x7dbl_3", width, ROW7)]
    return [
        [("branch1x1", 192, ONE)],
        [("branch7x7_1", width, ONE), ("branch7x7_2", width, ROW7), ("branch7x7_3", 192, COLUMN7)],
        [*double, ("branch7x7dbl_4", width, COLUMN7), ("branch7x7dbl_5", 192, ROW7)],
        [("branch_pool", 192, ONE)],
    ]


INCEPTION_D = [
    [("branch3x3_1", 192, ONE), ("branch3x3_2", 320, HALVING)],
    [
        ("branch7x7x3_1", 192, ONE), ("branch7x7x3_2", 192, ROW7), ("branch7x7x3_3", 192, COLUMN7),
        ("branch7x7x3_4", 192, HALVING),
    ],
    [],
]  # fmt: skip
INCEPTION_E = [
    [("branch1x1", 320, ONE)],
    [("branch3x3_1", 384, ONE), [("branch3x3_2a", 384, ROW3), ("branch3x3_2b", 384, COLUMN3)]],
    [
        ("branch3x3dbl_1", 448, ONE), ("branch3x3dbl_2", 384, THREE),
        [("branch3x3dbl_3a", 384, ROW3), ("branch3x3dbl_3b", 384, COLUMN3)],
    ],
    [("branch_pool", 192, ONE)],
]  # fmt: skip

STAGES: dict[str, list] = {
    "Mixed_5b": inception_a(32),
    "Mixed_5c": inception_a(64),
    "Mixed_5d": inception_a(64),
    "Mixed_6a": INCEPTION_B,
    "Mixed_6b": inception_c(128),
    "Mixed_6c": inception_c(160),
    "Mixed_6d": inception_c(160),
    "Mixed_6e": inception_c(192),
    "Mixed_7a": INCEPTION_D,
    "Mixed_7b": INCEPTION_E,
    "Mixed_7c": INCEPTION_E,
}


class Mixed(nnx.Module):
    """Parallel branches, concatenated along the channels; the last one pools, by maximum if the size is halved."""

    def __init__(self, in_features: int, branches: list, *, rngs: nnx.Rngs):
        self.out_features, names = 0, []
        for branch in branches:
            inputs, steps = in_features, []
            for step in branch:
                fork = step if isinstance(step, list) else [step]
                for name, features, (window, padding, strides) in fork:
                    setattr(self, name, BasicConv(inputs, features, window, strides, padding=padding, rngs=rngs))
                inputs = sum(features for _, features, _ in fork)
                steps.append(tuple(name for name, _, _ in fork))
            self.out_features += inputs
            names.append(tuple(steps))
        self.branches = tuple(names)
        self.pool = cn.AvgPool(3, 1, padding=1) if branches[-1] else cn.MaxPool(3, 2)

    def __call__(self, x: Array) -> Array:
        *branches, last = self.branches
        results = [self._run(branch, x) for branch in branches]
        return jnp.concatenate([*results, self._run(last, self.pool(x))], axis=-1)

    def _run(self, branch: tuple[tuple[str, ...], ...], x: Array) -> Array:
        for fork in branch:
            results = [getattr(self, name)(x) for name in fork]
            x = results[0] if len(results) == 1 else jnp.concatenate(results, axis=-1)
        return x


class InceptionAux(nnx.Module):
    """An auxiliary classifier of intermediate features, used in training only."""

    def __init__(self, in_features: int, num_classes: int, *, rngs: nnx.Rngs):
        self.pool = cn.AvgPool(5, 3)
        self.conv0, self.conv1 = BasicConv(in_features, 128, 1, rngs=rngs), BasicConv(128, 768, 5, rngs=rngs)
        self.avgpool = cn.GlobalAvgPool()
        self.fc = nnx.Linear(768, num_classes, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        return self.fc(self.avgpool(self.conv1(self.conv0(self.pool(x)))))


class InceptionOutputs(NamedTuple):
    """The results of the network in training."""

    logits: Array
    aux_logits: Array


class Inception3(nnx.Module):
    """Inception v3. Szegedy et al., "Rethinking the Inception architecture for computer vision", arXiv 1512.00567.

    In training it returns `InceptionOutputs` if it has the auxiliary classifier, otherwise only the scores. Images are
    299 x 299.

    Args:
        num_classes: number of scores.
        aux_logits: whether it has the auxiliary classifier; with `weights`, as in the file by default.
        transform_input: whether images are normalised with ImageNet's means, and not between -1 and 1; True by default
            with `weights`, as in torchvision.
        dropout: rate of the dropout before the classifier.
    """

    torch_optional = {"aux_logits": ("AuxLogits.",)}
    torch_options = {"transform_input": True}

    def __init__(
        self,
        num_classes: int = 1000,
        aux_logits: bool = True,
        transform_input: bool = False,
        dropout: float = 0.5,
        *,
        rngs: nnx.Rngs,
    ):
        self.transform_input, self.deterministic = transform_input, False
        self.Conv2d_1a_3x3 = BasicConv(3, 32, 3, 2, rngs=rngs)
        self.Conv2d_2a_3x3, self.Conv2d_2b_3x3 = (
            BasicConv(32, 32, 3, rngs=rngs),
            BasicConv(32, 64, 3, padding=1, rngs=rngs),
        )
        self.maxpool1, self.maxpool2 = cn.MaxPool(3, 2), cn.MaxPool(3, 2)
        self.Conv2d_3b_1x1, self.Conv2d_4a_3x3 = BasicConv(64, 80, 1, rngs=rngs), BasicConv(80, 192, 3, rngs=rngs)
        features = 192
        auxiliary = None
        for name, branches in STAGES.items():
            mixed = Mixed(features, branches, rngs=rngs)
            setattr(self, name, mixed)
            features = mixed.out_features
            if name == "Mixed_6e" and aux_logits:
                auxiliary = InceptionAux(features, num_classes, rngs=rngs)
        self.AuxLogits = auxiliary
        self.avgpool, self.dropout = cn.GlobalAvgPool(), nnx.Dropout(dropout, rngs=rngs)
        self.fc = nnx.Linear(features, num_classes, rngs=rngs)

    def __call__(self, x: Array) -> Array | InceptionOutputs:
        x = imagenet_input(x) if self.transform_input else x
        x = self.maxpool1(self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x))))
        x = self.maxpool2(self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x)))
        aux = None
        for name in STAGES:
            x = getattr(self, name)(x)
            if name == "Mixed_6e" and self.AuxLogits is not None and not self.deterministic:
                aux = self.AuxLogits(x)
        logits = self.fc(self.dropout(self.avgpool(x)))
        return logits if aux is None else InceptionOutputs(logits, aux)

    def set_view(self, deterministic: bool | None = None) -> None:
        """Set the mode, for `nnx.view`."""
        self.deterministic = self.deterministic if deterministic is None else deterministic


Inception_V3 = named(Inception3, "Inception_V3")
