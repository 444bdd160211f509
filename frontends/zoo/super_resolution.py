"""Super-resolution by sub-pixel convolution (ESPCN: Shi et al. 2016), with PReLU as in FSRCNN (Dong et al. 2016)."""

from __future__ import annotations

from collections.abc import Sequence

from glulam.compiler.graph.graph import Graph
from glulam.frontends.layers import Block, Conv2d, Input, PixelShuffle, PReLU, Tensor


class SuperResolution(Block):
    """Four convolutions at the size of the input; the last one computes all pixels that one becomes."""

    def __init__(self, channels: int, factor: int) -> None:
        super().__init__()
        self.conv1 = Conv2d(64, 5, padding=2)
        self.relu1 = PReLU(64)
        self.conv2 = Conv2d(64, 3, padding=1)
        self.relu2 = PReLU(64)
        self.conv3 = Conv2d(32, 3, padding=1)
        self.relu3 = PReLU(32)
        self.conv4 = Conv2d(channels * factor**2, 3, padding=1)
        self.pixel_shuffle = PixelShuffle(factor)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu1(self.conv1(x))
        x = self.relu2(self.conv2(x))
        x = self.relu3(self.conv3(x))
        return self.pixel_shuffle(self.conv4(x))


def super_resolution(
    factor: int = 3, input_shape: Sequence[int] = (1, 224, 224), batch: int = 1, seed: int = 0
) -> Graph:
    """An image `factor` times as high and wide: 59,817 parameters for a factor of 3 and one channel."""
    net = SuperResolution(input_shape[0], factor)
    return net.graph(Input(input_shape, batch=batch, seed=seed), name="super_resolution")
