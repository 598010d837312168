"""Differences between a PyTorch module and an NNX module with the same parameters."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import Any

from ._layouts import Layouts

SIZES = (64, 67)  # spatial sizes on which two paddings are compared
ALIASES = {"swish": "silu", "hardtanh": "hard_tanh", "identity": "identity"}


def differences(module: Any, ours: Mapping[str, Any], layouts: Layouts) -> list[str]:
    """Return a line for each layer that computes another function than its counterpart.

    Args:
        module: the PyTorch module.
        ours: the NNX modules by path.
        layouts: the mapping from PyTorch's paths to ours.
    """
    theirs = dict(module.named_modules())
    found = []
    for path, layer in ours.items():
        other = theirs.get(layouts.module(tuple(path.split(".")) if path else ()))
        if other is None or other is module:
            continue
        found += [f"{path}: {said}" for said in _layer(layer, other)]
        found += [f"{path}: {said}" for said in _functions(layer, other)]
    return found


def _layer(ours: Any, theirs: Any) -> Iterator[str]:
    if hasattr(theirs, "eps") and hasattr(ours, "epsilon") and abs(theirs.eps - ours.epsilon) > 1e-3 * theirs.eps:
        yield f"epsilon {ours.epsilon} for {theirs.eps}"
    averages = hasattr(theirs, "running_mean") and hasattr(ours, "momentum") and theirs.momentum is not None
    if averages and abs(1 - ours.momentum - theirs.momentum) > 1e-6:
        yield f"momentum {ours.momentum} for {1 - theirs.momentum:.6g}"
    if hasattr(theirs, "kernel_size") and hasattr(theirs, "stride") and hasattr(ours, "strides"):
        yield from _window(ours, theirs)
    yield from _activation(ours, theirs)


def _window(ours: Any, theirs: Any) -> Iterator[str]:
    from .. import Window

    window: Any = getattr(ours, "kernel_size", None) or getattr(ours, "window_shape", None)
    rank = len(window) if isinstance(window, tuple) else 2
    every: Any = lambda value: (value,) * rank if isinstance(value, int) or value is None else tuple(value)
    size, strides = every(window), tuple(n or 1 for n in every(ours.strides))
    dilation = tuple(n or 1 for n in every(getattr(ours, "kernel_dilation", getattr(ours, "window_dilation", 1))))
    for name, mine, other in (
        ("window", size, theirs.kernel_size),
        ("strides", strides, theirs.stride),
        ("dilation", dilation, getattr(theirs, "dilation", 1)),
    ):
        if mine != every(other):
            yield f"{name} {mine} for {every(other)}"
    padding = theirs.padding
    if hasattr(ours, "transpose_kernel") or isinstance(padding, str):
        return  # their meaning depends on other options
    pads = tuple((n, n) for n in every(padding))
    sides = {Window(size, strides, ours.padding, dilation).pads((n,) * rank) for n in SIZES}
    if sides != {pads}:
        yield f"padding {ours.padding!r} for {padding}"
    modes = getattr(ours, "padding_mode", "zeros"), getattr(theirs, "padding_mode", "zeros")
    if modes[0] != modes[1]:
        yield f"padding_mode {modes[0]!r} for {modes[1]!r}"
    for option in ("ceil_mode", "count_include_pad"):
        if (
            getattr(ours, option, None) != getattr(theirs, option, None)
            and hasattr(theirs, option)
            and any(map(any, pads)) | (option == "ceil_mode")
        ):
            yield f"{option} {getattr(ours, option, None)} for {getattr(theirs, option)}"


def _functions(ours: Any, theirs: Any) -> Iterator[str]:
    """Return the activations with the same name in both, such as the "1" of a chain."""
    for name, other in theirs.named_children():
        mine = vars(ours).get(name)
        chain = getattr(ours, "layers", None)
        if mine is None and name.isdigit() and chain is not None and int(name) < len(chain):
            mine = chain[int(name)]
        for said in _activation(mine, other):
            yield f"{name}: {said}"


def _activation(ours: Any, theirs: Any) -> Iterator[str]:
    wanted, found = _of_torch(theirs), _of_flax(ours)
    if wanted and found and wanted != found:
        yield f"activation {found} for {wanted}"


def _of_torch(module: Any) -> str:
    if not type(module).__module__.startswith("torch.nn.modules.activation") or list(module.parameters()):
        return ""
    name = type(module).__name__.lower()
    if name == "gelu":
        return "gelu, approximate" if module.approximate == "tanh" else "gelu"
    if name in ("leakyrelu", "elu", "celu"):
        return f"{name} of {getattr(module, 'negative_slope', getattr(module, 'alpha', None)):g}"
    return name


def _of_flax(function: Any) -> str:
    options: dict[str, Any] = {}
    while isinstance(function, functools.partial):
        options, function = function.keywords | options, function.func
    name = getattr(function, "__name__", "")
    if name == "<lambda>" or not callable(function) or isinstance(function, type):
        return ""
    name = ALIASES.get(name, name).replace("_", "")
    if name == "gelu":
        return "gelu, approximate" if options.get("approximate", True) else "gelu"
    if name in ("leakyrelu", "elu", "celu"):
        slope = options.get("negative_slope", options.get("alpha", 0.01 if name == "leakyrelu" else 1.0))
        return f"{name} of {slope:g}"
    return name
