"""SqueezeNet 1.1 (Iandola et al. 2016)."""

from __future__ import annotations

from collections.abc import Sequence

from glulam.compiler.graph.graph import Graph
from glulam.frontends.layers import (
    AdaptiveAvgPool2d,
    Block,
    Concat,
    Conv2d,
    Dropout,
    Flatten,
    Input,
    MaxPool2d,
    ReLU,
    Sequential,
    Tensor,
)


class Fire(Block):
    """A 1x1 squeeze, then 1x1 and 3x3 expansions side by side."""

    def __init__(self, squeezed: int, expanded: int) -> None:
        super().__init__()
        self.squeeze = Conv2d(squeezed, 1)
        self.squeeze_activation = ReLU()
        self.expand1x1 = Conv2d(expanded, 1)
        self.expand1x1_activation = ReLU()
        self.expand3x3 = Conv2d(expanded, 3, padding=1)
        self.expand3x3_activation = ReLU()
        self.concat = Concat()

    def forward(self, x: Tensor) -> Tensor:
        x = self.squeeze_activation(self.squeeze(x))
        return self.concat(self.expand1x1_activation(self.expand1x1(x)), self.expand3x3_activation(self.expand3x3(x)))


class SqueezeNet(Block):
    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.features = Sequential(
            [
                Conv2d(64, 3, stride=2),
                ReLU(),
                MaxPool2d(3, 2, ceil_mode=True),
                Fire(16, 64),
                Fire(16, 64),
                MaxPool2d(3, 2, ceil_mode=True),
                Fire(32, 128),
                Fire(32, 128),
                MaxPool2d(3, 2, ceil_mode=True),
                Fire(48, 192),
                Fire(48, 192),
                Fire(64, 256),
                Fire(64, 256),
            ]
        )
        self.classifier = Sequential([Dropout(), Conv2d(num_classes, 1), ReLU(), AdaptiveAvgPool2d(1)])
        self.flatten = Flatten()

    def forward(self, x: Tensor) -> Tensor:
        return self.flatten(self.classifier(self.features(x)))


def squeezenet1_1(
    num_classes: int = 1000, input_shape: Sequence[int] = (3, 224, 224), batch: int = 1, seed: int = 0
) -> Graph:
    """SqueezeNet 1.1: 1,235,496 parameters for 1000 classes."""
    return SqueezeNet(num_classes).graph(Input(input_shape, batch=batch, seed=seed), name="squeezenet1_1")
