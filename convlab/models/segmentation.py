"""FCN, DeepLab v3 and LR-ASPP: a class for every pixel, on the backbones of image classifiers."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from .. import nnx as cn
from ._blocks import ConvNormActivation, Sequential, batch_norm, conv, upsampled
from ._registry import Builder, named
from .mobilenet_v3 import LARGE, MobileNetV3
from .resnet import Bottleneck, ResNet

Array = jax.Array
ROWS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
STRIDED = ("4", "16")  # MobileNet v3 large's last layer with an eighth of the size, and its last layer


class FCNHead(Sequential):
    """A 3x3 convolution to a quarter of the channels, and a 1x1 convolution to the classes."""

    def __init__(self, in_features: int, num_classes: int, *, rngs: nnx.Rngs):
        between = in_features // 4
        super().__init__(
            conv(in_features, between, 3, rngs=rngs), batch_norm(between, rngs=rngs), nnx.relu,
                nnx.Dropout(0.1, rngs=rngs),
            conv(between, num_classes, 1, use_bias=True, rngs=rngs),
        )  # fmt: skip


class ASPPPooling(Sequential):
    """A 1x1 convolution of the mean over the image, repeated at every position."""

    def __init__(self, in_features: int, out_features: int, *, rngs: nnx.Rngs):
        layers = conv(in_features, out_features, 1, rngs=rngs), batch_norm(out_features, rngs=rngs), nnx.relu
        super().__init__(cn.GlobalAvgPool(keepdims=True), *layers)

    def __call__(self, x: Array) -> Array:
        mean = super().__call__(x)
        return jnp.broadcast_to(mean, (*x.shape[:-1], mean.shape[-1]))


class ASPP(nnx.Module):
    """Atrous spatial pyramid pooling, figure 5: a 1x1 convolution, 3x3 convolutions of growing dilation and the mean
    over the image."""

    def __init__(self, in_features: int, rates: Sequence[int], out_features: int = 256, *, rngs: nnx.Rngs):
        self.convs = nnx.List(
            [
                ConvNormActivation(in_features, out_features, 1, rngs=rngs),
                *(ConvNormActivation(in_features, out_features, 3, dilation=rate, rngs=rngs) for rate in rates),
                ASPPPooling(in_features, out_features, rngs=rngs),
            ]
        )
        self.project = Sequential(
            conv(len(self.convs) * out_features, out_features, 1, rngs=rngs), batch_norm(out_features, rngs=rngs),
                nnx.relu,
            nnx.Dropout(0.5, rngs=rngs),
        )  # fmt: skip

    def __call__(self, x: Array) -> Array:
        return self.project(jnp.concatenate([branch(x) for branch in self.convs], axis=-1))


class DeepLabHead(Sequential):
    """Atrous spatial pyramid pooling, a 3x3 convolution, and a 1x1 convolution to the classes."""

    def __init__(self, in_features: int, num_classes: int, rates: Sequence[int] = (12, 24, 36), *, rngs: nnx.Rngs):
        super().__init__(
            ASPP(in_features, rates, rngs=rngs),
            conv(256, 256, 3, rngs=rngs), batch_norm(256, rngs=rngs), nnx.relu,
            conv(256, num_classes, 1, use_bias=True, rngs=rngs),
        )  # fmt: skip


class Segmentation(nnx.Module):
    """Scores from the last features of a backbone, and optionally auxiliary scores from earlier ones, at the size of
    the image.

    Returns a dictionary: "out" and, with `aux_loss`, "aux", both `(n, height, width, num_classes)`.
    """

    torch_optional = {"aux_loss": ("aux_classifier.",)}

    backbone: ResNet | Sequential
    classifier: Sequential
    aux_classifier: FCNHead | None

    def __call__(self, image: Array) -> dict[str, Array]:
        maps = (
            self.backbone.stages(image)[2:]
            if isinstance(self.backbone, ResNet)
            else self.backbone.outputs(image, STRIDED)
        )
        scores = {"out": upsampled(self.classifier(maps[1]), image)}
        if self.aux_classifier is not None:
            scores["aux"] = upsampled(self.aux_classifier(maps[0]), image)
        return scores


def resnet_backbone(depth: int, rngs: nnx.Rngs) -> ResNet:
    """Create a ResNet without its classifier, whose last two stages keep their size."""
    dilated = (False, True, True)
    return ResNet(Bottleneck, ROWS[depth], None, replace_stride_with_dilation=dilated, rngs=rngs)


def mobilenet_backbone(rngs: nnx.Rngs) -> Sequential:
    return MobileNetV3(LARGE, 1280, dilated=True, rngs=rngs).features


class FCN(Segmentation):
    """FCN. Long, Shelhamer, Darrell, "Fully convolutional networks for semantic segmentation", arXiv 1411.4038.

    Args:
        depth: of the ResNet, 50 or 101.
        num_classes: of the scores.
        aux_loss: whether to compute auxiliary scores; with `weights`, as in the file by default.
    """

    def __init__(self, depth: int, num_classes: int = 21, aux_loss: bool = False, *, rngs: nnx.Rngs):
        self.backbone = resnet_backbone(depth, rngs)
        self.classifier = FCNHead(2048, num_classes, rngs=rngs)
        self.aux_classifier = FCNHead(1024, num_classes, rngs=rngs) if aux_loss else None


class DeepLabV3(Segmentation):
    """DeepLab v3. Chen, Papandreou, Schroff, Adam, "Rethinking atrous convolution for semantic image segmentation",
    arXiv 1706.05587.

    The rates of the pyramid are twice the paper's 6, 12 and 18, since the output stride is 8 with a ResNet, as in
    torchvision.

    Args:
        depth: of the ResNet, 50 or 101; None for MobileNet v3 large.
        num_classes: of the scores.
        aux_loss: whether to compute auxiliary scores; with `weights`, as in the file by default.
    """

    def __init__(self, depth: int | None, num_classes: int = 21, aux_loss: bool = False, *, rngs: nnx.Rngs):
        self.backbone = mobilenet_backbone(rngs) if depth is None else resnet_backbone(depth, rngs)
        early, late = (40, 960) if depth is None else (1024, 2048)
        self.classifier = DeepLabHead(late, num_classes, rngs=rngs)
        self.aux_classifier = FCNHead(early, num_classes, rngs=rngs) if aux_loss else None


class LRASPPHead(nnx.Module):
    """Late features gated by their means, and early features, each through a 1x1 convolution to the classes."""

    def __init__(self, low: int, high: int, num_classes: int, between: int = 128, *, rngs: nnx.Rngs):
        self.cbr = ConvNormActivation(high, between, 1, rngs=rngs)
        self.scale = Sequential(cn.GlobalAvgPool(keepdims=True), conv(high, between, 1, rngs=rngs), nnx.sigmoid)
        self.low_classifier = conv(low, num_classes, 1, use_bias=True, rngs=rngs)
        self.high_classifier = conv(between, num_classes, 1, use_bias=True, rngs=rngs)

    def __call__(self, low: Array, high: Array) -> Array:
        gated = self.cbr(high) * self.scale(high)
        return self.low_classifier(low) + self.high_classifier(upsampled(gated, low))


class LRASPP(nnx.Module):
    """LR-ASPP on MobileNet v3 large. Howard et al., "Searching for MobileNetV3", arXiv 1905.02244.

    Returns a dictionary with "out", `(n, height, width, num_classes)`.
    """

    def __init__(self, num_classes: int = 21, *, rngs: nnx.Rngs):
        self.backbone = mobilenet_backbone(rngs)
        self.classifier = LRASPPHead(40, 960, num_classes, rngs=rngs)

    def __call__(self, image: Array) -> dict[str, Array]:
        return {"out": upsampled(self.classifier(*self.backbone.outputs(image, STRIDED)), image)}


FCN_ResNet50: Builder[FCN] = named(FCN, "FCN_ResNet50", depth=50)
FCN_ResNet101: Builder[FCN] = named(FCN, "FCN_ResNet101", depth=101)
DeepLabV3_ResNet50: Builder[DeepLabV3] = named(
    DeepLabV3,
    "DeepLabV3_ResNet50",
    """DeepLab v3 (ResNet-50). Chen, Papandreou, Schroff, Adam, "Rethinking atrous convolution for semantic image
    segmentation", arXiv 1706.05587, figure 5.

    Input: 1 x 520 x 520 x 3
    Output: 1 x 520 x 520 x 21
    Parameters: 42,004,074 (torchvision's documentation, deeplabv3_resnet50, with its auxiliary scores)
    Multiply-adds: 178.72 billion (torchvision's documentation, deeplabv3_resnet50, whose images are 520 high)
    """,
    depth=50,
)
DeepLabV3_ResNet101: Builder[DeepLabV3] = named(DeepLabV3, "DeepLabV3_ResNet101", depth=101)
DeepLabV3_MobileNet_V3_Large: Builder[DeepLabV3] = named(DeepLabV3, "DeepLabV3_MobileNet_V3_Large", depth=None)
LRASPP_MobileNet_V3_Large: Builder[LRASPP] = named(LRASPP, "LRASPP_MobileNet_V3_Large")
