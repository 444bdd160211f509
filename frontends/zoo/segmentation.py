"""Segmentation: FCN (Long, Shelhamer, Darrell 2015), LR-ASPP (Howard et al. 2019); class maps of the input size."""

from __future__ import annotations

from collections.abc import Sequence

from glulam.compiler.graph.graph import Graph
from glulam.frontends.layers import (
    AdaptiveAvgPool2d,
    BatchNorm2d,
    Block,
    Conv2d,
    Dropout,
    Input,
    ReLU,
    Sequential,
    Sigmoid,
    Tensor,
    Upsample,
)
from glulam.frontends.zoo.mobilenet_v3 import features
from glulam.frontends.zoo.parts import EXCITED_GAIN, LINEAR_GAIN
from glulam.frontends.zoo.resnet import Bottleneck, Features

LOW = 4  # the part of MobileNet v3 that ends at an eighth of the input's size


class FCNHead(Sequential):
    """3x3 convolution to a quarter of the channels, then a map of each class."""

    def __init__(self, channels: int, num_classes: int) -> None:
        narrow = Conv2d(channels // 4, 3, padding=1, bias=False)
        super().__init__([narrow, BatchNorm2d(), ReLU(), Dropout(0.1), Conv2d(num_classes, 1)])


class FCN(Block):
    """ResNet-50 whose last two stages are dilated, so that maps have an eighth of the input's size."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.backbone = Features(Bottleneck, Bottleneck.expansion, (3, 4, 6, 3), (False, True, True))
        self.classifier = FCNHead(2048, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        y = self.classifier(self.backbone(x))
        return Upsample(x.shape[2:], mode="bilinear", name="resize")(y)


class LRASPPHead(Block):
    """The deep features gated by their mean, upsampled to the shallow ones; class maps of both are added."""

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.cbr = Sequential([Conv2d(channels, 1, bias=False), BatchNorm2d(), ReLU()])
        self.scale = Sequential([AdaptiveAvgPool2d(1), Conv2d(channels, 1, bias=False), Sigmoid()])
        self.low_classifier = Conv2d(num_classes, 1, init_gain=LINEAR_GAIN)
        self.high_classifier = Conv2d(num_classes, 1, init_gain=EXCITED_GAIN)

    def forward(self, low: Tensor, high: Tensor) -> Tensor:
        gated = self.cbr(high) * self.scale(high)
        wide = Upsample(low.shape[2:], mode="bilinear", name="classifier.resize")(gated)
        return self.low_classifier(low) + self.high_classifier(wide)


class LRASPP(Block):
    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.backbone = features(dilated=True)
        self.classifier = LRASPPHead(128, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        low = high = x
        for number, part in enumerate(self.backbone):
            high = part(high)
            low = high if number == LOW else low
        return Upsample(x.shape[2:], mode="bilinear", name="resize")(self.classifier(low, high))


def fcn_resnet50(
    num_classes: int = 21, input_shape: Sequence[int] = (3, 224, 224), batch: int = 1, seed: int = 0
) -> Graph:
    """FCN on ResNet-50, without the auxiliary head: 32,957,013 parameters for 21 classes."""
    return FCN(num_classes).graph(Input(input_shape, batch=batch, seed=seed), name="fcn_resnet50")


def lraspp_mobilenet_v3_large(
    num_classes: int = 21, input_shape: Sequence[int] = (3, 224, 224), batch: int = 1, seed: int = 0
) -> Graph:
    """LR-ASPP on a dilated MobileNet v3: 3,221,538 parameters for 21 classes."""
    net = LRASPP(num_classes)
    return net.graph(Input(input_shape, batch=batch, seed=seed), name="lraspp_mobilenet_v3_large")
