"""ResNeXt-50 (32x4d): ResNet-50 whose bottlenecks are twice as wide, in 32 groups."""

from __future__ import annotations

from functools import partial

from flax import nnx
from resnet import Bottleneck, ResNet


class ResNeXt50(ResNet):
    """ResNeXt-50 (32x4d). Xie et al., "Aggregated residual transformations for deep neural networks", arXiv 1611.05431.

    Input: 1 x 224 x 224 x 3
    Output: 1 x 1000
    Parameters: 25,028,904 (torchvision's documentation, resnext50_32x4d; the paper's table 1 says 25.0 million)
    Multiply-adds: 4.23 billion (torchvision's documentation, resnext50_32x4d; the paper's table 1 says 4.2)
    """

    def __init__(self, classes: int = 1000, *, rngs: nnx.Rngs):
        super().__init__(partial(Bottleneck, narrowing=2, groups=32), (3, 4, 6, 3), 256, classes, rngs=rngs)
