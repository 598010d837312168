"""A training step of networks in PyTorch: eager and compiled, in each memory format."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from inference_networks import RATE, STEPS, labels
from inference_torch import formats, loaded, tensor
from torch import nn


def network(payload: dict[str, Any]) -> nn.Module:
    """Return the network in training mode without dropout, so that every contestant computes the same."""
    module = loaded(payload).train()
    for part in module.modules():
        if isinstance(part, nn.modules.dropout._DropoutNd) or type(part).__name__ == "StochasticDepth":
            part.eval()
    return module


class Training:
    """A training step whose call returns the loss before the step."""

    def __init__(self, payload: dict[str, Any], x: torch.Tensor, format: torch.memory_format, compiled: bool):
        self.x, self.module = x.to(memory_format=format), network(payload).to(memory_format=format)
        self.classes: torch.Tensor | None = None
        self.losses: list[float] = []
        self.forward = torch.compile(self.module, dynamic=False) if compiled else self.module
        self.descent = torch.optim.SGD(self.module.parameters(), lr=RATE)

    def __call__(self) -> float:
        self.descent.zero_grad(set_to_none=True)
        logits = self.forward(self.x)
        if self.classes is None:
            self.classes = torch.from_numpy(labels(len(logits), tuple(logits.shape[2:]), logits.shape[1]))
        loss = nn.functional.cross_entropy(logits, self.classes)
        loss.backward()
        self.descent.step()
        self.losses.append(loss.item())
        return self.losses[-1]

    def first_losses(self) -> list[float]:
        while len(self.losses) < STEPS:
            self()
        return self.losses[:STEPS]


def calls(contestant: str, payload: dict[str, Any]) -> dict[str, tuple[list[Callable[[], Any]], int]]:
    made: dict[str, tuple[list[Callable[[], Any]], int]] = {}
    for batch in payload["batches"]:
        x = tensor(payload, batch)
        several = [Training(payload, x, format, contestant == "inductor") for format in formats(x)]
        made[f"batch {batch}"] = list(several), 1
        made[f"numbers {batch}"] = [several[-1].first_losses], 1
    return made
