"""The networks' PyTorch twins. A file `twins_*.py` adds `TWINS`, by name of the network, with modules of plain `torch.nn`."""

from __future__ import annotations

import dataclasses
import importlib
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any


@dataclasses.dataclass(frozen=True)
class Twin:
    """How to build a network's twin, and how its state dict is read.

    Attributes:
        build: the module, with random weights.
        names: of the path of a leaf's module in the network, the path in the twin; both the same by default, where an
            `nnx.Sequential` is written as `torch.nn.Sequential`.
        flattened: as in `convlab.weights.from_torch`.
    """

    build: Callable[[], Any]
    names: Callable[[str], str] = lambda path: path
    flattened: Mapping[str, Sequence[int]] = dataclasses.field(default_factory=dict)


def sequential(path: str) -> str:
    """An `nnx.Sequential` keeps its parts in `layers`, `torch.nn.Sequential` in itself: ``"stem.layers.0"`` as ``"stem.0"``."""
    parts = path.split(".")
    return ".".join(p for p, after in zip(parts, [*parts[1:], ""]) if not (p == "layers" and after.isdigit()))


def twins() -> dict[str, Twin]:
    files = sorted(pathlib.Path(__file__).parent.glob("twins_*.py"))
    return {name: twin for file in files for name, twin in importlib.import_module(file.stem).TWINS.items()}


def randomise(module: Any) -> Any:
    """The module in evaluation mode, with running statistics and affine parameters that a mistake would show."""
    import torch

    with torch.no_grad():
        for part in module.modules():
            if isinstance(part, torch.nn.modules.batchnorm._BatchNorm):
                part.running_mean.normal_(0, 0.1)
                part.running_var.uniform_(0.5, 1.5)
                if part.weight is not None:
                    part.weight.uniform_(0.5, 1.5)
                part.bias.normal_(0, 0.1)
    return module.eval()
