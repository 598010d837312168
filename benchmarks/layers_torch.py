"""A layer's calls in PyTorch, one for each memory format."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from conditions import DEVICE, DTYPE, QUEUE, TF32
from suite import boxes, segments

torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
torch.set_default_device(DEVICE)
torch.backends.cudnn.benchmark = True
torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = TF32
RATE = 1e-6
CHANNELS_LAST = {2: torch.channels_last, 3: torch.channels_last_3d}


def formats(rank: int) -> Iterator[Callable[[torch.Tensor], torch.Tensor]]:
    """Return the memory formats for tensors with `rank` spatial axes: contiguous, and channels last if PyTorch has
    it."""
    yield lambda tensor: tensor.contiguous()
    if rank in CHANNELS_LAST:
        yield lambda tensor: tensor.contiguous(memory_format=CHANNELS_LAST[rank]) if tensor.ndim == rank + 2 else tensor


def layer(case: dict[str, Any]) -> tuple[Callable[..., torch.Tensor], list[tuple[int, ...]]]:
    """Return the layer as a function of its operands, and their shapes: the images, and the kernel if there is one."""
    if "method" in case:
        raise ValueError(f"no method but its own, not {case['method']}")
    if "call" in case:
        return operation(case)
    op, rank, groups = case["op"], len(case["spatial"]), case["groups"]
    x = (case["batch"], case["channels"], *case["spatial"])
    even = all(before == after for before, after in case["padding"])
    pads = [before for before, _ in case["padding"]] if even else [0] * rank
    border = [n for pair in reversed(case["padding"]) for n in pair]
    function = getattr(F, f"{op}{rank}d")
    if op.endswith("pool"):
        return lambda x: function(x, case["window"], case["strides"], pads), [x]
    kwargs = dict(stride=case["strides"], padding=pads, dilation=case["dilation"], groups=groups)
    ends = (case["features"], case["channels"]) if op == "conv" else (case["channels"], case["features"])
    kernel = (ends[0], ends[1] // groups, *case["window"])
    return lambda x, k: function(x if even else F.pad(x, border), k, **kwargs), [x, kernel]


def operation(case: dict[str, Any]) -> tuple[Callable[..., torch.Tensor], list[tuple[int, ...]]]:
    """Return a function of the image, and of a grid, with its options under PyTorch's names."""
    op, rank, call = case["op"], len(case["spatial"]), case["call"]
    if op == "conv":
        return integer_conv(case) if "dtype" in call else packed_conv(case)
    x = (case["batch"], case["channels"], *case["spatial"])
    linear = {1: "linear", 2: "bilinear", 3: "trilinear"}[rank]
    mode = {"linear": linear, "cubic": "bicubic"}.get(call.get("method", "linear"), call.get("method"))
    if op == "resize":
        corners = {"align_corners": call.get("align_corners", False)} if mode not in ("nearest", "area") else {}
        kwargs = dict(
            size=call.get("output_shape"), scale_factor=call.get("scale"), antialias=call.get("antialias", False)
        )
        return lambda x: F.interpolate(x, mode=mode, **corners, **kwargs), [x]
    if op == "grid_sample":
        mode = "bilinear" if mode == linear else mode
        padding = call.get("padding_mode", "zeros")
        return lambda x, g: F.grid_sample(x, g, mode, padding, False), [x, (case["batch"], *case["spatial"], rank)]
    if op.startswith("roi_"):
        import torchvision.ops

        regions, function = torch.tensor(boxes(case), dtype=getattr(torch, DTYPE)), getattr(torchvision.ops, op)
        ratio = {key: value for key, value in call.items() if key != "output_shape"}
        return lambda x: function(x, regions, call["output_shape"], **ratio), [x]
    (option,) = call.values()
    return lambda x: getattr(F, op)(x, option), [x]


def packed_conv(case: dict[str, Any]) -> tuple[Callable[..., torch.Tensor], list[tuple[int, ...]]]:
    """Convolve packed sequences one by one: PyTorch has no other way on a CPU."""
    ((before, after),) = case["padding"]

    def conv(x: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
        rows = []
        for row, lengths in zip(x, segments(case)):
            parts = [F.pad(part[None], (before, after)) for part in row.split(lengths, -1)]
            rows.append(torch.cat([F.conv1d(part, kernel, groups=case["groups"]) for part in parts], -1))
        return torch.cat(rows)

    kernel = (case["features"], case["channels"] // case["groups"], *case["window"])
    return conv, [(case["batch"], case["channels"], *case["spatial"]), kernel]


def integer_conv(case: dict[str, Any]) -> tuple[Callable[..., torch.Tensor], list[tuple[int, ...]]]:
    """Convolve int8 in float32: PyTorch's convolution of integers is many times slower, and wraps in int8."""
    rank, ends = len(case["spatial"]), (case["features"], case["channels"] // case["groups"])
    pads = [before for before, _ in case["padding"]]
    options = dict(stride=case["strides"], padding=pads, dilation=case["dilation"], groups=case["groups"])
    function = getattr(F, f"conv{rank}d")

    def conv(x: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
        return function(x.float(), kernel.float(), **options).int()

    return conv, [(case["batch"], case["channels"], *case["spatial"]), (*ends, *case["window"])]


def timed(f: Callable[..., torch.Tensor], operands: list[torch.Tensor]) -> dict[str, Callable[[], Any]]:
    def forward():
        with torch.no_grad():
            f(*operands)

    out = f(*operands)
    if not out.is_floating_point():
        return {"forward": forward}
    dy = torch.randn_like(out)

    def gradients():
        for operand in operands:
            operand.grad = None
        f(*operands).backward(dy)

    def descend():
        gradients()
        with torch.no_grad():
            for operand in operands:
                operand.sub_(operand.grad, alpha=RATE)

    # PyTorch has no loop and no map: a step stands for the loop, the batch for the mapped images, a member for the
    # ensemble.
    return {"forward": forward, "gradients": gradients, "scan": descend, "vmap": gradients, "ensemble": gradients}


def queued(call: Callable[[], Any], count: int) -> Callable[[], None]:
    """Run `count` calls and wait until the device has finished them."""

    def run():
        for _ in range(count):
            call()
        if DEVICE != "cpu":
            torch.cuda.synchronize()

    return run


def calls(_: str, case: dict[str, Any]) -> dict[str, tuple[list[Callable[[], Any]], int]]:
    f, shapes = layer(case)
    dtype = getattr(torch, case.get("call", {}).get("dtype", DTYPE))

    def draw(shape):
        if not dtype.is_floating_point:
            return (torch.randn(shape) * 10).to(dtype)
        return torch.randn(shape, dtype=dtype) * 0.1

    def made(lay):
        return [lay(draw(shape)).requires_grad_(dtype.is_floating_point) for shape in shapes]

    variants = [timed(f, made(lay)) for lay in formats(len(case["spatial"]))]
    return {mode: ([queued(variant[mode], QUEUE) for variant in variants], QUEUE) for mode in variants[0]}
