"""The networks of `torch_dense`, which is imported when one is built, since PyTorch may not be installed."""

import importlib
from functools import partial

from torch_networks import TorchNetwork


def build(name):
    return getattr(importlib.import_module("torch_dense"), name)()


NETWORKS = {
    "unet": TorchNetwork(partial(build, "UNet")),
    "vggunet": TorchNetwork(partial(build, "VGGUNet")),
    "unet3d": TorchNetwork(partial(build, "UNet3D")),
    "context": TorchNetwork(partial(build, "Context")),
    "tcn": TorchNetwork(partial(build, "TCN")),
    "wavenet": TorchNetwork(partial(build, "WaveNet")),
    "yolo": TorchNetwork(partial(build, "YOLO")),
    "dcgan": TorchNetwork(partial(build, "DCGAN")),
}
