"""DeepLab v3: Chen, Papandreou, Schroff, Adam, "Rethinking atrous convolution for semantic image segmentation", arXiv 1706.05587."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from resnet import Bottleneck, ConvNorm

from convlab import nnx as cn

Array = jax.Array


class ASPP(nnx.Module):
    """Atrous spatial pyramid pooling, figure 5: a 1x1 convolution, three 3x3 ones of growing rates and the whole image's mean."""

    def __init__(self, seen: int, made: int, rates: Sequence[int], dropout: float, *, rngs: nnx.Rngs):
        self.point = ConvNorm(seen, made, 1, rngs=rngs)
        self.atrous = nnx.List(ConvNorm(seen, made, 3, dilation=rate, rngs=rngs) for rate in rates)
        self.pool = cn.GlobalAvgPool(keepdims=True)
        self.image = ConvNorm(seen, made, 1, rngs=rngs)
        self.project = ConvNorm((2 + len(rates)) * made, made, 1, rngs=rngs)
        self.dropout = nnx.Dropout(dropout, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        image = self.image(self.pool(x))
        branches = [self.point(x), *(conv(x) for conv in self.atrous)]
        branches.append(jnp.broadcast_to(image, branches[0].shape))
        return self.dropout(nnx.relu(self.project(nnx.relu(jnp.concatenate(branches, -1)))))


class Scores(nnx.Module):
    """A 3x3 convolution with its norm and a ReLU, dropout, and a 1x1 convolution to the classes."""

    def __init__(self, seen: int, classes: int, dropout: float, *, rngs: nnx.Rngs):
        self.conv1 = ConvNorm(seen, 256, 3, rngs=rngs)
        self.dropout = nnx.Dropout(dropout, rngs=rngs)
        self.conv2 = cn.Conv(256, classes, (1, 1), rngs=rngs)

    def __call__(self, x: Array) -> Array:
        return self.conv2(self.dropout(nnx.relu(self.conv1(x))))


def stage(seen: int, made: int, depth: int, strides: int, first: int, others: int, rngs: nnx.Rngs) -> nnx.Sequential:
    """Bottlenecks, the first dilated by `first` and the others by `others`."""
    blocks = [Bottleneck(seen, made, strides, dilation=first, rngs=rngs)]
    return nnx.Sequential(*blocks, *(Bottleneck(made, made, 1, dilation=others, rngs=rngs) for _ in range(depth - 1)))


class DeepLabV3(nnx.Module):
    """DeepLab v3 (ResNet-50). Chen, Papandreou, Schroff, Adam, "Rethinking atrous convolution for semantic image segmentation", arXiv 1706.05587, figure 5.

    Input: 1 x 520 x 520 x 3
    Output: 1 x 520 x 520 x 21
    Parameters: 42,004,074 (torchvision's documentation, deeplabv3_resnet50, with its auxiliary scores)
    Multiply-adds: 178.72 billion (torchvision's documentation, deeplabv3_resnet50, whose images are 520 high)

    Called with `(n, height, width, 3)`; the scores of the classes, `(n, height, width, classes)`, and the auxiliary scores from the
    third stage, which help to train it. The output stride is 8, as torchvision has it: the last two stages of ResNet-50 keep their
    size and dilate, and the rates of the pyramid are twice the paper's 6, 12 and 18.
    """

    def __init__(self, classes: int = 21, *, rates: Sequence[int] = (12, 24, 36), dropout: float = 0.5, rngs: nnx.Rngs):
        self.stem = ConvNorm(3, 64, 7, 2, rngs=rngs)
        self.pool = cn.MaxPool(3, 2, padding=1)
        self.stage1 = stage(64, 256, 3, 1, 1, 1, rngs)
        self.stage2 = stage(256, 512, 4, 2, 1, 1, rngs)
        self.stage3 = stage(512, 1024, 6, 1, 1, 2, rngs)
        self.stage4 = stage(1024, 2048, 3, 1, 2, 4, rngs)
        self.aspp = ASPP(2048, 256, rates, dropout, rngs=rngs)
        self.head = Scores(256, classes, 0.0, rngs=rngs)
        self.auxiliary = Scores(1024, classes, 0.1, rngs=rngs)

    def __call__(self, x: Array) -> tuple[Array, Array]:
        third = self.stage3(self.stage2(self.stage1(self.pool(nnx.relu(self.stem(x))))))
        scores = self.head(self.aspp(self.stage4(third)))
        return upsampled(scores, x), upsampled(self.auxiliary(third), x)


def upsampled(scores: Array, image: Array) -> Array:
    """Bilinearly, to the size of the image."""
    return jax.image.resize(scores, (*image.shape[:-1], scores.shape[-1]), "linear")
