"""EfficientNet-B0 (Tan, Le 2019)."""

from __future__ import annotations

from collections.abc import Sequence

from glulam.compiler.graph.graph import Graph
from glulam.frontends.layers import (
    AdaptiveAvgPool2d,
    Block,
    Dropout,
    Flatten,
    Input,
    Linear,
    Sequential,
    SiLU,
    Tensor,
)
from glulam.frontends.zoo.parts import BRANCH_GAIN, EXCITED_GAIN, LINEAR_GAIN, SWISH_GAIN, ConvNorm, SqueezeExcitation

# expansion, kernel, stride of the first, input channels, output channels, repeats
STAGES = (
    (1, 3, 1, 32, 16, 1),
    (6, 3, 2, 16, 24, 2),
    (6, 5, 2, 24, 40, 2),
    (6, 3, 2, 40, 80, 3),
    (6, 5, 1, 80, 112, 3),
    (6, 5, 2, 112, 192, 4),
    (6, 3, 1, 192, 320, 1),
)


class MBConv(Block):
    """1x1 expansion, depthwise, squeeze-and-excitation, linear 1x1 projection; the input is added where it fits."""

    def __init__(self, expansion: int, kernel: int, stride: int, inputs: int, outputs: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.residual = stride == 1 and inputs == outputs
        expand = [ConvNorm(hidden, 1, activation=SiLU, gain=LINEAR_GAIN)] if expansion != 1 else []
        norm_gain = BRANCH_GAIN if self.residual else 1.0
        self.block = Sequential(
            [
                *expand,
                ConvNorm(hidden, kernel, stride, hidden, SiLU, gain=SWISH_GAIN),
                SqueezeExcitation(hidden, max(1, inputs // 4), activation=SiLU),
                ConvNorm(outputs, 1, activation=None, gain=EXCITED_GAIN, norm_gain=norm_gain),
            ]
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.block(x)
        return y + x if self.residual else y


def _stage(expansion: int, kernel: int, stride: int, inputs: int, outputs: int, repeats: int) -> Sequential:
    first = MBConv(expansion, kernel, stride, inputs, outputs)
    return Sequential([first, *(MBConv(expansion, kernel, 1, outputs, outputs) for _ in range(repeats - 1))])


class EfficientNet(Block):
    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.features = Sequential(
            [
                ConvNorm(32, 3, 2, activation=SiLU),
                *(_stage(*stage) for stage in STAGES),
                ConvNorm(1280, 1, activation=SiLU, gain=LINEAR_GAIN),
            ]
        )
        self.avgpool = AdaptiveAvgPool2d(1)
        self.flatten = Flatten()
        self.classifier = Sequential([Dropout(0.2), Linear(num_classes)])

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.flatten(self.avgpool(self.features(x))))


def efficientnet_b0(
    num_classes: int = 1000, input_shape: Sequence[int] = (3, 224, 224), batch: int = 1, seed: int = 0
) -> Graph:
    """EfficientNet-B0: 5,288,548 parameters for 1000 classes."""
    return EfficientNet(num_classes).graph(Input(input_shape, batch=batch, seed=seed), name="efficientnet_b0")
