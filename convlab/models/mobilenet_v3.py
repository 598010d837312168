"""MobileNet v3: inverted residuals with squeeze and excitation, and hard-swish in layers with many channels."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import jax
from flax import nnx

from .. import nnx as cn
from ._blocks import ConvNormActivation, Sequential, SqueezeExcitation, batch_norm, multiple_of_8
from ._registry import named

norm = partial(batch_norm, epsilon=1e-3, momentum=0.99)
RE, HS = nnx.relu, nnx.hard_swish

# Of the paper's tables 1 and 2: window, expanded channels, channels, squeeze and excitation, activation, strides.
LARGE = (
    (3, 16, 16, False, RE, 1),
    (3, 64, 24, False, RE, 2),
    (3, 72, 24, False, RE, 1),
    (5, 72, 40, True, RE, 2),
    (5, 120, 40, True, RE, 1),
    (5, 120, 40, True, RE, 1),
    (3, 240, 80, False, HS, 2),
    (3, 200, 80, False, HS, 1),
    (3, 184, 80, False, HS, 1),
    (3, 184, 80, False, HS, 1),
    (3, 480, 112, True, HS, 1),
    (3, 672, 112, True, HS, 1),
    (5, 672, 160, True, HS, 2),
    (5, 960, 160, True, HS, 1),
    (5, 960, 160, True, HS, 1),
)
SMALL = (
    (3, 16, 16, True, RE, 2),
    (3, 72, 24, False, RE, 2),
    (3, 88, 24, False, RE, 1),
    (5, 96, 40, True, HS, 2),
    (5, 240, 40, True, HS, 1),
    (5, 240, 40, True, HS, 1),
    (5, 120, 48, True, HS, 1),
    (5, 144, 48, True, HS, 1),
    (5, 288, 96, True, HS, 2),
    (5, 576, 96, True, HS, 1),
    (5, 576, 96, True, HS, 1),
)
TAIL = 3  # blocks that `dilated` and `reduced_tail` change


class InvertedResidual(nnx.Module):
    """A 1x1 convolution to more channels, a depthwise convolution, squeeze and excitation, and a 1x1 convolution to
    fewer channels; the input is added where the shapes are equal."""

    def __init__(self, in_features: int, row: tuple, dilation: int = 1, *, rngs: nnx.Rngs):
        window, wide, out_features, squeezed, activation, strides = row
        unit = partial(ConvNormActivation, norm=norm, rngs=rngs)
        depthwise = dict(groups=wide, dilation=dilation, activation=activation)
        self.block = Sequential(
            *([] if wide == in_features else [unit(in_features, wide, 1, activation=activation)]),
            unit(wide, wide, window, 1 if dilation > 1 else strides, **depthwise),
            *(
                [SqueezeExcitation(wide, multiple_of_8(wide // 4), gate=nnx.hard_sigmoid, rngs=rngs)]
                if squeezed
                else []
            ),
            unit(wide, out_features, 1, activation=None),
        )
        self.residual = strides == 1 and in_features == out_features

    def __call__(self, x: jax.Array) -> jax.Array:
        return x + self.block(x) if self.residual else self.block(x)


class MobileNetV3(nnx.Module):
    """MobileNet v3. Howard et al., "Searching for MobileNetV3", arXiv 1905.02244.

    Args:
        rows: the blocks, `LARGE` or `SMALL`.
        last_channel: channels of the dense layer before the scores.
        num_classes: number of scores.
        dropout: rate of the dropout before the scores.
        width_mult: multiplies all channels, which are rounded to multiples of 8.
        reduced_tail: whether the last blocks have half the channels.
        dilated: whether the last blocks have dilations instead of strides.
    """

    def __init__(
        self,
        rows: Sequence[tuple],
        last_channel: int,
        num_classes: int = 1000,
        dropout: float = 0.2,
        width_mult: float = 1.0,
        reduced_tail: bool = False,
        dilated: bool = False,
        *,
        rngs: nnx.Rngs,
    ):
        inputs = multiple_of_8(16 * width_mult)
        layers: list = [ConvNormActivation(3, inputs, 3, 2, norm=norm, activation=HS, rngs=rngs)]
        for nth, (window, wide, channels, *rest) in enumerate(rows):
            tail = nth >= len(rows) - TAIL
            half, whole = (2, 1 if nth == len(rows) - TAIL else 2) if tail and reduced_tail else (1, 1)
            row = (
                window,
                multiple_of_8(wide // whole * width_mult),
                multiple_of_8(channels // half * width_mult),
                *rest,
            )
            layers.append(InvertedResidual(inputs, row, 2 if tail and dilated else 1, rngs=rngs))
            inputs = row[2]
        layers.append(ConvNormActivation(inputs, 6 * inputs, 1, norm=norm, activation=HS, rngs=rngs))
        self.features = Sequential(*layers)
        self.avgpool = cn.GlobalAvgPool()
        last = multiple_of_8(last_channel // (2 if reduced_tail else 1) * width_mult)
        self.classifier = Sequential(
            nnx.Linear(6 * inputs, last, rngs=rngs), HS,
            nnx.Dropout(dropout, rngs=rngs), nnx.Linear(last, num_classes, rngs=rngs),
        )  # fmt: skip

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.classifier(self.avgpool(self.features(x)))


MobileNet_V3_Large = named(MobileNetV3, "MobileNet_V3_Large", rows=LARGE, last_channel=1280)
MobileNet_V3_Small = named(MobileNetV3, "MobileNet_V3_Small", rows=SMALL, last_channel=1024)
