"""Networks of plain `torch.nn` to compare `convlab.models` with; a file `torch_networks_*.py` adds `NETWORKS`."""

from __future__ import annotations

import dataclasses
import importlib
import pathlib
from collections.abc import Callable
from typing import Any


@dataclasses.dataclass(frozen=True)
class TorchNetwork:
    """A builder of a network: the module, with random weights, under the names of `convlab.models`."""

    build: Callable[[], Any]


def torch_networks() -> dict[str, TorchNetwork]:
    files = sorted(pathlib.Path(__file__).parent.glob("torch_networks_*.py"))
    return {name: network for file in files for name, network in importlib.import_module(file.stem).NETWORKS.items()}


def randomise(module: Any) -> Any:
    """Set random running statistics and affine parameters, so that a mistake would show, and evaluation mode."""
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
