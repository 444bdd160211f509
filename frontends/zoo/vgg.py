"""VGG (Simonyan, Zisserman 2014)."""

from __future__ import annotations

from collections.abc import Sequence

from glulam.compiler.graph.graph import Graph
from glulam.frontends.layers import (
    AdaptiveAvgPool2d,
    Block,
    Conv2d,
    Dropout,
    Flatten,
    Input,
    Linear,
    MaxPool2d,
    Module,
    ReLU,
    Sequential,
    Tensor,
)

# output channels of each 3x3 convolution; 0 is a max pool
VGG16 = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0)


class VGG(Block):
    def __init__(self, plan: Sequence[int], num_classes: int) -> None:
        super().__init__()
        features: list[Module] = []
        for channels in plan:
            features += [Conv2d(channels, 3, padding=1), ReLU()] if channels else [MaxPool2d(2, 2)]
        self.features = Sequential(features)
        self.avgpool = AdaptiveAvgPool2d(7)
        self.flatten = Flatten()
        self.classifier = Sequential(
            [Linear(4096), ReLU(), Dropout(), Linear(4096), ReLU(), Dropout(), Linear(num_classes)]
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.flatten(self.avgpool(self.features(x))))


def vgg16(num_classes: int = 1000, input_shape: Sequence[int] = (3, 224, 224), batch: int = 1, seed: int = 0) -> Graph:
    """VGG-16 without batch norm: 138,357,544 parameters for 1000 classes."""
    return VGG(VGG16, num_classes).graph(Input(input_shape, batch=batch, seed=seed), name="vgg16")
