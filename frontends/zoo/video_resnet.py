"""ResNet of 3-D convolutions over video (Tran et al. 2018)."""

from __future__ import annotations

from collections.abc import Sequence

from glulam.compiler.graph.graph import Graph
from glulam.frontends.layers import (
    AdaptiveAvgPool3d,
    BatchNorm3d,
    Block,
    Conv3d,
    Flatten,
    Input,
    Linear,
    ReLU,
    Sequential,
    Tensor,
)
from glulam.frontends.zoo.parts import BRANCH_GAIN


def conv(channels: int, stride: int = 1) -> Conv3d:
    return Conv3d(channels, 3, stride, padding=1, bias=False)


class BasicBlock(Block):
    def __init__(self, channels: int, stride: int, downsample: Sequential | None) -> None:
        super().__init__()
        self.conv1 = Sequential([conv(channels, stride), BatchNorm3d(), ReLU()])
        self.conv2 = Sequential([conv(channels), BatchNorm3d(init_gain=BRANCH_GAIN)])
        self.relu = ReLU()
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(self.conv1(x))
        skip = self.downsample(x) if self.downsample else x
        return self.relu(y + skip)


def _stage(channels: int, stride: int) -> Sequential:
    downsample = None
    if stride != 1:
        downsample = Sequential([Conv3d(channels, 1, stride, bias=False, init_gain=1.0), BatchNorm3d()])
    return Sequential([BasicBlock(channels, stride, downsample), BasicBlock(channels, 1, None)])


class VideoResNet(Block):
    def __init__(self, num_classes: int) -> None:
        super().__init__()
        first = Conv3d(64, (3, 7, 7), (1, 2, 2), (1, 3, 3), bias=False)
        self.stem = Sequential([first, BatchNorm3d(), ReLU()])
        self.layer1 = _stage(64, 1)
        self.layer2 = _stage(128, 2)
        self.layer3 = _stage(256, 2)
        self.layer4 = _stage(512, 2)
        self.avgpool = AdaptiveAvgPool3d(1)
        self.flatten = Flatten()
        self.fc = Linear(num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer4(self.layer3(self.layer2(self.layer1(self.stem(x)))))
        return self.fc(self.flatten(self.avgpool(x)))


def r3d_18(
    num_classes: int = 400, input_shape: Sequence[int] = (3, 8, 112, 112), batch: int = 1, seed: int = 0
) -> Graph:
    """R3D-18, input [N, 3, frames, height, width]: 33,371,472 parameters for the 400 classes of Kinetics."""
    return VideoResNet(num_classes).graph(Input(input_shape, batch=batch, seed=seed), name="r3d_18")
