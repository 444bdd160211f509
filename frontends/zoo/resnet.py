"""ResNet (He, Zhang, Ren, Sun 2015), with the stride in the 3x3 convolution as torchvision has it."""

from __future__ import annotations

from collections.abc import Sequence

from glulam.compiler.graph.graph import Graph
from glulam.frontends.layers import (
    AdaptiveAvgPool2d,
    BatchNorm2d,
    Block,
    Conv2d,
    Flatten,
    Input,
    Linear,
    MaxPool2d,
    ReLU,
    Sequential,
    Tensor,
)

# residual branches are drawn small, so that the sum over a deep stack keeps its scale
BRANCH_GAIN = 0.4


def conv(channels: int, kernel: int, stride: int = 1, gain: float | None = None) -> Conv2d:
    return Conv2d(channels, kernel, stride, padding=kernel // 2, bias=False, init_gain=gain)


class BasicBlock(Block):
    expansion = 1

    def __init__(self, channels: int, stride: int, downsample: Sequential | None) -> None:
        super().__init__()
        self.conv1 = conv(channels, 3, stride)
        self.bn1 = BatchNorm2d()
        self.relu = ReLU()
        self.conv2 = conv(channels, 3)
        self.bn2 = BatchNorm2d(init_gain=BRANCH_GAIN)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        skip = self.downsample(x) if self.downsample else x
        return self.relu(y + skip)


class Bottleneck(Block):
    expansion = 4

    def __init__(self, channels: int, stride: int, downsample: Sequential | None) -> None:
        super().__init__()
        self.conv1 = conv(channels, 1)
        self.bn1 = BatchNorm2d()
        self.conv2 = conv(channels, 3, stride)
        self.bn2 = BatchNorm2d()
        self.conv3 = conv(channels * self.expansion, 1)
        self.bn3 = BatchNorm2d(init_gain=BRANCH_GAIN)
        self.relu = ReLU()
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        skip = self.downsample(x) if self.downsample else x
        return self.relu(y + skip)


class ResNet(Block):
    def __init__(self, block: type[BasicBlock] | type[Bottleneck], depths: Sequence[int], num_classes: int) -> None:
        super().__init__()
        self.conv1 = conv(64, 7, 2)
        self.bn1 = BatchNorm2d()
        self.relu = ReLU()
        self.maxpool = MaxPool2d(3, 2, padding=1)
        self._inplanes = 64
        self.layer1 = self._stage(block, 64, depths[0], 1)
        self.layer2 = self._stage(block, 128, depths[1], 2)
        self.layer3 = self._stage(block, 256, depths[2], 2)
        self.layer4 = self._stage(block, 512, depths[3], 2)
        self.avgpool = AdaptiveAvgPool2d(1)
        self.flatten = Flatten()
        self.fc = Linear(num_classes)

    def _stage(self, block: type[BasicBlock] | type[Bottleneck], channels: int, depth: int, stride: int) -> Sequential:
        wide = channels * block.expansion
        downsample = None
        if stride != 1 or self._inplanes != wide:
            downsample = Sequential([conv(wide, 1, stride, gain=1.0), BatchNorm2d()])
        self._inplanes = wide
        return Sequential([block(channels, stride, downsample), *(block(channels, 1, None) for _ in range(depth - 1))])

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(self.flatten(self.avgpool(x)))


def resnet18(
    num_classes: int = 1000, input_shape: Sequence[int] = (3, 224, 224), batch: int = 1, seed: int = 0
) -> Graph:
    """ResNet-18: 11,689,512 parameters for 1000 classes."""
    net = ResNet(BasicBlock, (2, 2, 2, 2), num_classes)
    return net.graph(Input(input_shape, batch=batch, seed=seed), name="resnet18")


def resnet50(
    num_classes: int = 1000, input_shape: Sequence[int] = (3, 224, 224), batch: int = 1, seed: int = 0
) -> Graph:
    """ResNet-50: 25,557,032 parameters for 1000 classes."""
    net = ResNet(Bottleneck, (3, 4, 6, 3), num_classes)
    return net.graph(Input(input_shape, batch=batch, seed=seed), name="resnet50")
