"""Training steps of a network in PyTorch, in each memory format."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from conditions import DEVICE, DTYPE
from layers_torch import formats, queued
from networks import Layers, Network, network
from torch import nn


class Causal(nn.Module):
    def __init__(self, rank: int, features: int, window: int, dilation: int):
        super().__init__()
        self.border = [(window - 1) * dilation, 0] * rank
        self.conv = lazy("Conv", rank)(features, window, dilation=dilation)

    def forward(self, x):
        return self.conv(F.pad(x, self.border))


class Residual(nn.Module):
    def __init__(self, branch: nn.Module, shortcut: nn.Module):
        super().__init__()
        self.branch, self.shortcut = branch, shortcut

    def forward(self, x):
        return self.branch(x) + self.shortcut(x)


class Skip(nn.Module):
    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return torch.cat([x, self.inner(x)], 1)


class Gated(nn.Module):
    def __init__(self, rank: int, features: int, dilations: tuple[int, ...]):
        super().__init__()
        self.gates = nn.ModuleList(Causal(rank, 2 * features, 2, dilation) for dilation in dilations)
        self.skips = nn.ModuleList(lazy("Conv", rank)(features, 1) for _ in dilations)
        self.ons = nn.ModuleList(lazy("Conv", rank)(features, 1) for _ in dilations)

    def forward(self, x):
        total = 0
        for gate, skip, on in zip(self.gates, self.skips, self.ons):
            a, b = gate(x).chunk(2, 1)
            z = torch.tanh(a) * torch.sigmoid(b)
            total, x = total + skip(z), x + on(z)
        return total


class GlobalAvg(nn.Module):
    def forward(self, x):
        return x.mean(tuple(range(2, x.ndim)))


def lazy(kind: str, rank: int) -> Callable[..., nn.Module]:
    return getattr(nn, f"Lazy{kind}{rank}d")


def module(rank: int, name: str, *numbers: Any) -> nn.Module:
    """Build the module of a network of `networks`."""
    if name == "conv":
        features, window, stride, groups, dilation = numbers
        pad = (window - 1) * dilation // 2
        return lazy("Conv", rank)(features, window, stride, pad, groups=groups, dilation=dilation)
    if name == "residual":
        return Residual(*(sequence(rank, layers) for layers in numbers))
    make = {
        "valid": lambda features, window: lazy("Conv", rank)(features, window),
        "causal": lambda *n: Causal(rank, *n),
        "up": lambda features: lazy("ConvTranspose", rank)(features, 2, 2),
        "norm": lazy("BatchNorm", rank),
        "relu": nn.ReLU,
        "flatten": nn.Flatten,
        "dense": nn.LazyLinear,
        "max_pool": getattr(nn, f"MaxPool{rank}d"),
        "global_avg": GlobalAvg,
        "skip": lambda inner: Skip(sequence(rank, inner)),
        "gated": lambda *n: Gated(rank, *n),
    }
    return make[name](*numbers)


def sequence(rank: int, layers: Layers) -> nn.Module:
    return nn.Sequential(*(module(rank, *layer) for layer in layers))


def training(described: Network, lay: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[], None]:
    net = sequence(described.rank, described.layers)
    batch, *spatial, channels = described.x
    x = lay(torch.randn(batch, channels, *spatial))
    with torch.no_grad():
        logits = net(x)
    for parameter in net.parameters():
        parameter.data = lay(parameter.data)
    labels = torch.randint(described.classes, (batch, *logits.shape[2:]))
    adam = torch.optim.Adam(net.parameters(), 1e-4)

    def step():
        adam.zero_grad()
        with torch.autocast(DEVICE, getattr(torch, DTYPE), DTYPE != "float32"):
            loss = F.cross_entropy(net(x).float(), labels)
        loss.backward()
        adam.step()

    return queued(step, 1)


def calls(_: str, payload: dict[str, Any]) -> dict[str, tuple[list[Callable[[], None]], int]]:
    described = network(payload["network"], payload["tiny"])
    steps = [training(described, lay) for lay in formats(described.rank)]
    return {"step": (steps, 1), "scan": (steps, 1)}
