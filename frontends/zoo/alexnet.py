"""AlexNet in one column (Krizhevsky 2014, "One weird trick")."""

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
    ReLU,
    Sequential,
    Tensor,
)


class AlexNet(Block):
    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.features = Sequential(
            [
                Conv2d(64, 11, 4, padding=2),
                ReLU(),
                MaxPool2d(3, 2),
                Conv2d(192, 5, padding=2),
                ReLU(),
                MaxPool2d(3, 2),
                Conv2d(384, 3, padding=1),
                ReLU(),
                Conv2d(256, 3, padding=1),
                ReLU(),
                Conv2d(256, 3, padding=1),
                ReLU(),
                MaxPool2d(3, 2),
            ]
        )
        self.avgpool = AdaptiveAvgPool2d(6)
        self.flatten = Flatten()
        self.classifier = Sequential(
            [Dropout(), Linear(4096), ReLU(), Dropout(), Linear(4096), ReLU(), Linear(num_classes)]
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.flatten(self.avgpool(self.features(x))))


def alexnet(
    num_classes: int = 1000, input_shape: Sequence[int] = (3, 224, 224), batch: int = 1, seed: int = 0
) -> Graph:
    """AlexNet: 61,100,840 parameters for 1000 classes."""
    return AlexNet(num_classes).graph(Input(input_shape, batch=batch, seed=seed), name="alexnet")
