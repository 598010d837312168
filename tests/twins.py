"""The networks' PyTorch twins. A file `twins_*.py` adds `TWINS`, by name of the network, with modules of plain
`torch.nn`."""

from __future__ import annotations

import dataclasses
import importlib
import pathlib
from collections.abc import Callable
from typing import Any


@dataclasses.dataclass(frozen=True)
class Twin:
    """How to build a network's twin: the module, with random weights, under the names of `convlab.models`."""

    build: Callable[[], Any]


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
