"""ResNet (He, Zhang, Ren, Sun 2015), stride in the 3x3 convolution as torchvision has it; ResNeXt (Xie et al. 2017)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

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


def conv(
    channels: int, kernel: int, stride: int = 1, dilation: int = 1, groups: int = 1, gain: float | None = None
) -> Conv2d:
    padding = kernel // 2 * dilation
    return Conv2d(channels, kernel, stride, padding, dilation, groups, bias=False, init_gain=gain)


class BasicBlock(Block):
    expansion = 1

    def __init__(self, channels: int, stride: int, dilation: int, downsample: Sequential | None) -> None:
        super().__init__()
        self.conv1 = conv(channels, 3, stride, dilation)
        self.bn1 = BatchNorm2d()
        self.relu = ReLU()
        self.conv2 = conv(channels, 3, dilation=dilation)
        self.bn2 = BatchNorm2d(init_gain=BRANCH_GAIN)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        skip = self.downsample(x) if self.downsample else x
        return self.relu(y + skip)


class Bottleneck(Block):
    """1x1, 3x3 (in groups, whose width is given for the 64 channels of the first stage), 1x1."""

    expansion = 4

    def __init__(
        self,
        channels: int,
        stride: int,
        dilation: int,
        downsample: Sequential | None,
        groups: int = 1,
        group_width: int = 64,
    ) -> None:
        super().__init__()
        width = channels * group_width // 64 * groups
        self.conv1 = conv(width, 1)
        self.bn1 = BatchNorm2d()
        self.conv2 = conv(width, 3, stride, dilation, groups)
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


class Features(Block):
    """The stem and the four stages. A stage in `dilated` (of the last three) widens its kernels instead of striding."""

    def __init__(
        self,
        block: Callable[[int, int, int, Sequential | None], Block],
        expansion: int,
        depths: Sequence[int],
        dilated: Sequence[bool] = (False, False, False),
    ) -> None:
        super().__init__()
        self.conv1 = conv(64, 7, 2)
        self.bn1 = BatchNorm2d()
        self.relu = ReLU()
        self.maxpool = MaxPool2d(3, 2, padding=1)
        self._block, self._expansion = block, expansion
        self._inplanes, self._dilation = 64, 1
        self.layer1 = self._stage(64, depths[0], 1)
        self.layer2 = self._stage(128, depths[1], 2, dilated[0])
        self.layer3 = self._stage(256, depths[2], 2, dilated[1])
        self.layer4 = self._stage(512, depths[3], 2, dilated[2])

    def _stage(self, channels: int, depth: int, stride: int, dilated: bool = False) -> Sequential:
        wide, first = channels * self._expansion, self._dilation
        if dilated:
            self._dilation, stride = self._dilation * stride, 1
        downsample = None
        if stride != 1 or self._inplanes != wide:
            downsample = Sequential([conv(wide, 1, stride, gain=1.0), BatchNorm2d()])
        self._inplanes = wide
        rest = (self._block(channels, 1, self._dilation, None) for _ in range(depth - 1))
        return Sequential([self._block(channels, stride, first, downsample), *rest])

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        return self.layer4(self.layer3(self.layer2(self.layer1(x))))


class ResNet(Features):
    def __init__(
        self,
        block: Callable[[int, int, int, Sequential | None], Block],
        expansion: int,
        depths: Sequence[int],
        num_classes: int,
    ) -> None:
        super().__init__(block, expansion, depths)
        self.avgpool = AdaptiveAvgPool2d(1)
        self.flatten = Flatten()
        self.fc = Linear(num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.flatten(self.avgpool(super().forward(x))))


def resnet18(
    num_classes: int = 1000, input_shape: Sequence[int] = (3, 224, 224), batch: int = 1, seed: int = 0
) -> Graph:
    """ResNet-18: 11,689,512 parameters for 1000 classes."""
    net = ResNet(BasicBlock, BasicBlock.expansion, (2, 2, 2, 2), num_classes)
    return net.graph(Input(input_shape, batch=batch, seed=seed), name="resnet18")


def resnet50(
    num_classes: int = 1000, input_shape: Sequence[int] = (3, 224, 224), batch: int = 1, seed: int = 0
) -> Graph:
    """ResNet-50: 25,557,032 parameters for 1000 classes."""
    net = ResNet(Bottleneck, Bottleneck.expansion, (3, 4, 6, 3), num_classes)
    return net.graph(Input(input_shape, batch=batch, seed=seed), name="resnet50")


def resnext50_32x4d(
    num_classes: int = 1000, input_shape: Sequence[int] = (3, 224, 224), batch: int = 1, seed: int = 0
) -> Graph:
    """ResNeXt-50 with 32 groups of 4 channels: 25,028,904 parameters for 1000 classes."""
    block = partial(Bottleneck, groups=32, group_width=4)
    net = ResNet(block, Bottleneck.expansion, (3, 4, 6, 3), num_classes)
    return net.graph(Input(input_shape, batch=batch, seed=seed), name="resnext50_32x4d")
