"""YOLO: Redmon, Divvala, Girshick, Farhadi, "You only look once: unified, real-time object detection", arXiv
1506.02640, figure 3."""

from __future__ import annotations

from typing import Any

import jax
from flax import nnx

from .. import nnx as cn
from ._blocks import Sequential
from ._registry import network

Array = jax.Array

# Channels and window of each convolution, and its stride if it is 2; "pool" halves the image.
CONVOLUTIONS: list[Any] = [
    (64, 7, 2), "pool",
    (192, 3), "pool",
    (128, 1), (256, 3), (256, 1), (512, 3), "pool",
    *[(256, 1), (512, 3)] * 4, (512, 1), (1024, 3), "pool",
    *[(512, 1), (1024, 3)] * 2, (1024, 3), (1024, 3, 2),
    (1024, 3), (1024, 3),
]  # fmt: skip


def leaky_relu(x: Array) -> Array:
    return nnx.leaky_relu(x, 0.1)


@network
class YOLO(nnx.Module):
    """YOLO v1. Redmon, Divvala, Girshick, Farhadi, "You only look once: unified, real-time object detection", arXiv
    1506.02640, figure 3.

    Input: 1 x 448 x 448 x 3
    Output: 1 x 7 x 7 x 30
    Parameters: 271,703,550 (figure 3: (k**2 c_in + 1) c_out over its table)
    Multiply-adds: 20.29 billion (figure 3: k**2 c_in c_out for each position of a result; its first 20 layers at 224 x
    224 are 4.2 billion, and half of the 8.52 billion operations in arXiv 1612.08242, section 3, are 4.26)

    It maps `(n, 448, 448, 3)` to the boxes and the classes of each cell of the grid, `(n, grid, grid, 5 * boxes +
    num_classes)`.
    """

    torch_flattened = {"fc1": (7, 7, 1024)}

    def __init__(self, *, grid: int = 7, boxes: int = 2, num_classes: int = 20, dropout: float = 0.5, rngs: nnx.Rngs):
        layers: list = []
        channels = 3
        for row in CONVOLUTIONS:
            if row == "pool":
                layers.append(cn.MaxPool((2, 2), strides=2))
                continue
            features, window, *stride = row
            layers.append(cn.Conv(channels, features, (window, window), *stride, padding=window // 2, rngs=rngs))
            layers.append(leaky_relu)
            channels = features
        self.features = Sequential(*layers)
        self.grid = grid
        self.fc1 = nnx.Linear(grid * grid * channels, 4096, rngs=rngs)
        self.dropout = nnx.Dropout(dropout, rngs=rngs)
        self.fc2 = nnx.Linear(4096, grid * grid * (5 * boxes + num_classes), rngs=rngs)

    def __call__(self, x: Array) -> Array:
        x = self.features(x)
        x = self.dropout(leaky_relu(self.fc1(x.reshape(len(x), -1))))
        return self.fc2(x).reshape(len(x), self.grid, self.grid, -1)
