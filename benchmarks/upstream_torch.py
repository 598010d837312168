"""The programs of upstream_speed.py in PyTorch, with channels first; the better memory format counts."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from upstream_speed import DTYPES, SIZES, Shapes

torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
CHANNELS_LAST = {2: torch.channels_last, 3: torch.channels_last_3d}
ABSENT = {
    "bytes": "PyTorch has no convolution of bytes on the CPU that gives int32",
    "gradients per example": "compile time",
}


def first(array: Any) -> Any:
    """Convert channels last to channels first."""
    return np.ascontiguousarray(np.moveaxis(array, -1, 1))


def program(name: str, shapes: Shapes) -> tuple[Callable, Callable[[list[np.ndarray]], list[np.ndarray]]]:
    """Return the program on tensors, and the conversion of JAX's arguments."""
    kernel = lambda k: np.ascontiguousarray(k.transpose(k.ndim - 1, k.ndim - 2, *range(k.ndim - 2)))
    both = lambda arrays: [first(arrays[0]), kernel(arrays[1])]
    rank, size = len(shapes[0]) - 2, shapes[-1][0]
    conv = getattr(F, f"conv{rank}d") if rank > 0 else None
    if name in ("depthwise", "grouped"):
        return lambda x, k: conv(x, k, padding=size // 2, groups=x.shape[1]), both
    if name == "dilated depthwise":
        return lambda x, k: conv(x, k, padding=8 * (size // 2), dilation=8, groups=x.shape[1]), both
    if name.startswith("transposed"):
        stride = size // 2 if size % 2 == 0 else 2
        # lax's kernel is not flipped; the border is that of "SAME"
        before = size - 1 - (size + stride - 1) // 2
        turned = lambda k: np.ascontiguousarray(np.flip(k, tuple(range(rank))).transpose(rank, rank + 1, *range(rank)))
        transposed = getattr(F, f"conv_transpose{rank}d")
        cut = (slice(None), slice(None), *(slice(before, before + n * stride) for n in shapes[0][1:-1]))
        return lambda x, k: F.pad(transposed(x, k, stride=stride), (0, 1) * rank)[cut], lambda arrays: [
            first(arrays[0]), turned(arrays[1])
        ]  # fmt: skip
    if name == "loop":

        def twice(x, k):
            for _ in range(2):
                x = F.conv1d(x, k) / k.shape[1] ** 0.5
            return x

        return twice, lambda arrays: arrays
    if name == "large kernel":
        return lambda x, k: conv(x, k, padding=size // 2), both
    if name == "mapped filter":
        border = (size // 2, (size - 1) // 2) * 2
        return lambda x, k: F.conv2d(F.pad(x, border, "reflect"), k)[:, 0], lambda arrays: [
            arrays[0][:, None], arrays[1][None, None]
        ]  # fmt: skip
    if name == "patches of 16":
        return lambda x, k: conv(x, k, stride=size), both
    if name == "float64":
        return lambda x, k: conv(x, k, padding=size // 2), both
    raise ValueError(ABSENT[name])


def calls(_: str, payload: dict[str, Any]) -> dict[str, tuple[list[Callable], int]]:
    name = payload["name"]
    mode, large, little = SIZES[name]
    shapes = little if payload.get("small") else large
    f, turn = program(name, shapes)
    rng = np.random.default_rng(0)
    drawn = turn([rng.standard_normal(shape).astype(DTYPES.get(name, np.float32)) for shape in shapes])
    variants = []
    for last in (False, True):
        rank = drawn[0].ndim - 2
        if last and rank not in CHANNELS_LAST:
            continue
        tensors = [torch.from_numpy(array) for array in drawn]
        if last:
            tensors = [t.contiguous(memory_format=CHANNELS_LAST[rank]) if t.ndim == rank + 2 else t for t in tensors]
        variants.append(timed(f, tensors, mode))
    return {mode: (variants, 1)}


def timed(f: Callable, tensors: list[Any], mode: str) -> Callable[[], None]:
    if mode == "forward":

        def forward():
            with torch.no_grad():
                f(*tensors)

        return forward
    tensors = [tensor.requires_grad_() for tensor in tensors]
    dy = torch.randn_like(f(*tensors))

    def gradients():
        for tensor in tensors:
            tensor.grad = None
        f(*tensors).backward(dy)

    return gradients
