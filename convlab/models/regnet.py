"""RegNet X and Y: a few numbers determine the widths and depths of all stages."""

from __future__ import annotations

from itertools import groupby

import jax
import numpy as np
from flax import nnx

from .. import nnx as cn
from ._blocks import ConvNormActivation, Sequential, SqueezeExcitation, divisible
from ._registry import named


def stages(depth: int, w_0: int, w_a: float, w_m: float, group_width: int) -> list[tuple[int, int, int]]:
    """Return width, depth and group width of each stage, by the paper's equations 2 to 4, widths in multiples of the
    group width."""
    linear = np.arange(depth, dtype=np.float32) * np.float32(w_a) + w_0
    power = np.round(np.log(linear / w_0) / np.float32(np.log(w_m)))
    widths = (np.round(w_0 * np.float32(w_m) ** power / 8) * 8).astype(int).tolist()
    groups = [(width, len(list(equal))) for width, equal in groupby(widths)]
    return [(divisible(w, min(group_width, w)), count, min(group_width, w)) for w, count in groups]


class ResBottleneckBlock(nnx.Module):
    """A 1x1, a grouped 3x3 and a 1x1 convolution, with optional squeeze and excitation before the last; the input, or
    its projection, is added."""

    def __init__(self, inputs: int, width: int, strides: int, group_width: int, se_ratio: float, *, rngs: nnx.Rngs):
        changes = inputs != width or strides != 1
        self.proj = ConvNormActivation(inputs, width, 1, strides, activation=None, rngs=rngs) if changes else None
        parts: dict = dict(a=ConvNormActivation(inputs, width, 1, rngs=rngs))
        parts["b"] = ConvNormActivation(width, width, 3, strides, groups=width // group_width, rngs=rngs)
        if se_ratio:
            parts["se"] = SqueezeExcitation(width, round(se_ratio * inputs), rngs=rngs)
        self.f = Sequential(**parts, c=ConvNormActivation(width, width, 1, activation=None, rngs=rngs))

    def __call__(self, x: jax.Array) -> jax.Array:
        return nnx.relu((x if self.proj is None else self.proj(x)) + self.f(x))


class RegNet(nnx.Module):
    """RegNet. Radosavovic et al., "Designing network design spaces", arXiv 2003.13678.

    Args:
        depth: total number of blocks.
        w_0, w_a, w_m: the first width, its slope and the step between widths of stages.
        group_width: channels of a group of the 3x3 convolutions.
        se_ratio: squeezed channels in units of a block's input (RegNet Y), or 0 (RegNet X).
        num_classes: number of scores.
    """

    def __init__(
        self,
        depth: int,
        w_0: int,
        w_a: float,
        w_m: float,
        group_width: int,
        se_ratio: float = 0.0,
        num_classes: int = 1000,
        *,
        rngs: nnx.Rngs,
    ):
        self.stem, inputs = ConvNormActivation(3, 32, 3, 2, rngs=rngs), 32
        trunk = {}
        for nth, (width, blocks, group) in enumerate(stages(depth, w_0, w_a, w_m, group_width), 1):
            parts = {}
            for position in range(blocks):
                strides = 1 if position else 2
                parts[f"block{nth}-{position}"] = ResBottleneckBlock(inputs, width, strides, group, se_ratio, rngs=rngs)
                inputs = width
            trunk[f"block{nth}"] = Sequential(**parts)
        self.trunk_output = Sequential(**trunk)
        self.avgpool = cn.GlobalAvgPool()
        self.fc = nnx.Linear(inputs, num_classes, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.fc(self.avgpool(self.trunk_output(self.stem(x))))


def row(name: str, depth: int, w_0: int, w_a: float, w_m: float, group_width: int, se_ratio: float = 0.0):
    return named(
        RegNet, name, depth=depth, w_0=w_0, w_a=w_a, w_m=w_m, group_width=group_width, se_ratio=se_ratio
    )  # fmt: skip


RegNet_X_400MF = row("RegNet_X_400MF", 22, 24, 24.48, 2.54, 16)
RegNet_X_800MF = row("RegNet_X_800MF", 16, 56, 35.73, 2.28, 16)
RegNet_X_1_6GF = row("RegNet_X_1_6GF", 18, 80, 34.01, 2.25, 24)
RegNet_X_3_2GF = row("RegNet_X_3_2GF", 25, 88, 26.31, 2.25, 48)
RegNet_X_8GF = row("RegNet_X_8GF", 23, 80, 49.56, 2.88, 120)
RegNet_X_16GF = row("RegNet_X_16GF", 22, 216, 55.59, 2.1, 128)
RegNet_X_32GF = row("RegNet_X_32GF", 23, 320, 69.86, 2.0, 168)
RegNet_Y_400MF = row("RegNet_Y_400MF", 16, 48, 27.89, 2.09, 8, 0.25)
RegNet_Y_800MF = row("RegNet_Y_800MF", 14, 56, 38.84, 2.4, 16, 0.25)
RegNet_Y_1_6GF = row("RegNet_Y_1_6GF", 27, 48, 20.71, 2.65, 24, 0.25)
RegNet_Y_3_2GF = row("RegNet_Y_3_2GF", 21, 80, 42.63, 2.66, 24, 0.25)
RegNet_Y_8GF = row("RegNet_Y_8GF", 17, 192, 76.82, 2.19, 56, 0.25)
RegNet_Y_16GF = row("RegNet_Y_16GF", 18, 200, 106.23, 2.48, 112, 0.25)
RegNet_Y_32GF = row("RegNet_Y_32GF", 20, 232, 115.89, 2.53, 232, 0.25)
RegNet_Y_128GF = row("RegNet_Y_128GF", 27, 456, 160.83, 2.52, 264, 0.25)
