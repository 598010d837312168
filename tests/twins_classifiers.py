"""PyTorch twins of the image classifiers, with the names of `examples/architectures`."""

from __future__ import annotations

import functools

import torch
from torch import nn
from twins import Twin, sequential


def conv(seen, made, window, stride=1, padding=0, groups=1, bias=True):
    return nn.Conv2d(seen, made, window, stride, padding, groups=groups, bias=bias)


class Residual(nn.Module):
    """The sum of two parts, and a nonlinearity on it."""

    def __init__(self, parts, activation=None):
        super().__init__()
        self.activation = activation or nn.Identity()
        self.shortcut, self.chain = parts.pop("shortcut", None), list(parts)
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x):
        y = x
        for name in self.chain:
            y = getattr(self, name)(y)
            if name != self.chain[-1]:
                y = torch.relu(y)
        return self.activation(y + (self.shortcut(x) if self.shortcut else x))


class ConvNorm(nn.Module):
    def __init__(self, seen, made, window, stride=1, groups=1):
        super().__init__()
        self.conv = conv(seen, made, window, stride, window // 2, groups, bias=False)
        self.norm = nn.BatchNorm2d(made)

    def forward(self, x):
        return self.norm(self.conv(x))


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
            conv(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2), conv(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
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
        import lenet5

        super().__init__()
        self.rows = [[row for row in lenet5.TABLE_I if len(row) == wide] for wide in (3, 4, 6)]
        self.codes = torch.tensor(lenet5.codes(10))
        self.c1, self.s2, self.s4 = conv(1, 6, 5), Subsampling(6), Subsampling(16)
        self.c3 = nn.Module()
        self.c3.convs = nn.ModuleList(conv(sum(map(len, rows)), len(rows), 5, groups=len(rows)) for rows in self.rows)
        self.c5, self.f6 = conv(16, 120, 5), nn.Linear(120, 84)

    def forward(self, x):
        squash = lambda x: 1.7159 * torch.tanh(2 / 3 * x)
        x = squash(self.s2(squash(self.c1(x))))
        x = torch.cat([c(torch.cat([x[:, list(row)] for row in rows], 1)) for rows, c in zip(self.rows, self.c3.convs)], 1)
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


def fully_connected(seen):
    layers = nn.Linear(seen, 4096), nn.ReLU(), nn.Dropout(), nn.Linear(4096, 4096), nn.ReLU(), nn.Dropout()
    return nn.Sequential(nn.Flatten(), *layers, nn.Linear(4096, 1000))


def nin():
    def mlpconv(seen, first, second, third, window):
        widths = conv(seen, first, window, padding=window // 2), conv(first, second, 1), conv(second, third, 1)
        return [part for c in widths for part in (c, nn.ReLU())]

    return Chain(
        layers=nn.Sequential(
            *mlpconv(3, 192, 160, 96, 5), nn.MaxPool2d(3, 2, ceil_mode=True), nn.Dropout(),
            *mlpconv(96, 192, 192, 192, 5), nn.AvgPool2d(3, 2, ceil_mode=True), nn.Dropout(),
            *mlpconv(192, 192, 192, 10, 3), Pooled(),
        )
    )  # fmt: skip


def vgg16():
    layers, seen = [], 3
    for made in (64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512, "M"):
        if made == "M":
            layers.append(nn.MaxPool2d(2))
        else:
            layers += [conv(seen, made, 3, padding=1), nn.ReLU()]
            seen = made
    return Chain(features=nn.Sequential(*layers), classifier=fully_connected(25088))


class Inception(nn.Module):
    def __init__(self, seen, one, reduce3, three, reduce5, five, projected):
        super().__init__()
        self.branch1 = relu_conv(seen, one, 1)
        self.branch2 = nn.Sequential(relu_conv(seen, reduce3, 1), relu_conv(reduce3, three, 3))
        self.branch3 = nn.Sequential(relu_conv(seen, reduce5, 1), relu_conv(reduce5, five, 5))
        self.branch4 = nn.Sequential(nn.MaxPool2d(3, 1, 1), relu_conv(seen, projected, 1))

    def forward(self, x):
        return torch.cat([self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)], 1)


def relu_conv(seen, made, window, stride=1):
    return nn.Sequential(conv(seen, made, window, stride, window // 2), nn.ReLU())


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
        stem=nn.Sequential(*stem), inceptions=inceptions, head=nn.Sequential(Pooled(), nn.Dropout(), nn.Linear(1024, 1000))
    )


def basic(seen, made, stride):
    parts = dict(conv1=ConvNorm(seen, made, 3, stride), conv2=ConvNorm(made, made, 3))
    return Residual(parts | shortcut(seen, made, stride), nn.ReLU())


def bottleneck(seen, made, stride, narrowing=4, groups=1):
    width = made // narrowing
    parts = dict(
        conv1=ConvNorm(seen, width, 1), conv2=ConvNorm(width, width, 3, stride, groups), conv3=ConvNorm(width, made, 1)
    )
    return Residual(parts | shortcut(seen, made, stride), nn.ReLU())


def shortcut(seen, made, stride):
    return {} if seen == made and stride == 1 else {"shortcut": ConvNorm(seen, made, 1, stride)}


def resnet(block, depths, first):
    blocks, seen = [], 64
    for stage, depth in enumerate(depths):
        for nth in range(depth):
            blocks.append(block(seen, first * 2**stage, 2 if stage and nth == 0 else 1))
            seen = first * 2**stage
    stem = Chain(**dict(ConvNorm(3, 64, 7, 2).named_children()))
    return Chain(
        stem=stem,
        pool=nn.Sequential(nn.ReLU(), nn.MaxPool2d(3, 2, 1)),
        blocks=nn.Sequential(*blocks),
        head=nn.Sequential(Pooled(), nn.Linear(seen, 1000)),
    )


def mobilenet_v1():
    rows = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1)]
    layers, seen = [conv(3, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU()], 32
    for made, stride in rows:
        layers += [conv(seen, seen, 3, stride, 1, seen, bias=False), nn.BatchNorm2d(seen), nn.ReLU()]
        layers += [conv(seen, made, 1, bias=False), nn.BatchNorm2d(made), nn.ReLU()]
        seen = made
    return Chain(features=nn.Sequential(*layers), head=nn.Sequential(Pooled(), nn.Linear(1024, 1000)))


def inverted(seen, made, expansion, stride):
    wide = seen * expansion
    layers = [conv(seen, wide, 1, bias=False), nn.BatchNorm2d(wide), nn.ReLU6()] if expansion > 1 else []
    layers += [conv(wide, wide, 3, stride, 1, wide, bias=False), nn.BatchNorm2d(wide), nn.ReLU6()]
    branch = nn.Sequential(*layers, conv(wide, made, 1, bias=False), nn.BatchNorm2d(made))
    return Residual({"branch": branch}) if stride == 1 and seen == made else Chain(branch=branch)


def mobilenet_v2():
    rows = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]
    blocks, seen = [], 32
    for expansion, made, repetitions, stride in rows:
        for nth in range(repetitions):
            blocks.append(inverted(seen, made, expansion, stride if nth == 0 else 1))
            seen = made
    head = conv(320, 1280, 1, bias=False), nn.BatchNorm2d(1280), nn.ReLU6(), Pooled(), nn.Dropout(), nn.Linear(1280, 1000)
    return Chain(
        stem=nn.Sequential(conv(3, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU6()),
        blocks=nn.Sequential(*blocks),
        head=nn.Sequential(*head),
    )


class Dense(nn.Module):
    def __init__(self, seen):
        super().__init__()
        self.layers = nn.Sequential(*norm_relu_conv(seen, 128, 1), *norm_relu_conv(128, 32, 3))

    def forward(self, x):
        return torch.cat([x, self.layers(x)], 1)


def norm_relu_conv(seen, made, window):
    return nn.BatchNorm2d(seen), nn.ReLU(), conv(seen, made, window, padding=window // 2, bias=False)


def densenet121():
    parts, seen = [], 64
    for stage, depth in enumerate((6, 12, 24, 16)):
        if stage:
            parts += [*norm_relu_conv(seen, seen // 2, 1), nn.AvgPool2d(2)]
            seen //= 2
        for _ in range(depth):
            parts.append(Dense(seen))
            seen += 32
    return Chain(
        stem=nn.Sequential(conv(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1)),
        features=nn.Sequential(*parts, nn.BatchNorm2d(seen), nn.ReLU()),
        head=nn.Sequential(Pooled(), nn.Linear(seen, 1000)),
    )


class ChannelNorm(nn.LayerNorm):
    def forward(self, x):
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class Everywhere(nn.Linear):
    """A dense layer at every place."""

    def forward(self, x):
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class ConvNeXtBlock(nn.Module):
    def __init__(self, width):
        super().__init__()
        dense = Everywhere(width, 4 * width), nn.GELU(), Everywhere(4 * width, width)
        self.branch = nn.Sequential(conv(width, width, 7, 1, 3, width), ChannelNorm(width, eps=1e-6), *dense)
        self.gamma = nn.Parameter(torch.rand(width))

    def forward(self, x):
        return x + self.gamma[:, None, None] * self.branch(x)


def convnext_tiny():
    layers = [conv(3, 96, 4, 4), ChannelNorm(96, eps=1e-6)]
    for seen, width, depth in ((None, 96, 3), (96, 192, 3), (192, 384, 9), (384, 768, 3)):
        if seen:
            layers += [ChannelNorm(seen, eps=1e-6), conv(seen, width, 2, 2)]
        layers += [ConvNeXtBlock(width) for _ in range(depth)]
    head = nn.Sequential(Pooled(), nn.LayerNorm(768, eps=1e-6), nn.Linear(768, 1000))
    return Chain(features=nn.Sequential(*layers), head=head)


TWINS = {
    "lenet5": Twin(lenet5, sequential, {"layers.layers.7": (5, 5, 16)}),
    "lenet5_1998": Twin(LeNet5of1998),
    "alexnet": Twin(alexnet, sequential, {"classifier.layers.1": (6, 6, 256)}),
    "nin": Twin(nin, sequential),
    "vgg16": Twin(vgg16, sequential, {"classifier.layers.1": (7, 7, 512)}),
    "googlenet": Twin(googlenet, sequential),
    "resnet18": Twin(functools.partial(resnet, basic, (2, 2, 2, 2), 64), sequential),
    "resnet50": Twin(functools.partial(resnet, bottleneck, (3, 4, 6, 3), 256), sequential),
    "resnext50": Twin(
        functools.partial(resnet, functools.partial(bottleneck, narrowing=2, groups=32), (3, 4, 6, 3), 256), sequential
    ),
    "mobilenet_v1": Twin(mobilenet_v1, sequential),
    "mobilenet_v2": Twin(mobilenet_v2, sequential),
    "densenet121": Twin(densenet121, sequential),
    "convnext_tiny": Twin(convnext_tiny, sequential),
}
