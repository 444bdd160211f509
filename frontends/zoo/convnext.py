"""ConvNeXt (Liu et al. 2022): depthwise 7x7, layer norm over the channels, two linear layers; NHWC inside a block."""

from __future__ import annotations

from collections.abc import Sequence

from glulam.compiler import ops
from glulam.compiler.graph.graph import Graph
from glulam.frontends.layers import (
    GELU,
    AdaptiveAvgPool2d,
    Block,
    Conv2d,
    Flatten,
    Input,
    LayerNorm,
    Linear,
    Permute,
    Sequential,
    Tensor,
)
from glulam.frontends.layers.initial import uniform
from glulam.frontends.layers.tensor import apply
from glulam.frontends.zoo.parts import LINEAR_GAIN

EPS = 1e-6
# channels and blocks of each stage
TINY = ((96, 3), (192, 3), (384, 9), (768, 3))


class LayerNorm2d(LayerNorm):
    """Over the channels of [N, C, H, W]."""

    def __init__(self) -> None:
        super().__init__(eps=EPS)

    def forward(self, x: Tensor) -> Tensor:
        path = self.path(x.scope)
        last = apply(ops.Transpose((0, 2, 3, 1)), x, name=f"{path}.last")
        return apply(ops.Transpose((0, 3, 1, 2)), super().forward(last), name=f"{path}.first")


class CNBlock(Block):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.block = Sequential(
            [
                Conv2d(channels, 7, padding=3, groups=channels, init_gain=LINEAR_GAIN),
                Permute(0, 2, 3, 1),
                LayerNorm(eps=EPS),
                Linear(4 * channels, init_gain=LINEAR_GAIN),
                GELU(),
                Linear(channels),
                Permute(0, 3, 1, 2),
            ]
        )

    def forward(self, x: Tensor) -> Tensor:
        # trained networks start with 1e-6 here; what training leaves is about this
        scale = self.parameter("layer_scale", (x.shape[1], 1, 1), None, uniform(0.1, 0.5), x)
        return apply(ops.Mul(), self.block(x), scale, name=f"{self.path(x.scope)}.scaled") + x


class ConvNeXt(Block):
    def __init__(self, stages: Sequence[tuple[int, int]], num_classes: int) -> None:
        super().__init__()
        stem = Sequential([Conv2d(stages[0][0], 4, 4, init_gain=LINEAR_GAIN), LayerNorm2d()])
        features = [stem, Sequential([CNBlock(stages[0][0]) for _ in range(stages[0][1])])]
        for channels, depth in stages[1:]:
            features.append(Sequential([LayerNorm2d(), Conv2d(channels, 2, 2, init_gain=LINEAR_GAIN)]))
            features.append(Sequential([CNBlock(channels) for _ in range(depth)]))
        self.features = Sequential(features)
        self.avgpool = AdaptiveAvgPool2d(1)
        self.classifier = Sequential([LayerNorm2d(), Flatten(), Linear(num_classes, init_gain=LINEAR_GAIN)])

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.avgpool(self.features(x)))


def convnext_tiny(
    num_classes: int = 1000, input_shape: Sequence[int] = (3, 224, 224), batch: int = 1, seed: int = 0
) -> Graph:
    """ConvNeXt-Tiny: 28,589,128 parameters for 1000 classes."""
    return ConvNeXt(TINY, num_classes).graph(Input(input_shape, batch=batch, seed=seed), name="convnext_tiny")
