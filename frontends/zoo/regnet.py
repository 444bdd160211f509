"""RegNet-Y (Radosavovic et al. 2020): residual bottlenecks of grouped convolutions with squeeze-and-excitation."""

from __future__ import annotations

from collections.abc import Sequence

from glulam.compiler.graph.graph import Graph
from glulam.frontends.layers import AdaptiveAvgPool2d, Block, Flatten, Input, Linear, ReLU, Sequential, Tensor
from glulam.frontends.zoo.parts import BRANCH_GAIN, EXCITED_GAIN, LINEAR_GAIN, ConvNorm, SqueezeExcitation

STEM = 32
# channels and blocks of each stage, and the channels of a group: what the paper's rule gives for 800 MF
Y_800MF = ((64, 1), (144, 3), (320, 8), (784, 2))
GROUP_WIDTH = 16


class Transform(Sequential):
    """1x1, grouped 3x3, squeeze-and-excitation to a quarter of the block's inputs, linear 1x1."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__(
            {
                "a": ConvNorm(outputs, 1),
                "b": ConvNorm(outputs, 3, stride, outputs // GROUP_WIDTH),
                "se": SqueezeExcitation(outputs, round(inputs / 4)),
                "c": ConvNorm(outputs, 1, activation=None, gain=EXCITED_GAIN, norm_gain=BRANCH_GAIN),
            }
        )


class ResBottleneck(Block):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        changed = inputs != outputs or stride != 1
        self.proj = ConvNorm(outputs, 1, stride, activation=None, gain=LINEAR_GAIN) if changed else None
        self.f = Transform(inputs, outputs, stride)
        self.activation = ReLU()

    def forward(self, x: Tensor) -> Tensor:
        skip = self.proj(x) if self.proj else x
        return self.activation(skip + self.f(x))


class RegNet(Block):
    def __init__(self, stages: Sequence[tuple[int, int]], num_classes: int) -> None:
        super().__init__()
        self.stem = ConvNorm(STEM, 3, 2)
        trunk, inputs = {}, STEM
        for number, (outputs, depth) in enumerate(stages, 1):
            blocks = {}
            for i in range(depth):
                blocks[f"block{number}-{i}"] = ResBottleneck(inputs, outputs, 1 if i else 2)
                inputs = outputs
            trunk[f"block{number}"] = Sequential(blocks)
        self.trunk_output = Sequential(trunk)
        self.avgpool = AdaptiveAvgPool2d(1)
        self.flatten = Flatten()
        self.fc = Linear(num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.flatten(self.avgpool(self.trunk_output(self.stem(x)))))


def regnet_y_800mf(
    num_classes: int = 1000, input_shape: Sequence[int] = (3, 224, 224), batch: int = 1, seed: int = 0
) -> Graph:
    """RegNet-Y of 800 million multiply-accumulates: 6,432,512 parameters for 1000 classes."""
    return RegNet(Y_800MF, num_classes).graph(Input(input_shape, batch=batch, seed=seed), name="regnet_y_800mf")
