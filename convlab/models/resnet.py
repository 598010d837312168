"""ResNet, ResNeXt and Wide ResNet. The stride of a bottleneck is in its 3x3 convolution, as in torchvision ("v1.5")."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
from flax import nnx

from .. import nnx as cn
from ._blocks import ConvNormActivation, Sequential, batch_norm, conv
from ._registry import named

Array = jax.Array


class BasicBlock(nnx.Module):
    """Two 3x3 convolutions, to whose result the input is added, or its `downsample` if the shape changes."""

    expansion = 1

    def __init__(self, in_features: int, features: int, strides: int = 1, *, rngs: nnx.Rngs, **bottleneck: Any):
        self.conv1, self.bn1 = conv(in_features, features, 3, strides, rngs=rngs), batch_norm(features, rngs=rngs)
        self.conv2, self.bn2 = conv(features, features, 3, rngs=rngs), batch_norm(features, rngs=rngs)
        self.downsample = downsample(in_features, features, strides, rngs)

    def __call__(self, x: Array) -> Array:
        y = nnx.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return nnx.relu(y + (x if self.downsample is None else self.downsample(x)))


class Bottleneck(nnx.Module):
    """A 1x1 convolution to fewer channels, a 3x3 convolution (optionally grouped or dilated) and a 1x1 convolution to
    four times `features`; the input, or its `downsample`, is added."""

    expansion = 4

    def __init__(
        self,
        in_features: int,
        features: int,
        strides: int = 1,
        *,
        groups: int = 1,
        width_per_group: int = 64,
        dilation: int = 1,
        rngs: nnx.Rngs,
    ):
        width, out_features = features * width_per_group // 64 * groups, features * self.expansion
        self.conv1, self.bn1 = conv(in_features, width, 1, rngs=rngs), batch_norm(width, rngs=rngs)
        self.conv2 = conv(width, width, 3, strides, groups=groups, dilation=dilation, rngs=rngs)
        self.bn2 = batch_norm(width, rngs=rngs)
        self.conv3, self.bn3 = conv(width, out_features, 1, rngs=rngs), batch_norm(out_features, rngs=rngs)
        self.downsample = downsample(in_features, out_features, strides, rngs)

    def __call__(self, x: Array) -> Array:
        y = nnx.relu(self.bn1(self.conv1(x)))
        y = nnx.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return nnx.relu(y + (x if self.downsample is None else self.downsample(x)))


def downsample(in_features: int, out_features: int, strides: int, rngs: nnx.Rngs) -> ConvNormActivation | None:
    """Create a strided 1x1 convolution if the shape changes; return None for the identity."""
    if in_features == out_features and strides == 1:
        return None
    return ConvNormActivation(in_features, out_features, 1, strides, activation=None, rngs=rngs)


class ResNet(nnx.Module):
    """ResNet. He, Zhang, Ren, Sun, "Deep residual learning for image recognition", arXiv 1512.03385.

    Args:
        block: `BasicBlock` or `Bottleneck`.
        layers: blocks in each of the four stages.
        num_classes: number of scores; None leaves the classifier out.
        zero_init_residual: whether each branch is initialised to zero, so that each block begins as the identity.
        groups, width_per_group: groups of the bottlenecks' 3x3 convolutions, and their width; 64 is that of ResNet.
        replace_stride_with_dilation: whether each of the last three stages has dilation instead of strides.
    """

    layer1: Sequential
    layer2: Sequential
    layer3: Sequential
    layer4: Sequential

    def __init__(
        self,
        block: Any,
        layers: Sequence[int],
        num_classes: int | None = 1000,
        zero_init_residual: bool = False,
        groups: int = 1,
        width_per_group: int = 64,
        replace_stride_with_dilation: Sequence[bool] | None = None,
        *,
        rngs: nnx.Rngs,
    ):
        self.conv1, self.bn1 = conv(3, 64, 7, 2, rngs=rngs), batch_norm(64, rngs=rngs)
        self.maxpool = cn.MaxPool(3, 2, padding=1)
        inputs, dilation = 64, 1
        dilated = (False, *(replace_stride_with_dilation or (False,) * 3))
        for stage, (depth, keeps_size) in enumerate(zip(layers, dilated)):
            features, strides, before = 64 * 2**stage, 1 if stage == 0 or keeps_size else 2, dilation
            dilation *= 2 if keeps_size else 1
            blocks: list[Any] = []
            for nth in range(depth):
                options = dict(groups=groups, width_per_group=width_per_group, dilation=dilation if nth else before)
                blocks.append(block(inputs, features, 1 if nth else strides, rngs=rngs, **options))
                inputs = features * block.expansion
            setattr(self, f"layer{stage + 1}", Sequential(*blocks))
        self.avgpool = cn.GlobalAvgPool()
        self.fc = None if num_classes is None else nnx.Linear(inputs, num_classes, rngs=rngs)
        if zero_init_residual:
            blocks = [part for stage in self._stages() for part in stage]
            for part in blocks:
                scale: Any = (part.bn3 if isinstance(part, Bottleneck) else part.bn2).scale
                scale[...] = 0 * scale[...]

    def _stages(self) -> list[Sequential]:
        return [self.layer1, self.layer2, self.layer3, self.layer4]

    def stages(self, x: Array) -> list[Array]:
        """Return the results of the four stages for an image."""
        x, found = self.maxpool(nnx.relu(self.bn1(self.conv1(x)))), []
        for stage in self._stages():
            x = stage(x)
            found.append(x)
        return found

    def __call__(self, x: Array) -> Array:
        x = self.avgpool(self.stages(x)[-1])
        return x if self.fc is None else self.fc(x)


ResNet18 = named(
    ResNet,
    "ResNet18",
    """ResNet-18. He, Zhang, Ren, Sun, "Deep residual learning for image recognition", arXiv 1512.03385, table 1.

    Input: 1 x 224 x 224 x 3
    Output: 1 x 1000
    Parameters: 11,689,512 (torchvision's documentation, resnet18)
    Multiply-adds: 1.81 billion (torchvision's documentation, resnet18; the paper says 1.8)
    """,
    block=BasicBlock,
    layers=(2, 2, 2, 2),
)
ResNet34 = named(ResNet, "ResNet34", block=BasicBlock, layers=(3, 4, 6, 3))
ResNet50 = named(
    ResNet,
    "ResNet50",
    """ResNet-50. He, Zhang, Ren, Sun, "Deep residual learning for image recognition", arXiv 1512.03385, table 1.

    Input: 1 x 224 x 224 x 3
    Output: 1 x 1000
    Parameters: 25,557,032 (torchvision's documentation, resnet50)
    Multiply-adds: 4.09 billion (torchvision's documentation, resnet50; the paper's 3.8 has the strides in the 1x1
        convolutions)
    """,
    block=Bottleneck,
    layers=(3, 4, 6, 3),
)
ResNet101 = named(ResNet, "ResNet101", block=Bottleneck, layers=(3, 4, 23, 3))
ResNet152 = named(ResNet, "ResNet152", block=Bottleneck, layers=(3, 8, 36, 3))
ResNeXt50_32x4d = named(
    ResNet,
    "ResNeXt50_32x4d",
    """ResNeXt-50 (32x4d). Xie et al., "Aggregated residual transformations for deep neural networks", arXiv 1611.05431.

    Input: 1 x 224 x 224 x 3
    Output: 1 x 1000
    Parameters: 25,028,904 (torchvision's documentation, resnext50_32x4d; the paper's table 1 says 25.0 million)
    Multiply-adds: 4.23 billion (torchvision's documentation, resnext50_32x4d; the paper's table 1 says 4.2)
    """,
    block=Bottleneck,
    layers=(3, 4, 6, 3),
    groups=32,
    width_per_group=4,
)
ResNeXt101_32x8d = named(
    ResNet, "ResNeXt101_32x8d", block=Bottleneck, layers=(3, 4, 23, 3), groups=32, width_per_group=8
)
ResNeXt101_64x4d = named(
    ResNet, "ResNeXt101_64x4d", block=Bottleneck, layers=(3, 4, 23, 3), groups=64, width_per_group=4
)
Wide_ResNet50_2 = named(
    ResNet,
    "Wide_ResNet50_2",
    """Wide ResNet-50-2. Zagoruyko, Komodakis, "Wide residual networks", arXiv 1605.07146.""",
    block=Bottleneck,
    layers=(3, 4, 6, 3),
    width_per_group=128,
)
Wide_ResNet101_2 = named(
    ResNet,
    "Wide_ResNet101_2",
    """Wide ResNet-101-2. Zagoruyko, Komodakis, "Wide residual networks", arXiv 1605.07146.""",
    block=Bottleneck,
    layers=(3, 4, 23, 3),
    width_per_group=128,
)
