"""MobileNet v3 (Howard et al. 2019)."""

from __future__ import annotations

from collections.abc import Sequence

from glulam.compiler.graph.graph import Graph
from glulam.frontends.layers import (
    AdaptiveAvgPool2d,
    Block,
    Dropout,
    Flatten,
    Hardsigmoid,
    Hardswish,
    Input,
    Linear,
    ReLU,
    Sequential,
    Tensor,
)
from glulam.frontends.zoo.parts import (
    BRANCH_GAIN,
    EXCITED_GAIN,
    LINEAR_GAIN,
    SWISH_GAIN,
    ConvNorm,
    SqueezeExcitation,
    divisible,
)

EPS = 1e-3
# input channels, kernel, expanded channels, output channels, squeeze-and-excitation, hard swish, stride
LARGE = (
    (16, 3, 16, 16, False, False, 1),
    (16, 3, 64, 24, False, False, 2),
    (24, 3, 72, 24, False, False, 1),
    (24, 5, 72, 40, True, False, 2),
    (40, 5, 120, 40, True, False, 1),
    (40, 5, 120, 40, True, False, 1),
    (40, 3, 240, 80, False, True, 2),
    (80, 3, 200, 80, False, True, 1),
    (80, 3, 184, 80, False, True, 1),
    (80, 3, 184, 80, False, True, 1),
    (80, 3, 480, 112, True, True, 1),
    (112, 3, 672, 112, True, True, 1),
    (112, 5, 672, 160, True, True, 2),
    (160, 5, 960, 160, True, True, 1),
    (160, 5, 960, 160, True, True, 1),
)


class InvertedResidual(Block):
    def __init__(
        self,
        inputs: int,
        kernel: int,
        expanded: int,
        outputs: int,
        excite: bool,
        swish: bool,
        stride: int,
        dilation: int = 1,
    ) -> None:
        super().__init__()
        self.residual = stride == 1 and inputs == outputs
        activation = Hardswish if swish else ReLU
        parts: list[Block] = []
        if expanded != inputs:
            parts.append(ConvNorm(expanded, 1, activation=activation, eps=EPS, gain=LINEAR_GAIN))
        depthwise_gain = SWISH_GAIN if swish else None
        step = 1 if dilation > 1 else stride
        depthwise = ConvNorm(
            expanded, kernel, step, expanded, activation, dilation=dilation, eps=EPS, gain=depthwise_gain
        )
        parts.append(depthwise)
        if excite:
            parts.append(SqueezeExcitation(expanded, divisible(expanded // 4), scale_activation=Hardsigmoid))
        gain = EXCITED_GAIN if excite else None
        norm_gain = BRANCH_GAIN if self.residual else 1.0
        parts.append(ConvNorm(outputs, 1, activation=None, eps=EPS, gain=gain, norm_gain=norm_gain))
        self.block = Sequential(parts)

    def forward(self, x: Tensor) -> Tensor:
        y = self.block(x)
        return y + x if self.residual else y


def features(dilated: bool = False) -> Sequential:
    """All before the pool. `dilated`: the last stage keeps the size of its input and spreads its kernels instead."""
    blocks = [InvertedResidual(*row, 2 if dilated and row[3] == 160 else 1) for row in LARGE]
    return Sequential(
        [
            ConvNorm(16, 3, 2, activation=Hardswish, eps=EPS),
            *blocks,
            ConvNorm(960, 1, activation=Hardswish, eps=EPS, gain=LINEAR_GAIN),
        ]
    )


class MobileNetV3(Block):
    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.features = features()
        self.avgpool = AdaptiveAvgPool2d(1)
        self.flatten = Flatten()
        self.classifier = Sequential([Linear(1280), Hardswish(), Dropout(0.2), Linear(num_classes)])

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.flatten(self.avgpool(self.features(x))))


def mobilenet_v3_large(
    num_classes: int = 1000, input_shape: Sequence[int] = (3, 224, 224), batch: int = 1, seed: int = 0
) -> Graph:
    """MobileNet v3, large: 5,483,032 parameters for 1000 classes."""
    return MobileNetV3(num_classes).graph(Input(input_shape, batch=batch, seed=seed), name="mobilenet_v3_large")
