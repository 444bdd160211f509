"""GoogLeNet, also Inception v1 (Szegedy et al. 2014), with batch norm; without the auxiliary heads of training."""

from __future__ import annotations

from collections.abc import Sequence

from glulam.compiler.graph.graph import Graph
from glulam.frontends.layers import (
    AdaptiveAvgPool2d,
    BatchNorm2d,
    Block,
    Concat,
    Conv2d,
    Dropout,
    Flatten,
    Input,
    Linear,
    MaxPool2d,
    ReLU,
    Sequential,
    Tensor,
)


class BasicConv2d(Block):
    """Convolution without bias, batch norm, ReLU."""

    def __init__(
        self, channels: int, kernel: int | Sequence[int], stride: int = 1, padding: int | Sequence[int] = 0
    ) -> None:
        super().__init__()
        self.conv = Conv2d(channels, kernel, stride, padding, bias=False)
        self.bn = BatchNorm2d(1e-3)
        self.relu = ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.bn(self.conv(x)))


class Inception(Block):
    """1x1; 1x1 then 3x3; 1x1 then 3x3 (where the paper has 5x5, as torchvision has it); pool then 1x1."""

    def __init__(self, one: int, three_red: int, three: int, five_red: int, five: int, pool: int) -> None:
        super().__init__()
        self.branch1 = BasicConv2d(one, 1)
        self.branch2 = Sequential([BasicConv2d(three_red, 1), BasicConv2d(three, 3, padding=1)])
        self.branch3 = Sequential([BasicConv2d(five_red, 1), BasicConv2d(five, 3, padding=1)])
        self.branch4 = Sequential([MaxPool2d(3, 1, padding=1, ceil_mode=True), BasicConv2d(pool, 1)])
        self.concat = Concat()

    def forward(self, x: Tensor) -> Tensor:
        return self.concat(self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x))


class GoogLeNet(Block):
    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.conv1 = BasicConv2d(64, 7, stride=2, padding=3)
        self.maxpool1 = MaxPool2d(3, 2, ceil_mode=True)
        self.conv2 = BasicConv2d(64, 1)
        self.conv3 = BasicConv2d(192, 3, padding=1)
        self.maxpool2 = MaxPool2d(3, 2, ceil_mode=True)
        self.inception3a = Inception(64, 96, 128, 16, 32, 32)
        self.inception3b = Inception(128, 128, 192, 32, 96, 64)
        self.maxpool3 = MaxPool2d(3, 2, ceil_mode=True)
        self.inception4a = Inception(192, 96, 208, 16, 48, 64)
        self.inception4b = Inception(160, 112, 224, 24, 64, 64)
        self.inception4c = Inception(128, 128, 256, 24, 64, 64)
        self.inception4d = Inception(112, 144, 288, 32, 64, 64)
        self.inception4e = Inception(256, 160, 320, 32, 128, 128)
        self.maxpool4 = MaxPool2d(2, 2, ceil_mode=True)
        self.inception5a = Inception(256, 160, 320, 32, 128, 128)
        self.inception5b = Inception(384, 192, 384, 48, 128, 128)
        self.avgpool = AdaptiveAvgPool2d(1)
        self.flatten = Flatten()
        self.dropout = Dropout(0.2)
        self.fc = Linear(num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv3(self.conv2(self.maxpool1(self.conv1(x))))
        x = self.maxpool3(self.inception3b(self.inception3a(self.maxpool2(x))))
        x = self.inception4e(self.inception4d(self.inception4c(self.inception4b(self.inception4a(x)))))
        x = self.inception5b(self.inception5a(self.maxpool4(x)))
        return self.fc(self.dropout(self.flatten(self.avgpool(x))))


def googlenet(
    num_classes: int = 1000, input_shape: Sequence[int] = (3, 224, 224), batch: int = 1, seed: int = 0
) -> Graph:
    """GoogLeNet: 6,624,904 parameters for 1000 classes."""
    return GoogLeNet(num_classes).graph(Input(input_shape, batch=batch, seed=seed), name="googlenet")
