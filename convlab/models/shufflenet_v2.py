"""ShuffleNet v2: half the channels skip each block, and a channel shuffle mixes both halves."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from .. import nnx as cn
from ._blocks import ConvNormActivation, Sequential, batch_norm, conv
from ._registry import named

Array = jax.Array


def channel_shuffle(x: Array, groups: int) -> Array:
    """Interleave the channels of the groups: the first of each, the second of each, ..."""
    return x.reshape(*x.shape[:-1], groups, -1).swapaxes(-1, -2).reshape(x.shape)


class InvertedResidual(nnx.Module):
    """`branch2` on half the channels or, with strides 2, `branch1` and `branch2` on all of them; then a channel
    shuffle."""

    def __init__(self, in_features: int, out_features: int, strides: int, *, rngs: nnx.Rngs):
        half = out_features // 2
        inputs = half if strides == 1 else in_features
        self.branch1 = None if strides == 1 else Sequential(
            conv(inputs, inputs, 3, strides, groups=inputs, rngs=rngs), batch_norm(inputs, rngs=rngs),
            conv(inputs, half, 1, rngs=rngs), batch_norm(half, rngs=rngs), nnx.relu,
        )  # fmt: skip
        self.branch2 = Sequential(
            conv(inputs, half, 1, rngs=rngs), batch_norm(half, rngs=rngs), nnx.relu,
            conv(half, half, 3, strides, groups=half, rngs=rngs), batch_norm(half, rngs=rngs),
            conv(half, half, 1, rngs=rngs), batch_norm(half, rngs=rngs), nnx.relu,
        )  # fmt: skip

    def __call__(self, x: Array) -> Array:
        if self.branch1 is None:
            kept, x = jnp.split(x, 2, axis=-1)
        else:
            kept = self.branch1(x)
        return channel_shuffle(jnp.concatenate([kept, self.branch2(x)], axis=-1), 2)


class ShuffleNetV2(nnx.Module):
    """ShuffleNet v2. Ma et al., "ShuffleNet V2: Practical guidelines for efficient CNN architecture design", arXiv
    1807.11164.

    Args:
        stages_out_channels: channels of the first convolution, of the three stages and of the last convolution.
        stages_repeats: blocks in each of the three stages.
        num_classes: number of scores.
    """

    stage2: Sequential
    stage3: Sequential
    stage4: Sequential

    def __init__(
        self,
        stages_out_channels: Sequence[int],
        stages_repeats: Sequence[int] = (4, 8, 4),
        num_classes: int = 1000,
        *,
        rngs: nnx.Rngs,
    ):
        inputs, *stages, last = stages_out_channels
        self.conv1, self.maxpool = ConvNormActivation(3, inputs, 3, 2, rngs=rngs), cn.MaxPool(3, 2, padding=1)
        for nth, (features, repeats) in enumerate(zip(stages, stages_repeats), 2):
            blocks = [InvertedResidual(inputs, features, 2, rngs=rngs)]
            blocks += [InvertedResidual(features, features, 1, rngs=rngs) for _ in range(repeats - 1)]
            setattr(self, f"stage{nth}", Sequential(*blocks))
            inputs = features
        self.conv5, self.avgpool = ConvNormActivation(inputs, last, 1, rngs=rngs), cn.GlobalAvgPool()
        self.fc = nnx.Linear(last, num_classes, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        x = self.stage4(self.stage3(self.stage2(self.maxpool(self.conv1(x)))))
        return self.fc(self.avgpool(self.conv5(x)))


ShuffleNet_V2_X0_5 = named(ShuffleNetV2, "ShuffleNet_V2_X0_5", stages_out_channels=(24, 48, 96, 192, 1024))
ShuffleNet_V2_X1_0 = named(ShuffleNetV2, "ShuffleNet_V2_X1_0", stages_out_channels=(24, 116, 232, 464, 1024))
ShuffleNet_V2_X1_5 = named(ShuffleNetV2, "ShuffleNet_V2_X1_5", stages_out_channels=(24, 176, 352, 704, 1024))
ShuffleNet_V2_X2_0 = named(ShuffleNetV2, "ShuffleNet_V2_X2_0", stages_out_channels=(24, 244, 488, 976, 2048))
