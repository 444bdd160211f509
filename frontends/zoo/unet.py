"""U-Net (Ronneberger, Fischer, Brox 2015), with padded convolutions, so that the mask has the image's size."""

from __future__ import annotations

from collections.abc import Sequence

from glulam.compiler.errors import ShapeError
from glulam.compiler.graph.graph import Graph
from glulam.frontends.layers import (
    BatchNorm2d,
    Block,
    Concat,
    Conv2d,
    ConvTranspose2d,
    Input,
    MaxPool2d,
    ReLU,
    Sequential,
    Tensor,
)

LEVELS = 4


class DoubleConv(Block):
    """Twice: 3x3 convolution, batch norm, ReLU."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.double_conv = Sequential(
            [
                Conv2d(channels, 3, padding=1, bias=False),
                BatchNorm2d(),
                ReLU(),
                Conv2d(channels, 3, padding=1, bias=False),
                BatchNorm2d(),
                ReLU(),
            ]
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.double_conv(x)


class Up(Block):
    """A transposed convolution doubles the size, the skip comes in front, and both are convolved."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.up = ConvTranspose2d(channels, 2, stride=2)
        self.concat = Concat()
        self.conv = DoubleConv(channels)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        return self.conv(self.concat(skip, self.up(x)))


class UNet(Block):
    def __init__(self, num_classes: int, base: int) -> None:
        super().__init__()
        self.inc = DoubleConv(base)
        self.down1 = Sequential([MaxPool2d(2), DoubleConv(base * 2)])
        self.down2 = Sequential([MaxPool2d(2), DoubleConv(base * 4)])
        self.down3 = Sequential([MaxPool2d(2), DoubleConv(base * 8)])
        self.down4 = Sequential([MaxPool2d(2), DoubleConv(base * 16)])
        self.up1 = Up(base * 8)
        self.up2 = Up(base * 4)
        self.up3 = Up(base * 2)
        self.up4 = Up(base)
        self.outc = Conv2d(num_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        x1 = self.inc(x)
        x2 = self.down1(x1)
        x3 = self.down2(x2)
        x4 = self.down3(x3)
        y = self.up1(self.down4(x4), x4)
        y = self.up4(self.up3(self.up2(y, x3), x2), x1)
        return self.outc(y)


def unet(
    num_classes: int = 2,
    input_shape: Sequence[int] = (3, 256, 256),
    batch: int = 1,
    seed: int = 0,
    base: int = 64,
) -> Graph:
    """U-Net with `base` channels at full size: 31,037,698 parameters for 64. Raises ShapeError for odd extents."""
    if any(extent % 2**LEVELS for extent in input_shape[1:]):
        raise ShapeError(f"unet: the extents {tuple(input_shape[1:])} must be multiples of {2**LEVELS}")
    return UNet(num_classes, base).graph(Input(input_shape, batch=batch, seed=seed), name="unet")
