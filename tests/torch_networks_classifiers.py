"""Image classifiers that torchvision does not have, of plain `torch.nn`, with the names of `convlab.models`."""

from __future__ import annotations

import torch
from torch import nn
from torch_networks import TorchNetwork


def conv(in_channels, out_channels, window, stride=1, padding=0, groups=1, bias=True):
    return nn.Conv2d(in_channels, out_channels, window, stride, padding, groups=groups, bias=bias)


class Pooled(nn.Module):
    """The mean of every channel."""

    def forward(self, x):
        return x.mean((2, 3))


class Chain(nn.Module):
    """Parts by name, one after the other."""

    def __init__(self, **parts):
        super().__init__()
        self.order = list(parts)
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, x):
        for name in self.order:
            x = getattr(self, name)(x)
        return x


def lenet5():
    return Chain(
        layers=nn.Sequential(
            conv(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2), conv(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2),
                nn.Flatten(),
            nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10),
        )
    )  # fmt: skip


class Subsampling(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.coefficient, self.bias = nn.Parameter(torch.rand(channels)), nn.Parameter(torch.randn(channels))

    def forward(self, x):
        return 4 * nn.functional.avg_pool2d(x, 2) * self.coefficient[:, None, None] + self.bias[:, None, None]


class LeNet5of1998(nn.Module):
    def __init__(self):
        from convlab.models import lenet

        super().__init__()
        self.rows = [[row for row in lenet.TABLE_I if len(row) == wide] for wide in (3, 4, 6)]
        self.codes = torch.tensor(lenet.codes(10))
        self.c1, self.s2, self.s4 = conv(1, 6, 5), Subsampling(6), Subsampling(16)
        self.c3 = nn.Module()
        self.c3.convs = nn.ModuleList(conv(sum(map(len, rows)), len(rows), 5, groups=len(rows)) for rows in self.rows)
        self.c5, self.f6 = conv(16, 120, 5), nn.Linear(120, 84)

    def forward(self, x):
        squash = lambda x: 1.7159 * torch.tanh(2 / 3 * x)
        x = squash(self.s2(squash(self.c1(x))))
        x = torch.cat(
            [c(torch.cat([x[:, list(row)] for row in rows], 1)) for rows, c in zip(self.rows, self.c3.convs)], 1
        )
        x = squash(self.f6(squash(self.c5(squash(self.s4(squash(x))))).flatten(1)))
        return ((x[:, None] - self.codes) ** 2).sum(-1)


def alexnet():
    norm = lambda: nn.LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2.0)
    return Chain(
        features=nn.Sequential(
            conv(3, 96, 11, 4), nn.ReLU(), norm(), nn.MaxPool2d(3, 2),
            conv(96, 256, 5, padding=2, groups=2), nn.ReLU(), norm(), nn.MaxPool2d(3, 2),
            conv(256, 384, 3, padding=1), nn.ReLU(), conv(384, 384, 3, padding=1, groups=2), nn.ReLU(),
            conv(384, 256, 3, padding=1, groups=2), nn.ReLU(), nn.MaxPool2d(3, 2),
        ),
        classifier=fully_connected(9216),
    )  # fmt: skip


def fully_connected(in_channels):
    layers = nn.Linear(in_channels, 4096), nn.ReLU(), nn.Dropout(), nn.Linear(4096, 4096), nn.ReLU(), nn.Dropout()
    return nn.Sequential(nn.Flatten(), *layers, nn.Linear(4096, 1000))


def nin():
    def mlpconv(in_channels, first, second, third, window):
        widths = conv(in_channels, first, window, padding=window // 2), conv(first, second, 1), conv(second, third, 1)
        return [part for c in widths for part in (c, nn.ReLU())]

    return Chain(
        layers=nn.Sequential(
            *mlpconv(3, 192, 160, 96, 5), nn.MaxPool2d(3, 2, ceil_mode=True), nn.Dropout(),
            *mlpconv(96, 192, 192, 192, 5), nn.AvgPool2d(3, 2, ceil_mode=True), nn.Dropout(),
            *mlpconv(192, 192, 192, 10, 3), Pooled(),
        )
    )  # fmt: skip


class Inception(nn.Module):
    def __init__(self, in_channels, one, reduce3, three, reduce5, five, projected):
        super().__init__()
        self.branch1 = relu_conv(in_channels, one, 1)
        self.branch2 = nn.Sequential(relu_conv(in_channels, reduce3, 1), relu_conv(reduce3, three, 3))
        self.branch3 = nn.Sequential(relu_conv(in_channels, reduce5, 1), relu_conv(reduce5, five, 5))
        self.branch4 = nn.Sequential(nn.MaxPool2d(3, 1, 1), relu_conv(in_channels, projected, 1))

    def forward(self, x):
        return torch.cat([self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)], 1)


def relu_conv(in_channels, out_channels, window, stride=1):
    return nn.Sequential(conv(in_channels, out_channels, window, stride, window // 2), nn.ReLU())


def googlenet():
    pool, norm = lambda: nn.MaxPool2d(3, 2, ceil_mode=True), lambda: nn.LocalResponseNorm(5, 1e-4, 0.75, 1.0)
    stem = relu_conv(3, 64, 7, 2), pool(), norm(), relu_conv(64, 64, 1), relu_conv(64, 192, 3), norm(), pool()
    inceptions = nn.Sequential(
        Inception(192, 64, 96, 128, 16, 32, 32), Inception(256, 128, 128, 192, 32, 96, 64), pool(),
        Inception(480, 192, 96, 208, 16, 48, 64), Inception(512, 160, 112, 224, 24, 64, 64),
        Inception(512, 128, 128, 256, 24, 64, 64), Inception(512, 112, 144, 288, 32, 64, 64),
        Inception(528, 256, 160, 320, 32, 128, 128), pool(),
        Inception(832, 256, 160, 320, 32, 128, 128), Inception(832, 384, 192, 384, 48, 128, 128),
    )  # fmt: skip
    return Chain(
        stem=nn.Sequential(*stem),
        inceptions=inceptions,
        head=nn.Sequential(Pooled(), nn.Dropout(), nn.Linear(1024, 1000)),
    )


class Separable(nn.Module):
    def __init__(self, in_channels, out_channels, stride):
        super().__init__()
        self.conv_dw, self.bn1 = (
            conv(in_channels, in_channels, 3, stride, 1, in_channels, bias=False),
            nn.BatchNorm2d(in_channels),
        )
        self.conv_pw, self.bn2 = conv(in_channels, out_channels, 1, bias=False), nn.BatchNorm2d(out_channels)

    def forward(self, x):
        return torch.relu(self.bn2(self.conv_pw(torch.relu(self.bn1(self.conv_dw(x))))))


def mobilenet_v1():
    rows = [[(64, 1)], [(128, 2), (128, 1)], [(256, 2), (256, 1)], [(512, 2), *[(512, 1)] * 5], [(1024, 2), (1024, 1)]]
    stages, in_channels = [], 32
    for stage in rows:
        blocks = []
        for out_channels, stride in stage:
            blocks.append(Separable(in_channels, out_channels, stride))
            in_channels = out_channels
        stages.append(nn.Sequential(*blocks))
    parts = dict(conv_stem=conv(3, 32, 3, 2, 1, bias=False), bn1=nn.BatchNorm2d(32), relu=nn.ReLU())
    return Chain(**parts, blocks=nn.Sequential(*stages), pool=Pooled(), classifier=nn.Linear(1024, 1000))


NETWORKS = {
    "lenet5": TorchNetwork(lenet5),
    "lenet5of1998": TorchNetwork(LeNet5of1998),
    "alexnet2012": TorchNetwork(alexnet),
    "nin": TorchNetwork(nin),
    "googlenet2014": TorchNetwork(googlenet),
    "mobilenet_v1": TorchNetwork(mobilenet_v1),
}
