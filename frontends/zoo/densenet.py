"""DenseNet (Huang, Liu, van der Maaten, Weinberger 2016)."""

from __future__ import annotations

from collections.abc import Sequence

from glulam.compiler.graph.graph import Graph
from glulam.frontends.layers import (
    AdaptiveAvgPool2d,
    AvgPool2d,
    BatchNorm2d,
    Block,
    Concat,
    Conv2d,
    Flatten,
    Input,
    Linear,
    MaxPool2d,
    Module,
    ReLU,
    Sequential,
    Tensor,
)

GROWTH = 32
BOTTLENECK = 4 * GROWTH


class DenseLayer(Block):
    """Norm, ReLU, 1x1, norm, ReLU, 3x3: GROWTH new channels from all channels so far."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1 = BatchNorm2d()
        self.relu1 = ReLU()
        self.conv1 = Conv2d(BOTTLENECK, 1, bias=False)
        self.norm2 = BatchNorm2d()
        self.relu2 = ReLU()
        self.conv2 = Conv2d(GROWTH, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(self.relu2(self.norm2(self.conv1(self.relu1(self.norm1(x))))))


class DenseBlock(Block):
    """Layers that each read the concatenation of the block's input and all layers before."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self._layers = [self.add(f"denselayer{i + 1}", DenseLayer()) for i in range(depth)]

    def forward(self, x: Tensor) -> Tensor:
        features = [x]
        for layer in self._layers:
            joined = features[0] if len(features) == 1 else Concat()(features)
            features.append(layer(joined))
        return Concat()(features)


class DenseNet(Block):
    def __init__(self, depths: Sequence[int], channels: int, num_classes: int) -> None:
        super().__init__()
        parts: dict[str, Module] = {
            "conv0": Conv2d(channels, 7, stride=2, padding=3, bias=False),
            "norm0": BatchNorm2d(),
            "relu0": ReLU(),
            "pool0": MaxPool2d(3, stride=2, padding=1),
        }
        for index, depth in enumerate(depths, start=1):
            parts[f"denseblock{index}"] = DenseBlock(depth)
            channels += depth * GROWTH
            if index < len(depths):
                channels //= 2
                parts[f"transition{index}"] = Sequential(
                    {
                        "norm": BatchNorm2d(),
                        "relu": ReLU(),
                        "conv": Conv2d(channels, 1, bias=False),
                        "pool": AvgPool2d(2, 2),
                    }
                )
        parts["norm5"] = BatchNorm2d()
        self.features = Sequential(parts)
        self.relu = ReLU()
        self.avgpool = AdaptiveAvgPool2d(1)
        self.flatten = Flatten()
        self.classifier = Linear(num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.flatten(self.avgpool(self.relu(self.features(x)))))


def densenet121(
    num_classes: int = 1000, input_shape: Sequence[int] = (3, 224, 224), batch: int = 1, seed: int = 0
) -> Graph:
    """DenseNet-121: 7,978,856 parameters for 1000 classes."""
    net = DenseNet((6, 12, 24, 16), 64, num_classes)
    return net.graph(Input(input_shape, batch=batch, seed=seed), name="densenet121")
