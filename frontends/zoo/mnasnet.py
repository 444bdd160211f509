"""MNASNet-B1 (Tan et al. 2019)."""

from __future__ import annotations

from collections.abc import Sequence

from glulam.compiler.graph.graph import Graph
from glulam.frontends.layers import BatchNorm2d, Block, Conv2d, Dropout, Input, Linear, Mean, ReLU, Sequential, Tensor
from glulam.frontends.layers.module import Module
from glulam.frontends.zoo.parts import BRANCH_GAIN, LINEAR_GAIN

# expansion, kernel, stride of the first, output channels, repeats
STAGES = (
    (3, 3, 2, 24, 3),
    (3, 5, 2, 40, 3),
    (6, 5, 2, 80, 3),
    (6, 3, 1, 96, 2),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)


def conv(channels: int, kernel: int, stride: int = 1, groups: int = 1, gain: float | None = None) -> list[Module]:
    """Convolution, batch norm, ReLU; in one row with what comes before, as torchvision counts them."""
    padding = kernel // 2
    convolution = Conv2d(channels, kernel, stride, padding, groups=groups, bias=False, init_gain=gain)
    return [convolution, BatchNorm2d(), ReLU()]


class InvertedResidual(Block):
    """1x1 expansion, depthwise, linear 1x1 projection; the input is added where the shapes agree."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.residual = stride == 1 and inputs == outputs
        self.layers = Sequential(
            [
                *conv(hidden, 1, gain=LINEAR_GAIN),
                *conv(hidden, kernel, stride, hidden),
                Conv2d(outputs, 1, bias=False),
                BatchNorm2d(init_gain=BRANCH_GAIN if self.residual else 1.0),
            ]
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.layers(x)
        return y + x if self.residual else y


def _stage(inputs: int, expansion: int, kernel: int, stride: int, outputs: int, repeats: int) -> Sequential:
    rest = (InvertedResidual(outputs, outputs, kernel, 1, expansion) for _ in range(repeats - 1))
    return Sequential([InvertedResidual(inputs, outputs, kernel, stride, expansion), *rest])


class MNASNet(Block):
    def __init__(self, num_classes: int) -> None:
        super().__init__()
        inputs = [16, *(stage[3] for stage in STAGES)]
        self.layers = Sequential(
            [
                *conv(32, 3, 2),
                *conv(32, 3, groups=32),
                Conv2d(16, 1, bias=False),
                BatchNorm2d(),
                *(_stage(before, *stage) for before, stage in zip(inputs, STAGES, strict=False)),
                *conv(1280, 1, gain=LINEAR_GAIN),
            ]
        )
        self.mean = Mean((2, 3))
        self.classifier = Sequential([Dropout(0.2), Linear(num_classes)])

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.mean(self.layers(x)))


def mnasnet1_0(
    num_classes: int = 1000, input_shape: Sequence[int] = (3, 224, 224), batch: int = 1, seed: int = 0
) -> Graph:
    """MNASNet, depth multiplier 1.0: 4,383,312 parameters for 1000 classes."""
    return MNASNet(num_classes).graph(Input(input_shape, batch=batch, seed=seed), name="mnasnet1_0")
