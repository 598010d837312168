"""The twins of `torch_dense`, which is imported where one is built, since PyTorch may not be there."""

import importlib
from functools import partial

from twins import Twin


def build(name):
    return getattr(importlib.import_module("torch_dense"), name)()


TWINS = {
    "unet": Twin(partial(build, "UNet")),
    "vggunet": Twin(partial(build, "VGGUNet")),
    "unet3d": Twin(partial(build, "UNet3D")),
    "context": Twin(partial(build, "Context")),
    "tcn": Twin(partial(build, "TCN")),
    "wavenet": Twin(partial(build, "WaveNet")),
    "yolo": Twin(partial(build, "YOLO")),
    "dcgan": Twin(partial(build, "DCGAN")),
}
