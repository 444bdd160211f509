"""MobileNet v2 (Sandler, Howard, Zhu, Zhmoginov, Chen 2018)."""

from __future__ import annotations

from collections.abc import Sequence

from glulam.compiler.graph.graph import Graph
from glulam.frontends.layers import (
    AdaptiveAvgPool2d,
    BatchNorm2d,
    Block,
    Conv2d,
    Dropout,
    Flatten,
    Input,
    Linear,
    ReLU6,
    Sequential,
    Tensor,
)
from glulam.frontends.zoo.parts import BRANCH_GAIN, LINEAR_GAIN, ConvNorm

# expansion, output channels, repeats, stride of the first
STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


class InvertedResidual(Block):
    """1x1 expansion, 3x3 depthwise, linear 1x1 projection; the input is added where the shapes agree."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.residual = stride == 1 and inputs == outputs
        expand = [ConvNorm(hidden, 1, activation=ReLU6, gain=LINEAR_GAIN)] if expansion != 1 else []
        self.conv = Sequential(
            [
                *expand,
                ConvNorm(hidden, 3, stride, groups=hidden, activation=ReLU6),
                Conv2d(outputs, 1, bias=False),
                BatchNorm2d(init_gain=BRANCH_GAIN if self.residual else 1.0),
            ]
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return x + y if self.residual else y


class MobileNetV2(Block):
    def __init__(self, num_classes: int) -> None:
        super().__init__()
        blocks: list[Block] = [ConvNorm(32, 3, 2, activation=ReLU6)]
        inputs = 32
        for expansion, outputs, repeats, stride in STAGES:
            for index in range(repeats):
                blocks.append(InvertedResidual(inputs, outputs, stride if index == 0 else 1, expansion))
                inputs = outputs
        self.features = Sequential([*blocks, ConvNorm(1280, 1, activation=ReLU6, gain=LINEAR_GAIN)])
        self.avgpool = AdaptiveAvgPool2d(1)
        self.flatten = Flatten()
        self.classifier = Sequential([Dropout(0.2), Linear(num_classes)])

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.flatten(self.avgpool(self.features(x))))


def mobilenet_v2(
    num_classes: int = 1000, input_shape: Sequence[int] = (3, 224, 224), batch: int = 1, seed: int = 0
) -> Graph:
    """MobileNet v2, width 1: 3,504,872 parameters for 1000 classes."""
    return MobileNetV2(num_classes).graph(Input(input_shape, batch=batch, seed=seed), name="mobilenet_v2")
