"""The networks, described once for every contestant.

A network is a tuple of layers, and a layer is a tuple of its name and its numbers; the interpreters in `networks_jax`
and `networks_torch` have one method for each name. Windows, strides and pads hold for every spatial axis.

    conv(features, window, stride, groups, dilation)     padded so that stride 1 keeps the size; with a bias
    valid(features, window)                              the same without padding
    causal(features, window, dilation)                   a convolution that reads no later position
    up(features)                                         transposed convolution, window and stride 2
    norm()  relu()  flatten()  dense(features)           batch normalisation by the batch's own statistics
    max_pool(window, stride, pad)  global_avg()
    residual(branch, shortcut)                           the sum of two tuples of layers
    skip(inner)                                          the input and the result of the inner layers, concatenated
    gated(features, dilations)                           WaveNet's stack (arXiv:1609.03499): the sum of all skip outputs
"""

from __future__ import annotations

import dataclasses
from typing import Any

Layers = tuple[Any, ...]


@dataclasses.dataclass(frozen=True)
class Network:
    """The shape `x` of a batch, channels last, the number of `classes`, scored at every position of the last layer's
    result, and the layers."""

    x: tuple[int, ...]
    classes: int
    layers: Layers

    @property
    def rank(self) -> int:
        return len(self.x) - 2


def conv(features: int, window: int, stride: int = 1, groups: int = 1, dilation: int = 1) -> Layers:
    return (("conv", features, window, stride, groups, dilation),)


def conv_norm_relu(*numbers: int) -> Layers:
    return (*conv(*numbers), ("norm",), ("relu",))


def separable(channels: int, features: int, stride: int) -> Layers:
    """Return MobileNet's block (arXiv:1704.04861)."""
    return (*conv_norm_relu(channels, 3, stride, channels), *conv_norm_relu(features, 1))


def basic(channels: int, features: int, stride: int) -> Layers:
    """Return ResNet's block (arXiv:1512.03385)."""
    branch = (*conv_norm_relu(features, 3, stride), *conv(features, 3), ("norm",))
    plain = stride == 1 and channels == features
    shortcut = () if plain else (*conv(features, 1, stride), ("norm",))
    return (("residual", branch, shortcut), ("relu",))


def classifier(classes: int) -> Layers:
    return (("global_avg",), ("dense", classes))


def mobilenet(size: int = 96, batch: int = 8, width: int = 32) -> Network:
    rows = [(1, 2, 1), (2, 4, 2), (4, 4, 1), (4, 8, 2), (8, 8, 1), (8, 16, 2), (16, 16, 1), (16, 16, 1), (16, 32, 2)]
    blocks = [
        layer
        for inputs, outputs, stride in rows
        for layer in separable(inputs * width // 2, outputs * width // 2, stride)
    ]
    return Network((batch, size, size, 3), 100, (*conv_norm_relu(width // 2, 3, 2), *blocks, *classifier(100)))


def resnet(size: int = 96, batch: int = 8, width: int = 64) -> Network:
    rows = [(1, 1, 1), (1, 2, 2), (2, 4, 2), (4, 8, 2)]
    blocks = [layer for inputs, outputs, stride in rows for layer in basic(inputs * width, outputs * width, stride)]
    stem = (*conv_norm_relu(width, 7, 2), ("max_pool", 3, 2, 1))
    return Network((batch, size, size, 3), 100, (*stem, *blocks, *classifier(100)))


def bottleneck(channels: int, width: int, stride: int) -> Layers:
    """Return ResNet-50's block, with the stride in the 3x3 convolution as in torchvision."""
    branch = (*conv_norm_relu(width, 1), *conv_norm_relu(width, 3, stride), *conv(4 * width, 1), ("norm",))
    plain = stride == 1 and channels == 4 * width
    shortcut = () if plain else (*conv(4 * width, 1, stride), ("norm",))
    return (("residual", branch, shortcut), ("relu",))


def resnet50(size: int = 224, batch: int = 128, width: int = 64) -> Network:
    stem, channels = (*conv_norm_relu(width, 7, 2), ("max_pool", 3, 2, 1)), width
    blocks: Layers = ()
    for stage, depth in enumerate((3, 4, 6, 3)):
        for nth in range(depth):
            blocks += bottleneck(channels, width * 2**stage, 2 if stage and not nth else 1)
            channels = 4 * width * 2**stage
    return Network((batch, size, size, 3), 1000, (*stem, *blocks, *classifier(1000)))


def mobilenet_v1(size: int = 224, batch: int = 128, width: int = 32) -> Network:
    """Return all thirteen blocks of arXiv:1704.04861, at full size."""
    rows = [
        (1, 2, 1),
        (2, 4, 2),
        (4, 4, 1),
        (4, 8, 2),
        (8, 8, 1),
        (8, 16, 2),
        *[(16, 16, 1)] * 5,
        (16, 32, 2),
        (32, 32, 1),
    ]
    blocks = [layer for inputs, outputs, stride in rows for layer in separable(inputs * width, outputs * width, stride)]
    return Network((batch, size, size, 3), 1000, (*conv_norm_relu(width, 3, 2), *blocks, *classifier(1000)))


def unet3d(size: int = 32, batch: int = 1, width: int = 16) -> Network:
    """Return the network of arXiv:1606.06650, with three levels."""

    def twice(features: int) -> Layers:
        return conv_norm_relu(features, 3) * 2

    def level(features: int, inner: Layers) -> Layers:
        down = (("max_pool", 2, 2, 0), *inner, ("up", features))
        return (*twice(features), ("skip", down), *twice(features))

    layers = level(width, level(2 * width, twice(4 * width)))
    return Network((batch, size, size, size, 1), 4, (*layers, *conv(4, 1)))


def wavenet(size: int = 8000, batch: int = 2, width: int = 32, depth: int = 10) -> Network:
    stack = (("causal", width, 2, 1), ("gated", width, tuple(2**i for i in range(depth))))
    return Network((batch, size, 1), 256, (*stack, ("relu",), *conv(width, 1), ("relu",), *conv(256, 1)))


def lenet(size: int = 28, batch: int = 256) -> Network:
    """Return LeNet-5 as in the MNIST example: 61,706 parameters at size 28."""
    convolutions = (*conv(6, 5), ("relu",), ("max_pool", 2, 2, 0), ("valid", 16, 5), ("relu",), ("max_pool", 2, 2, 0))
    dense = (("flatten",), ("dense", 120), ("relu",), ("dense", 84), ("relu",), ("dense", 10))
    return Network((batch, size, size, 1), 10, (*convolutions, *dense))


NETWORKS = {
    "mobilenet": mobilenet,
    "resnet": resnet,
    "unet3d": unet3d,
    "wavenet": wavenet,
    "lenet": lenet,
    "resnet50": resnet50,
    "mobilenet v1": mobilenet_v1,
}
TINY = {
    "mobilenet": dict(size=32, batch=2, width=8),
    "resnet": dict(size=32, batch=2, width=8),
    "unet3d": dict(size=8, width=4),
    "wavenet": dict(size=64, width=4, depth=3),
    "lenet": dict(batch=8),
    "resnet50": dict(size=32, batch=2, width=4),
    "mobilenet v1": dict(size=32, batch=2, width=4),
}


def network(name: str, tiny: bool) -> Network:
    """Return the network `NAME` or `NAME without norm`."""
    base, without, _ = name.partition(" without norm")
    network = NETWORKS[base](**(TINY[base] if tiny else {}))
    return dataclasses.replace(network, layers=without_norm(network.layers)) if without else network


def without_norm(layers: Layers) -> Layers:
    """Remove batch normalisation, so that the convolutions' and the pools' time remains."""
    inner = [
        (name, *(without_norm(n) if name in ("residual", "skip") else n for n in numbers)) for name, *numbers in layers
    ]
    return tuple(layer for layer in inner if layer != ("norm",))
