"""Networks of plain `torch.nn` with scores for every position of an image, a volume or a sequence, and DCGAN's
generator."""

from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm


class Double(nn.Module):
    def __init__(self, in_channels, out_channels):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(in_channels, out_channels, 3), nn.Conv2d(out_channels, out_channels, 3)

    def forward(self, x):
        return F.relu(self.conv2(F.relu(self.conv1(x))))


def cropped(x, like):
    for axis in range(2, x.ndim):
        left = x.shape[axis] - like.shape[axis]
        x = x.narrow(axis, left // 2, like.shape[axis])
    return torch.cat([x, like], 1)


class Up(nn.Module):
    def __init__(self, in_channels, out_channels):
        super().__init__()
        self.up, self.convs = nn.ConvTranspose2d(in_channels, out_channels, 2, 2), Double(in_channels, out_channels)

    def forward(self, x, skip):
        return self.convs(cropped(skip, self.up(x)))


class UNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.down = nn.ModuleList([Double(1, 64), Double(64, 128), Double(128, 256), Double(256, 512)])
        self.bottom = Double(512, 1024)
        self.up = nn.ModuleList([Up(1024, 512), Up(512, 256), Up(256, 128), Up(128, 64)])
        self.head = nn.Conv2d(64, 2, 1)

    def forward(self, x):
        skips = []
        for double in self.down:
            x = double(x)
            skips.append(x)
            x = F.max_pool2d(x, 2)
        x = self.bottom(x)
        for up in self.up:
            x = up(x, skips.pop())
        return self.head(x)


class Shift(nn.BatchNorm3d):
    """Batch normalisation with a shift and without a scale."""

    def __init__(self, channels):
        super().__init__(channels, affine=False)
        self.bias = nn.Parameter(torch.randn(channels) / 10)


def block3d(in_channels, between, out_channels):
    def conv(a, b):
        return nn.ModuleDict({"conv": nn.Conv3d(a, b, 3, bias=False), "norm": Shift(b)})

    return nn.ModuleDict({"conv1": conv(in_channels, between), "conv2": conv(between, out_channels)})


def run3d(block, x):
    for part in block.values():
        x = F.relu(part["norm"](part["conv"](x)))
    return x


class Up3D(nn.Module):
    def __init__(self, in_channels, out_channels):
        super().__init__()
        self.up, self.convs = (
            nn.ConvTranspose3d(in_channels, in_channels, 2, 2, bias=False),
            block3d(in_channels + out_channels, out_channels, out_channels),
        )

    def forward(self, x, skip):
        return run3d(self.convs, cropped(skip, self.up(x)))


class UNet3D(nn.Module):
    """A 3-D U-Net with an eighth of the published channels."""

    def __init__(self):
        super().__init__()
        self.down = nn.ModuleList([block3d(3, 4, 8), block3d(8, 8, 16), block3d(16, 16, 32)])
        self.bottom = block3d(32, 32, 64)
        self.up = nn.ModuleList([Up3D(64, 32), Up3D(32, 16), Up3D(16, 8)])
        self.head = nn.Conv3d(8, 3, 1)

    def forward(self, x):
        skips = []
        for block in self.down:
            x = run3d(block, x)
            skips.append(x)
            x = F.max_pool3d(x, 2)
        x = run3d(self.bottom, x)
        for up in self.up:
            x = up(x, skips.pop())
        return self.head(x)


class Context(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(21, 21, 3, padding=d, dilation=d) for d in (1, 1, 2, 4, 8, 16, 1))
        self.head = nn.Conv2d(21, 21, 1)

    def forward(self, x):
        for layer in self.layers:
            x = F.relu(layer(x))
        return self.head(x)


def before(x, n):
    return F.pad(x, (n, 0))


class TCNBlock(nn.Module):
    def __init__(self, in_channels, dilation):
        super().__init__()
        self.conv1 = weight_norm(nn.Conv1d(in_channels, 25, 7, dilation=dilation))
        self.conv2 = weight_norm(nn.Conv1d(25, 25, 7, dilation=dilation))
        self.downsample = nn.Conv1d(in_channels, 25, 1) if in_channels != 25 else None
        self.pads = 6 * dilation

    def forward(self, x):
        y = F.relu(self.conv1(before(x, self.pads)))
        y = F.relu(self.conv2(before(y, self.pads)))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class TCN(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(TCNBlock(25 if n else 1, 2**n) for n in range(8))
        self.head = nn.Linear(25, 10)
        with torch.no_grad():  # norms that differ from those of the kernels
            for block in self.blocks:
                for conv in (block.conv1, block.conv2):
                    conv.parametrizations.weight.original0.uniform_(0.5, 1.5)

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return self.head(x.movedim(1, -1)).movedim(-1, 1)


class WaveNetBlock(nn.Module):
    def __init__(self, dilation, last):
        super().__init__()
        self.filter, self.gate = (nn.Conv1d(32, 32, 2, dilation=dilation) for _ in range(2))
        self.skip = nn.Conv1d(32, 512, 1)
        if not last:
            self.residual = nn.Conv1d(32, 32, 1)
        self.dilation, self.last = dilation, last

    def forward(self, x):
        padded = before(x, self.dilation)
        z = torch.tanh(self.filter(padded)) * torch.sigmoid(self.gate(padded))
        return x if self.last else x + self.residual(z), self.skip(z)


class WaveNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.causal = nn.Conv1d(256, 32, 2, bias=False)
        self.blocks = nn.ModuleList(WaveNetBlock(2 ** (n % 10), n == 49) for n in range(50))
        self.conv1, self.conv2 = nn.Conv1d(512, 512, 1), nn.Conv1d(512, 256, 1)

    def forward(self, x):
        x, skips = self.causal(before(x, 1)), 0
        for block in self.blocks:
            x, skip = block(x)
            skips = skips + skip
        return self.conv2(F.relu(self.conv1(F.relu(skips))))


class YOLO(nn.Module):
    """The layers of figure 3, column by column."""

    def __init__(self):
        super().__init__()
        conv, pool, act = nn.Conv2d, nn.MaxPool2d(2), nn.LeakyReLU(0.1)
        pair = lambda in_channels, between, out_channels: [
            conv(in_channels, between, 1),
            act,
            conv(between, out_channels, 3, padding=1),
            act,
        ]
        self.features = nn.Sequential(
            *[conv(3, 64, 7, 2, 3), act, pool, conv(64, 192, 3, 1, 1), act, pool],
            *[*pair(192, 128, 256), *pair(256, 256, 512), pool],
            *[*pair(512, 256, 512), *pair(512, 256, 512), *pair(512, 256, 512), *pair(512, 256, 512)],
            *[*pair(512, 512, 1024), pool, *pair(1024, 512, 1024), *pair(1024, 512, 1024)],
            *[conv(1024, 1024, 3, 1, 1), act, conv(1024, 1024, 3, 2, 1), act],
            *[conv(1024, 1024, 3, 1, 1), act, conv(1024, 1024, 3, 1, 1), act],
        )
        self.fc1, self.fc2 = nn.Linear(7 * 7 * 1024, 4096), nn.Linear(4096, 7 * 7 * 30)

    def forward(self, x):
        x = F.leaky_relu(self.fc1(self.features(x).flatten(1)), 0.1)
        return self.fc2(x).view(-1, 7, 7, 30).movedim(-1, 1)


def convolutions(*channels):
    convs = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in pairwise(channels))
    return nn.ModuleDict({"convs": convs})


def decoder(in_channels, between, out_channels):
    up = nn.ConvTranspose2d(between, out_channels, 3, 2, 1, output_padding=1)
    return nn.ModuleDict({"conv": nn.Conv2d(in_channels, between, 3, padding=1), "up": up})


class VGGUNet(nn.Module):
    def __init__(self):
        super().__init__()
        down = [(3, 64), (64, 128), (128, 256, 256), (256, 512, 512), (512, 512, 512)]
        up = [(512, 512, 256), (768, 512, 256), (768, 512, 128), (384, 256, 64), (192, 128, 32)]
        self.down = nn.ModuleList(convolutions(*channels) for channels in down)
        self.up = nn.ModuleList(decoder(*channels) for channels in up)
        self.last, self.head = convolutions(96, 32), nn.Conv2d(32, 1, 1)

    def forward(self, x):
        skips = []
        for level in self.down:
            for conv in level["convs"]:
                x = F.relu(conv(x))
            skips.append(x)
            x = F.max_pool2d(x, 2)
        for level in self.up:
            x = F.relu(level["up"](F.relu(level["conv"](x))))
            x = torch.cat([x, skips.pop()], 1)
        return self.head(F.relu(self.last["convs"][0](x)))


class DCGAN(nn.Module):
    def __init__(self):
        super().__init__()
        channels = (1024, 512, 256, 128, 3)
        self.project = nn.Linear(100, 16 * 1024, bias=False)
        self.norms = nn.ModuleList([nn.BatchNorm1d(16 * 1024), *map(nn.BatchNorm2d, channels[1:-1])])
        self.ups = nn.ModuleList(
            nn.ConvTranspose2d(a, b, 5, 2, 2, output_padding=1, bias=False) for a, b in pairwise(channels)
        )

    def forward(self, z):
        x = F.relu(self.norms[0](self.project(z))).view(-1, 4, 4, 1024).movedim(-1, 1)
        for up, norm in zip(self.ups, self.norms[1:]):
            x = F.relu(norm(up(x)))
        return torch.tanh(self.ups[-1](x))
