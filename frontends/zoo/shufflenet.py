"""ShuffleNet v2 x1.0 (Ma, Zhang, Zheng, Sun 2018)."""

from __future__ import annotations

from collections.abc import Sequence

from glulam.compiler.graph.graph import Graph
from glulam.frontends.layers import (
    BatchNorm2d,
    Block,
    ChannelShuffle,
    Concat,
    Conv2d,
    Input,
    Linear,
    MaxPool2d,
    Mean,
    Module,
    ReLU,
    Sequential,
    Split,
    Tensor,
)
from glulam.frontends.zoo.parts import LINEAR_GAIN, ConvNorm


def _depthwise(channels: int, stride: int) -> list[Module]:
    return [Conv2d(channels, 3, stride, 1, groups=channels, bias=False), BatchNorm2d()]


def _pointwise(channels: int, gain: float | None = None) -> list[Module]:
    return [Conv2d(channels, 1, bias=False, init_gain=gain), BatchNorm2d(), ReLU()]


class InvertedResidual(Block):
    """Half of the channels pass; the other half is convolved. With stride 2 both halves read all channels."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        half = outputs // 2
        self.halves = None if stride > 1 else Split(half)
        if stride > 1:
            self.branch1 = Sequential([*_depthwise(inputs, stride), *_pointwise(half, LINEAR_GAIN)])
        self.branch2 = Sequential([*_pointwise(half), *_depthwise(half, stride), *_pointwise(half, LINEAR_GAIN)])
        self.concat = Concat()
        self.shuffle = ChannelShuffle(2)

    def forward(self, x: Tensor) -> Tensor:
        if self.halves is None:
            return self.shuffle(self.concat(self.branch1(x), self.branch2(x)))
        kept, read = self.halves(x)
        return self.shuffle(self.concat(kept, self.branch2(read)))


class ShuffleNetV2(Block):
    def __init__(self, repeats: Sequence[int], channels: Sequence[int], num_classes: int) -> None:
        super().__init__()
        inputs, *stages, last = channels
        self.conv1 = ConvNorm(inputs, 3, 2)
        self.maxpool = MaxPool2d(3, 2, padding=1)
        for index, (depth, outputs) in enumerate(zip(repeats, stages, strict=True), start=2):
            blocks = [InvertedResidual(inputs, outputs, 2)]
            blocks += [InvertedResidual(outputs, outputs, 1) for _ in range(depth - 1)]
            self.add(f"stage{index}", Sequential(blocks))
            inputs = outputs
        self.conv5 = ConvNorm(last, 1)
        self.mean = Mean((2, 3))
        self.fc = Linear(num_classes)
        self._stages = [self._children[f"stage{index}"] for index in range(2, 2 + len(repeats))]

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.conv1(x))
        for stage in self._stages:
            x = stage(x)
        return self.fc(self.mean(self.conv5(x)))


def shufflenet_v2_x1_0(
    num_classes: int = 1000, input_shape: Sequence[int] = (3, 224, 224), batch: int = 1, seed: int = 0
) -> Graph:
    """ShuffleNet v2, width 1: 2,278,604 parameters for 1000 classes."""
    net = ShuffleNetV2((4, 8, 4), (24, 116, 232, 464, 1024), num_classes)
    return net.graph(Input(input_shape, batch=batch, seed=seed), name="shufflenet_v2_x1_0")
