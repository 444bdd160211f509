"""Layers of every shape that networks have, for `corners`: by themselves, or a few that belong together.

Where a layer's result can be its next input it comes several times, so that the conversions at the edges of the graph
weigh little.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from glulam.benchmarks.cases import Case
from glulam.frontends import layers as nn
from glulam.frontends.layers import Input, Module, Sequential
from glulam.frontends.layers import math as formula
from glulam.frontends.zoo.parts import ConvNorm, SqueezeExcitation


@dataclass(frozen=True)
class Corner:
    """Layers, so many times in a row, on an input of a shape without its batch."""

    shape: Sequence[int]
    layers: Callable[[], Sequence[Module]]
    times: int = 1
    batch: int = 1

    def case(self, name: str) -> Case:
        """What the engines measure."""
        layers = [layer for _ in range(self.times) for layer in self.layers()]
        net = Sequential([Input(self.shape, batch=self.batch), *layers])
        return Case(name, net.graph(name=name), None)


class Residual(nn.Block):
    """x plus a branch of x."""

    def __init__(self, *branch: Module) -> None:
        super().__init__()
        self.branch = Sequential(branch)
        self.sum = nn.Add()

    def forward(self, x: nn.Tensor) -> nn.Tensor:
        return self.sum(x, self.branch(x))


class Branches(nn.Block):
    """Several branches of x, joined along the channels."""

    def __init__(self, *branches: Module) -> None:
        super().__init__()
        self.branches = [self.add(str(i), branch) for i, branch in enumerate(branches)]
        self.concat = nn.Concat()

    def forward(self, x: nn.Tensor) -> nn.Tensor:
        return self.concat(*(branch(x) for branch in self.branches))


class Gated(nn.Block):
    """The first half of the channels times the sigmoid of the second."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.halves, self.gate, self.product = nn.Split(channels // 2), nn.Sigmoid(), nn.Mul()

    def forward(self, x: nn.Tensor) -> nn.Tensor:
        first, second = self.halves(x)
        return self.product(first, self.gate(second))


@nn.layer
def Sine(x: Any) -> Any:
    """sin(x), as networks of coordinates have it."""
    return formula.sin(x)


class First(nn.Block):
    """The first of several tensors."""

    def forward(self, x: nn.Tensor, *others: nn.Tensor) -> nn.Tensor:
        return x


CORNERS: Mapping[str, Mapping[str, Corner]] = {
    "first": {
        "7x7 stride 2, 3 to 64": Corner((3, 224, 224), lambda: [ConvNorm(64, 7, stride=2)]),
        "3x3 stride 2, 3 to 32": Corner((3, 224, 224), lambda: [ConvNorm(32, 3, stride=2)]),
        "3x3, 3 to 64": Corner((3, 224, 224), lambda: [ConvNorm(64, 3)]),
        "4x4 stride 4, 3 to 96": Corner((3, 224, 224), lambda: [nn.Conv2d(96, 4, 4)]),
        "11x11 stride 4, 3 to 64": Corner((3, 224, 224), lambda: [nn.Conv2d(64, 11, 4, 2), nn.ReLU()]),
        "16x16 stride 16, 3 to 768": Corner((3, 224, 224), lambda: [nn.Conv2d(768, 16, 16)]),
        "5x5, 1 to 32": Corner((1, 128, 128), lambda: [ConvNorm(32, 5)]),
    },
    "small images": {
        "3x3, 512 at 7x7": Corner((512, 7, 7), lambda: [ConvNorm(512, 3)], times=3),
        "1x1, 2048 to 512 to 2048 at 7x7": Corner((2048, 7, 7), lambda: [ConvNorm(512, 1), ConvNorm(2048, 1)]),
        "1x1, 512 at 1x1": Corner((512, 1, 1), lambda: [ConvNorm(512, 1)], times=4),
        "3x3, 256 at 3x3": Corner((256, 3, 3), lambda: [ConvNorm(256, 3)], times=4),
    },
    "stride": {
        "3x3 stride 2, 128 at 56x56": Corner((128, 56, 56), lambda: [ConvNorm(128, 3, stride=2)]),
        "3x3 stride 2, 512 at 14x14": Corner((512, 14, 14), lambda: [ConvNorm(512, 3, stride=2)]),
        "1x1 stride 2, 256 to 512 at 56x56": Corner((256, 56, 56), lambda: [ConvNorm(512, 1, stride=2)]),
        "5x5 stride 2, 64 at 56x56": Corner((64, 56, 56), lambda: [ConvNorm(64, 5, stride=2)]),
        "2x2 stride 2, 96 to 192 at 56x56": Corner((96, 56, 56), lambda: [nn.Conv2d(192, 2, 2)]),
    },
    "dilation": {
        "3x3 dilation 2, 256 at 28x28": Corner((256, 28, 28), lambda: [ConvNorm(256, 3, dilation=2)], times=2),
        "3x3 dilation 12, 512 to 256 at 28x28": Corner((512, 28, 28), lambda: [ConvNorm(256, 3, dilation=12)]),
    },
    "plain": {
        "3x3, 64 at 56x56": Corner((64, 56, 56), lambda: [ConvNorm(64, 3)], times=4),
        "1x1, 256 at 28x28": Corner((256, 28, 28), lambda: [ConvNorm(256, 1)], times=4),
        "5x5, 32 at 28x28": Corner((32, 28, 28), lambda: [ConvNorm(32, 5)], times=4),
        "1x7 and 7x1, 192 at 17x17": Corner(
            (192, 17, 17), lambda: [ConvNorm(192, (1, 7)), ConvNorm(192, (7, 1))], times=2
        ),
        "3x3, 20 at 40x40": Corner((20, 40, 40), lambda: [ConvNorm(20, 3)], times=4),
        "3x3, 17 at 33x33": Corner((17, 33, 33), lambda: [ConvNorm(17, 3)], times=4),
    },
    "grouped": {
        "3x3, 32 groups of 4 at 56x56": Corner((128, 56, 56), lambda: [ConvNorm(128, 3, groups=32)], times=3),
        "3x3, 32 groups of 8 at 28x28": Corner((256, 28, 28), lambda: [ConvNorm(256, 3, groups=32)], times=3),
        "3x3, 32 groups of 16 at 14x14": Corner((512, 14, 14), lambda: [ConvNorm(512, 3, groups=32)], times=3),
        "3x3, 32 groups of 32 at 7x7": Corner((1024, 7, 7), lambda: [ConvNorm(1024, 3, groups=32)], times=3),
        "3x3 stride 2, 32 groups of 8 at 56x56": Corner((256, 56, 56), lambda: [ConvNorm(256, 3, stride=2, groups=32)]),
        "3x3, 9 groups of 16 at 28x28": Corner((144, 28, 28), lambda: [ConvNorm(144, 3, groups=9)], times=3),
        "3x3, 8 groups of 24 at 14x14": Corner((192, 14, 14), lambda: [ConvNorm(192, 3, groups=8)], times=3),
        "1x1, 3 groups of 80 at 28x28": Corner((240, 28, 28), lambda: [ConvNorm(240, 1, groups=3)], times=3),
        "1x1, 8 groups of 30 at 28x28": Corner((240, 28, 28), lambda: [ConvNorm(240, 1, groups=8)], times=3),
        "3x3, 14 groups of 17 at 14x14": Corner((238, 14, 14), lambda: [ConvNorm(238, 3, groups=14)], times=3),
        "3x3, 6 groups of 40 at 14x14": Corner((240, 14, 14), lambda: [ConvNorm(240, 3, groups=6)], times=3),
        "3x3 stride 2, 4 groups of 60 at 28x28": Corner((240, 28, 28), lambda: [ConvNorm(240, 3, 2, groups=4)]),
        "3x3, 60 groups of 3 at 28x28": Corner((180, 28, 28), lambda: [ConvNorm(180, 3, groups=60)], times=3),
        "1x1, 40 groups of 5 at 28x28": Corner((200, 28, 28), lambda: [ConvNorm(200, 1, groups=40)], times=3),
        "1x1, 20 groups of 20 at 14x14": Corner((400, 14, 14), lambda: [nn.Conv2d(400, 1, groups=20)]),
        "5x5, 6 groups of 16 to 2 at 28x28": Corner((96, 28, 28), lambda: [nn.Conv2d(12, 5, 1, 2, groups=6)]),
    },
    "depthwise": {
        "3x3, 96 at 56x56": Corner((96, 56, 56), lambda: [ConvNorm(96, 3, groups=96)], times=4),
        "3x3 stride 2, 96 at 112x112": Corner((96, 112, 112), lambda: [ConvNorm(96, 3, stride=2, groups=96)]),
        "5x5, 240 at 28x28": Corner((240, 28, 28), lambda: [ConvNorm(240, 5, groups=240)], times=4),
        "5x5 stride 2, 240 at 28x28": Corner((240, 28, 28), lambda: [ConvNorm(240, 5, stride=2, groups=240)]),
        "7x7, 96 at 56x56": Corner((96, 56, 56), lambda: [ConvNorm(96, 7, groups=96)], times=3),
        "7x7, 768 at 7x7": Corner((768, 7, 7), lambda: [ConvNorm(768, 7, groups=768)], times=3),
        "3x3 dilation 2, 96 at 28x28": Corner((96, 28, 28), lambda: [ConvNorm(96, 3, groups=96, dilation=2)], times=3),
        "3x3 of multiplier 2, 64 to 128 at 56x56": Corner((64, 56, 56), lambda: [ConvNorm(128, 3, groups=64)]),
        "3x3 and 1x1, 64 at 56x56": Corner(
            (64, 56, 56), lambda: [ConvNorm(64, 3, groups=64), ConvNorm(64, 1)], times=3
        ),
        "1x1, 3x3 and 1x1, 24 to 144 to 24 at 56x56": Corner(
            (24, 56, 56),
            lambda: [Residual(ConvNorm(144, 1), ConvNorm(144, 3, groups=144), ConvNorm(24, 1, activation=None))],
            times=3,
        ),
        "1-D, 9 taps, 256 at 512": Corner(
            (256, 512), lambda: [nn.Conv1d(256, 9, padding=4, groups=256), nn.ReLU()], times=3
        ),
    },
    "1-D": {
        "3 taps, 64 at 4096": Corner((64, 4096), lambda: [nn.Conv1d(64, 3, padding=1), nn.ReLU()], times=3),
        "64 taps, 1 to 32 at 16000": Corner((1, 16000), lambda: [nn.Conv1d(32, 64)]),
        "512 taps, 1 to 36 stride 1 at 16384": Corner((1, 16384), lambda: [nn.Conv1d(36, 512)]),
        "512 taps, 1 to 257 stride 128 at 32000": Corner((1, 32000), lambda: [nn.Conv1d(257, 512, 128)]),
        "256 taps in 2-D, 1 to 36 stride 2 at 1x20000": Corner(
            (1, 1, 20000), lambda: [nn.Conv2d(36, (1, 256), (1, 2))]
        ),
        "80 taps stride 4, 1 to 128 at 32000": Corner((1, 32000), lambda: [nn.Conv1d(128, 80, 4, 38), nn.ReLU()]),
        "15 taps, 128 at 1024": Corner((128, 1024), lambda: [nn.Conv1d(128, 15, padding=7), nn.ReLU()], times=2),
        "3 taps dilation 16, 64 at 4096": Corner(
            (64, 4096), lambda: [nn.Conv1d(64, 3, padding=16, dilation=16), nn.ReLU()], times=3
        ),
    },
    "3-D": {
        "3x3x3, 3 to 64 stride 1,2,2": Corner(
            (3, 8, 112, 112), lambda: [nn.Conv3d(64, (3, 7, 7), (1, 2, 2), (1, 3, 3)), nn.ReLU()]
        ),
        "3x3x3, 32 at 16x28x28": Corner((32, 16, 28, 28), lambda: [nn.Conv3d(32, 3, padding=1), nn.ReLU()], times=2),
        "3x3x3 stride 2, 64 at 8x28x28": Corner((64, 8, 28, 28), lambda: [nn.Conv3d(128, 3, 2, 1), nn.ReLU()]),
        "1x3x3 and 3x1x1, 64 at 8x28x28": Corner(
            (64, 8, 28, 28),
            lambda: [
                nn.Conv3d(64, (1, 3, 3), padding=(0, 1, 1)),
                nn.ReLU(),
                nn.Conv3d(64, (3, 1, 1), padding=(1, 0, 0)),
                nn.ReLU(),
            ],
        ),
        "1x1x1, 64 at 8x28x28": Corner((64, 8, 28, 28), lambda: [nn.Conv3d(64, 1), nn.ReLU()], times=3),
        "depthwise 3x3x3, 64 at 8x28x28": Corner(
            (64, 8, 28, 28), lambda: [nn.Conv3d(64, 3, padding=1, groups=64), nn.ReLU()], times=2
        ),
        "max pool 2x2x2, 64 at 16x56x56": Corner((64, 16, 56, 56), lambda: [nn.MaxPool3d(2)]),
        "average pool 3x3x3, 32 at 16x56x56": Corner((32, 16, 56, 56), lambda: [nn.AvgPool3d(3, 2, 1)]),
    },
    "transposed": {
        "2x2 stride 2, 128 to 64 at 28x28": Corner((128, 28, 28), lambda: [nn.ConvTranspose2d(64, 2, 2), nn.ReLU()]),
        "4x4 stride 2, 64 to 32 at 56x56": Corner((64, 56, 56), lambda: [nn.ConvTranspose2d(32, 4, 2, 1), nn.ReLU()]),
        "3x3 stride 2, 256 to 128 at 14x14": Corner(
            (256, 14, 14), lambda: [nn.ConvTranspose2d(128, 3, 2, 1, 1), nn.ReLU()]
        ),
        "3x3, 64 at 28x28": Corner((64, 28, 28), lambda: [nn.ConvTranspose2d(64, 3, 1, 1), nn.ReLU()], times=2),
        "4x4 stride 2 depthwise, 64 at 28x28": Corner(
            (64, 28, 28), lambda: [nn.ConvTranspose2d(64, 4, 2, 1, groups=64)]
        ),
        "64x64 stride 32, 21 at 7x7": Corner((21, 7, 7), lambda: [nn.ConvTranspose2d(21, 64, 32, 16, bias=False)]),
        "64x64 stride 32 depthwise, 21 at 7x7": Corner(
            (21, 7, 7), lambda: [nn.ConvTranspose2d(21, 64, 32, 16, groups=21, bias=False)]
        ),
        "16x16 stride 8, 21 at 28x28": Corner((21, 28, 28), lambda: [nn.ConvTranspose2d(21, 16, 8, 4, bias=False)]),
        "9x9 stride 4, 56 to 1 at 64x64": Corner((56, 64, 64), lambda: [nn.ConvTranspose2d(1, 9, 4, 4)]),
        "1-D 16 taps stride 8, 256 to 128 at 128": Corner(
            (256, 128), lambda: [nn.ConvTranspose1d(128, 16, 8, 4), nn.ReLU()]
        ),
        "3-D 2x2x2 stride 2, 64 to 32 at 8x14x14": Corner(
            (64, 8, 14, 14), lambda: [nn.ConvTranspose3d(32, 2, 2), nn.ReLU()]
        ),
    },
    "few channels": {
        "3x3, 1 at 512x512": Corner((1, 512, 512), lambda: [ConvNorm(1, 3)], times=3),
        "3x3, 3 at 256x256": Corner((3, 256, 256), lambda: [ConvNorm(3, 3)], times=3),
        "3x3, 2 to 8 at 128x128": Corner((2, 128, 128), lambda: [ConvNorm(8, 3)]),
        "3x3, 8 at 128x128": Corner((8, 128, 128), lambda: [ConvNorm(8, 3)], times=3),
        "3x3, 64 to 1 at 112x112": Corner((64, 112, 112), lambda: [ConvNorm(1, 3)]),
        "1x1, 64 to 2 at 112x112": Corner((64, 112, 112), lambda: [nn.Conv2d(2, 1)]),
        "5x5, 4 at 64x64": Corner((4, 64, 64), lambda: [ConvNorm(4, 5)], times=3),
    },
    "tall and wide": {
        "3x3, 64 at 4x1024": Corner((64, 4, 1024), lambda: [ConvNorm(64, 3)], times=3),
        "3x3, 64 at 1024x4": Corner((64, 1024, 4), lambda: [ConvNorm(64, 3)], times=3),
        "3x3, 64 at 1x2048": Corner((64, 1, 2048), lambda: [ConvNorm(64, 3)], times=3),
        "3x3, 64 at 2048x1": Corner((64, 2048, 1), lambda: [ConvNorm(64, 3)], times=3),
        "1x1, 64 at 3x1000": Corner((64, 3, 1000), lambda: [ConvNorm(64, 1)], times=3),
    },
    "batch": {
        "3x3, 64 at 28x28, 32 samples": Corner((64, 28, 28), lambda: [ConvNorm(64, 3)], times=2, batch=32),
        "1x1, 256 to 64 at 14x14, 32 samples": Corner((256, 14, 14), lambda: [ConvNorm(64, 1)], batch=32),
        "depthwise 3x3, 96 at 28x28, 32 samples": Corner(
            (96, 28, 28), lambda: [ConvNorm(96, 3, groups=96)], times=2, batch=32
        ),
        "3x3, 512 at 7x7, 8 samples": Corner((512, 7, 7), lambda: [ConvNorm(512, 3)], times=2, batch=8),
        "linear, 1024 to 1000, 32 samples": Corner((1024,), lambda: [nn.Linear(1000)], batch=32),
    },
    "gates": {
        "squeeze and excitation, 96 at 56x56": Corner(
            (96, 56, 56), lambda: [nn.Conv2d(96, 1), SqueezeExcitation(96, 24)], times=2
        ),
        "squeeze and excitation, 672 at 14x14": Corner(
            (672, 14, 14), lambda: [ConvNorm(672, 3, groups=672), SqueezeExcitation(672, 168)], times=3
        ),
        "hard swish": Corner((64, 56, 56), lambda: [nn.Conv2d(64, 1), nn.Hardswish()], times=3),
        "SiLU": Corner((64, 56, 56), lambda: [nn.Conv2d(64, 1), nn.SiLU()], times=3),
        "GELU": Corner((64, 56, 56), lambda: [nn.Conv2d(64, 1), nn.GELU()], times=3),
        "sigmoid": Corner((64, 56, 56), lambda: [nn.Conv2d(64, 1), nn.Sigmoid()], times=3),
        "tanh": Corner((64, 56, 56), lambda: [nn.Conv2d(64, 1), nn.Tanh()], times=3),
        "mish": Corner((64, 56, 56), lambda: [nn.Conv2d(64, 1), nn.Mish()], times=3),
        "softplus": Corner((64, 56, 56), lambda: [nn.Conv2d(64, 1), nn.Softplus()], times=3),
        "ELU": Corner((64, 56, 56), lambda: [nn.Conv2d(64, 1), nn.ELU()], times=3),
        "sine": Corner((64, 56, 56), lambda: [nn.Conv2d(64, 1), Sine()], times=3),
        "PReLU": Corner((64, 56, 56), lambda: [nn.Conv2d(64, 1), nn.PReLU()], times=3),
        "gated linear unit": Corner((64, 56, 56), lambda: [nn.Conv2d(128, 1), Gated(128)], times=3),
    },
    "joins": {
        "dense block, 64 and 4 of 32 at 28x28": Corner(
            (64, 28, 28), lambda: [Branches(nn.Identity(), ConvNorm(32, 3))], times=4
        ),
        "concat of 4 branches at 28x28": Corner(
            (192, 28, 28), lambda: [Branches(ConvNorm(64, 1), ConvNorm(32, 1), ConvNorm(24, 1), ConvNorm(40, 1))]
        ),
        "channel shuffle, 116 at 28x28": Corner(
            (116, 28, 28), lambda: [ConvNorm(116, 1), nn.ChannelShuffle(2)], times=3
        ),
        "channel shuffle of 3, 240 at 28x28": Corner(
            (240, 28, 28),
            lambda: [ConvNorm(240, 1, groups=3), nn.ChannelShuffle(3), ConvNorm(240, 3, groups=240)],
            times=2,
        ),
        "residual sum": Corner((64, 56, 56), lambda: [Residual(ConvNorm(64, 3, activation=None)), nn.ReLU()], times=3),
        "pixel shuffle by 2 and 3x3, 64 at 56x56": Corner(
            (64, 56, 56), lambda: [nn.Conv2d(64, 3, padding=1), nn.PixelShuffle(2), nn.Conv2d(32, 3, padding=1)]
        ),
        "pixel shuffle by 3 at the end, 9 at 224x224": Corner(
            (64, 224, 224), lambda: [nn.Conv2d(9, 3, padding=1), nn.PixelShuffle(3)]
        ),
        "pixel unshuffle by 2, 16 at 112x112": Corner((16, 112, 112), lambda: [nn.PixelUnshuffle(2), nn.Conv2d(64, 1)]),
    },
    "pooling": {
        "max 3x3 stride 2, 64 at 112x112": Corner((64, 112, 112), lambda: [nn.MaxPool2d(3, 2, 1)]),
        "max 2x2, 64 at 112x112": Corner((64, 112, 112), lambda: [nn.MaxPool2d(2)]),
        "max 3x3 stride 1, 192 at 28x28": Corner((192, 28, 28), lambda: [nn.MaxPool2d(3, 1, 1)], times=3),
        "max 5x5 three times, 256 at 20x20": Corner((256, 20, 20), lambda: [nn.MaxPool2d(5, 1, 2)], times=3),
        "average 3x3, 192 at 28x28": Corner((192, 28, 28), lambda: [nn.AvgPool2d(3, 1, 1)], times=3),
        "average 2x2, 128 at 56x56": Corner((128, 56, 56), lambda: [nn.AvgPool2d(2)]),
        "global average, 2048 at 7x7": Corner((2048, 7, 7), lambda: [nn.GlobalAvgPool()]),
        "global average, 64 at 112x112": Corner((64, 112, 112), lambda: [nn.GlobalAvgPool()]),
        "global max, 512 at 28x28": Corner((512, 28, 28), lambda: [nn.GlobalMaxPool()]),
        "adaptive average to 6x6, 256 at 13x13": Corner((256, 13, 13), lambda: [nn.AdaptiveAvgPool2d(6)]),
    },
    "norms": {
        "layer norm, 197x768": Corner((197, 768), lambda: [nn.LayerNorm()], times=3),
        "layer norm of channels, 96 at 56x56": Corner(
            (96, 56, 56), lambda: [nn.Permute(0, 2, 3, 1), nn.LayerNorm(96), nn.Permute(0, 3, 1, 2)], times=2
        ),
        "group norm of 32, 256 at 28x28": Corner((256, 28, 28), lambda: [nn.Conv2d(256, 1), nn.GroupNorm(32)], times=2),
        "instance norm, 64 at 56x56": Corner((64, 56, 56), lambda: [nn.Conv2d(64, 1), nn.InstanceNorm2d()], times=2),
        "RMS norm, 197x768": Corner((197, 768), lambda: [nn.RMSNorm()], times=3),
        "local response, 96 at 27x27": Corner((96, 27, 27), lambda: [nn.LocalResponseNorm(5)], times=2),
        "batch norm and ReLU alone, 64 at 56x56": Corner(
            (64, 56, 56), lambda: [nn.MaxPool2d(3, 1, 1), nn.BatchNorm2d(), nn.ReLU()], times=3
        ),
        "softmax, 12x197x197": Corner((12, 197, 197), lambda: [nn.Softmax(-1)]),
        "softmax of channels, 21 at 128x128": Corner((21, 128, 128), lambda: [nn.Softmax(1)]),
    },
    "matrices": {
        "linear, 4096 to 4096": Corner((4096,), lambda: [nn.Linear(4096)]),
        "linear, 2048 to 1000": Corner((2048,), lambda: [nn.Linear(1000)]),
        "linear, 197x768 to 3072 to 768, GELU": Corner(
            (197, 768), lambda: [nn.Linear(3072), nn.GELU(), nn.Linear(768)]
        ),
        "linear, 49x1024 to 1024": Corner((49, 1024), lambda: [nn.Linear(1024)], times=2),
        "linear, 8x512 to 512": Corner((8, 512), lambda: [nn.Linear(512), nn.ReLU()], times=4),
        "attention, 12 heads of 64, 197 tokens": Corner(
            (197, 768), lambda: [nn.MultiheadAttention(768, 12, batch_first=True)]
        ),
        "attention, 4 heads of 48, 1024 tokens": Corner(
            (1024, 192), lambda: [nn.MultiheadAttention(192, 4, batch_first=True)]
        ),
        "attention, 8 heads of 40, 4096 tokens": Corner(
            (4096, 320), lambda: [nn.MultiheadAttention(320, 8, batch_first=True)]
        ),
        "attention, 8 heads of 32, 64 tokens": Corner(
            (64, 256), lambda: [nn.MultiheadAttention(256, 8, batch_first=True)], times=2
        ),
        "LSTM, 128 to 256, 64 steps": Corner((64, 128), lambda: [nn.LSTM(256, batch_first=True), First()]),
        "GRU, 128 both ways, 64 steps": Corner(
            (64, 128), lambda: [nn.GRU(128, batch_first=True, bidirectional=True), First()]
        ),
    },
    "resize": {
        "bilinear by 2, 64 at 56x56": Corner(
            (64, 56, 56), lambda: [nn.Conv2d(64, 1), nn.Upsample(scale_factor=2, mode="bilinear"), nn.Conv2d(64, 1)]
        ),
        "bilinear of corners, 64 at 28x28": Corner(
            (64, 28, 28),
            lambda: [
                nn.Conv2d(64, 1),
                nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True),
                nn.Conv2d(64, 1),
            ],
        ),
        "bilinear by 2, 3 at 224x224": Corner((3, 224, 224), lambda: [nn.Upsample(scale_factor=2, mode="bilinear")]),
        "nearest by 1.25, 3 at 320x320": Corner((3, 320, 320), lambda: [nn.Upsample(scale_factor=1.25)]),
        "bilinear by 8, 21 at 28x28": Corner((21, 28, 28), lambda: [nn.Upsample(scale_factor=8, mode="bilinear")]),
        "nearest by 2, 128 at 28x28": Corner(
            (128, 28, 28), lambda: [nn.Conv2d(128, 1), nn.Upsample(scale_factor=2), nn.Conv2d(64, 1)]
        ),
        "nearest by 4, 96 at 40x40": Corner((96, 40, 40), lambda: [nn.Upsample(scale_factor=4)]),
        "cubic by 2, 3 at 128x128": Corner((3, 128, 128), lambda: [nn.Upsample(scale_factor=2, mode="bicubic")]),
        "trilinear by 2, 16 at 8x28x28": Corner(
            (16, 8, 28, 28), lambda: [nn.Upsample(scale_factor=2, mode="trilinear")]
        ),
    },
    "layouts": {
        "NHWC input, 3x3 stride 2, 3 to 32": Corner(
            (224, 224, 3), lambda: [nn.Permute(0, 3, 1, 2), ConvNorm(32, 3, 2)]
        ),
        "NHWC both ends, 3x3, 64 at 56x56": Corner(
            (56, 56, 64), lambda: [nn.Permute(0, 3, 1, 2), ConvNorm(64, 3), ConvNorm(64, 3), nn.Permute(0, 2, 3, 1)]
        ),
        "tokens of an image, 512 at 14x14": Corner(
            (256, 14, 14), lambda: [nn.Conv2d(512, 1), nn.Flatten(2), nn.Permute(0, 2, 1), nn.Linear(512)]
        ),
        "flatten and linear, 256 at 6x6": Corner((256, 6, 6), lambda: [nn.ReLU(), nn.Flatten(), nn.Linear(512)]),
        "transpose, 1024x1024": Corner((1024, 1024), lambda: [nn.Permute(0, 2, 1)]),
    },
}
"""By group and name."""
