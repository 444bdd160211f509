"""Inception v3 (Szegedy, Vanhoucke, Ioffe, Shlens, Wojna 2015), without the auxiliary head of training."""

from __future__ import annotations

from collections.abc import Sequence

from glulam.compiler.graph.graph import Graph
from glulam.frontends.layers import (
    AdaptiveAvgPool2d,
    AvgPool2d,
    Block,
    Concat,
    Dropout,
    Flatten,
    Input,
    Linear,
    MaxPool2d,
    Tensor,
)
from glulam.frontends.zoo.googlenet import BasicConv2d


def wide(channels: int, size: int) -> BasicConv2d:
    """1 x size."""
    return BasicConv2d(channels, (1, size), padding=(0, size // 2))


def tall(channels: int, size: int) -> BasicConv2d:
    """size x 1."""
    return BasicConv2d(channels, (size, 1), padding=(size // 2, 0))


class InceptionA(Block):
    """35 x 35: 1x1; 5x5; two 3x3; average pool."""

    def __init__(self, pool_features: int) -> None:
        super().__init__()
        self.branch1x1 = BasicConv2d(64, 1)
        self.branch5x5_1 = BasicConv2d(48, 1)
        self.branch5x5_2 = BasicConv2d(64, 5, padding=2)
        self.branch3x3dbl_1 = BasicConv2d(64, 1)
        self.branch3x3dbl_2 = BasicConv2d(96, 3, padding=1)
        self.branch3x3dbl_3 = BasicConv2d(96, 3, padding=1)
        self.pool = AvgPool2d(3, 1, 1)
        self.branch_pool = BasicConv2d(pool_features, 1)
        self.concat = Concat()

    def forward(self, x: Tensor) -> Tensor:
        five = self.branch5x5_2(self.branch5x5_1(x))
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return self.concat(self.branch1x1(x), five, double, self.branch_pool(self.pool(x)))


class InceptionB(Block):
    """35 x 35 to 17 x 17."""

    def __init__(self) -> None:
        super().__init__()
        self.branch3x3 = BasicConv2d(384, 3, stride=2)
        self.branch3x3dbl_1 = BasicConv2d(64, 1)
        self.branch3x3dbl_2 = BasicConv2d(96, 3, padding=1)
        self.branch3x3dbl_3 = BasicConv2d(96, 3, stride=2)
        self.pool = MaxPool2d(3, 2)
        self.concat = Concat()

    def forward(self, x: Tensor) -> Tensor:
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return self.concat(self.branch3x3(x), double, self.pool(x))


class InceptionC(Block):
    """17 x 17, with 7x7 convolutions split into 1x7 and 7x1."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branch1x1 = BasicConv2d(192, 1)
        self.branch7x7_1 = BasicConv2d(channels, 1)
        self.branch7x7_2 = wide(channels, 7)
        self.branch7x7_3 = tall(192, 7)
        self.branch7x7dbl_1 = BasicConv2d(channels, 1)
        self.branch7x7dbl_2 = tall(channels, 7)
        self.branch7x7dbl_3 = wide(channels, 7)
        self.branch7x7dbl_4 = tall(channels, 7)
        self.branch7x7dbl_5 = wide(192, 7)
        self.pool = AvgPool2d(3, 1, 1)
        self.branch_pool = BasicConv2d(192, 1)
        self.concat = Concat()

    def forward(self, x: Tensor) -> Tensor:
        seven = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        double = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        double = self.branch7x7dbl_5(self.branch7x7dbl_4(double))
        return self.concat(self.branch1x1(x), seven, double, self.branch_pool(self.pool(x)))


class InceptionD(Block):
    """17 x 17 to 8 x 8."""

    def __init__(self) -> None:
        super().__init__()
        self.branch3x3_1 = BasicConv2d(192, 1)
        self.branch3x3_2 = BasicConv2d(320, 3, stride=2)
        self.branch7x7x3_1 = BasicConv2d(192, 1)
        self.branch7x7x3_2 = wide(192, 7)
        self.branch7x7x3_3 = tall(192, 7)
        self.branch7x7x3_4 = BasicConv2d(192, 3, stride=2)
        self.pool = MaxPool2d(3, 2)
        self.concat = Concat()

    def forward(self, x: Tensor) -> Tensor:
        three = self.branch3x3_2(self.branch3x3_1(x))
        seven = self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x)))
        return self.concat(three, self.branch7x7x3_4(seven), self.pool(x))


class InceptionE(Block):
    """8 x 8, with 3x3 convolutions fanned out into 1x3 and 3x1."""

    def __init__(self) -> None:
        super().__init__()
        self.branch1x1 = BasicConv2d(320, 1)
        self.branch3x3_1 = BasicConv2d(384, 1)
        self.branch3x3_2a = wide(384, 3)
        self.branch3x3_2b = tall(384, 3)
        self.branch3x3dbl_1 = BasicConv2d(448, 1)
        self.branch3x3dbl_2 = BasicConv2d(384, 3, padding=1)
        self.branch3x3dbl_3a = wide(384, 3)
        self.branch3x3dbl_3b = tall(384, 3)
        self.pool = AvgPool2d(3, 1, 1)
        self.branch_pool = BasicConv2d(192, 1)
        self.concat3x3 = Concat()
        self.concat3x3dbl = Concat()
        self.concat = Concat()

    def forward(self, x: Tensor) -> Tensor:
        three = self.branch3x3_1(x)
        three = self.concat3x3(self.branch3x3_2a(three), self.branch3x3_2b(three))
        double = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        double = self.concat3x3dbl(self.branch3x3dbl_3a(double), self.branch3x3dbl_3b(double))
        return self.concat(self.branch1x1(x), three, double, self.branch_pool(self.pool(x)))


class Inception3(Block):
    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = BasicConv2d(32, 3, stride=2)
        self.Conv2d_2a_3x3 = BasicConv2d(32, 3)
        self.Conv2d_2b_3x3 = BasicConv2d(64, 3, padding=1)
        self.maxpool1 = MaxPool2d(3, 2)
        self.Conv2d_3b_1x1 = BasicConv2d(80, 1)
        self.Conv2d_4a_3x3 = BasicConv2d(192, 3)
        self.maxpool2 = MaxPool2d(3, 2)
        self.Mixed_5b = InceptionA(32)
        self.Mixed_5c = InceptionA(64)
        self.Mixed_5d = InceptionA(64)
        self.Mixed_6a = InceptionB()
        self.Mixed_6b = InceptionC(128)
        self.Mixed_6c = InceptionC(160)
        self.Mixed_6d = InceptionC(160)
        self.Mixed_6e = InceptionC(192)
        self.Mixed_7a = InceptionD()
        self.Mixed_7b = InceptionE()
        self.Mixed_7c = InceptionE()
        self.avgpool = AdaptiveAvgPool2d(1)
        self.dropout = Dropout()
        self.flatten = Flatten()
        self.fc = Linear(num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool1(self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x))))
        x = self.maxpool2(self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x)))
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(x)))
        x = self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(x)))))
        x = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x)))
        return self.fc(self.flatten(self.dropout(self.avgpool(x))))


def inception_v3(
    num_classes: int = 1000, input_shape: Sequence[int] = (3, 299, 299), batch: int = 1, seed: int = 0
) -> Graph:
    """Inception v3: 23,834,568 parameters for 1000 classes."""
    return Inception3(num_classes).graph(Input(input_shape, batch=batch, seed=seed), name="inception_v3")
