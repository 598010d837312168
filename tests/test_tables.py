"""Which formulation the tables choose, by static facts alone: nothing is compiled."""

import dataclasses

import jax.numpy as jnp
import pytest

from convlab._backend.problem import Problem
from convlab._backend.tables import Target, choose

CPU, NO_ENGINE, GPU = Target("cpu"), Target("cpu", engine=False), Target("gpu", engine=False)


def problem(spatial, channels, features, window, batch=8, groups=1, dilation=1, strides=1, dtype=jnp.float32):
    """A convolution that is padded to keep the size at strides of 1."""
    rank, extent = len(spatial), (window - 1) * dilation
    pads = ((extent // 2, extent - extent // 2),) * rank
    return Problem(
        batch=batch,
        spatial=spatial,
        channels=channels,
        window=(window,) * rank,
        features=features,
        strides=(strides,) * rank,
        pads=pads,
        input_dilation=(1,) * rank,
        kernel_dilation=(dilation,) * rank,
        groups=groups,
        dtype=jnp.dtype(dtype),
        out_dtype=jnp.dtype(dtype),
        precision=None,
    )


def tiling(size, window, channels=3, features=64):
    """A convolution whose windows tile the image."""
    found = problem((size, size), channels, features, window)
    return dataclasses.replace(found, strides=found.window, pads=((0, 0),) * 2)


ROWS = {
    "a small image of many channels": ("forward", problem((7, 7), 512, 512, 3), NO_ENGINE, "gemm"),
    "a dilated image of many channels": ("forward", problem((33, 33), 256, 256, 3, dilation=12), NO_ENGINE, "gemm"),
    "a large image of many channels": ("forward", problem((28, 28), 128, 128, 3), NO_ENGINE, "winograd"),
    "a wide sequence": ("kernel_gradient", problem((1024,), 128, 128, 9), CPU, "channels_last"),
    "a narrow sequence": ("kernel_gradient", problem((1024,), 64, 64, 9), CPU, "onednn"),
    "a wide sequence forward": ("forward", problem((1024,), 128, 128, 9), CPU, "onednn"),
    "dilated depthwise": ("forward", problem((33, 33), 128, 128, 3, groups=128, dilation=4), CPU, "taps"),
    "dilated depthwise, a larger window": (
        "forward",
        problem((33, 33), 96, 96, 5, groups=96, dilation=2),
        CPU,
        "onednn",
    ),
    "depthwise": ("forward", problem((33, 33), 128, 128, 3, groups=128), CPU, "onednn"),
    "dilated depthwise, a GPU's sequence": ("forward", problem((1024,), 64, 64, 5, groups=64, dilation=8), GPU, "taps"),
    "depthwise, a GPU's sequence": ("kernel_gradient", problem((4096,), 64, 64, 5, groups=64), GPU, "taps"),
    "depthwise, a GPU's image": ("kernel_gradient", problem((64, 64), 64, 64, 3, groups=64), GPU, "lax"),
    "large windows that tile, a GPU": ("forward", tiling(224, 16), GPU, "gemm"),
    "small windows that tile, a GPU": ("forward", tiling(224, 4), GPU, "lax"),
    "bfloat16, a GPU's sequence": ("forward", problem((64,), 16, 16, 3, dtype=jnp.bfloat16), GPU, "extra_axis"),
}


@pytest.mark.parametrize("what", ROWS)
def test_rows(what):
    kind, p, target, name = ROWS[what]
    assert choose(kind, p, "auto", target).formulation.name == name
