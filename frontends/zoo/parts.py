"""Parts that several networks share, named as torchvision's `ops.misc` names them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from glulam.frontends.layers import (
    AdaptiveAvgPool2d,
    BatchNorm2d,
    Block,
    Conv2d,
    Module,
    ReLU,
    Sequential,
    Sigmoid,
    Tensor,
)

# The drawn variance times fan-in that keeps the scale of what a convolution reads: the linear output of a block,
# and the same after squeeze-and-excitation, which halves the amplitude.
LINEAR_GAIN = 1.0
EXCITED_GAIN = 9.0
# A depthwise convolution that reads what SiLU or hard swish leaves of unit-variance data.
SWISH_GAIN = 2.4
# Residual branches are drawn small, so that the sum over a deep stack keeps its scale.
BRANCH_GAIN = 0.5


class ConvNorm(Sequential):
    """Convolution without bias, batch norm, and an activation (None for none); "same" padding for odd kernels."""

    def __init__(
        self,
        channels: int,
        kernel: int | Sequence[int],
        stride: int = 1,
        groups: int = 1,
        activation: Callable[[], Module] | None = ReLU,
        *,
        dilation: int = 1,
        eps: float = 1e-5,
        gain: float | None = None,
        norm_gain: float = 1.0,
    ) -> None:
        sides = (kernel, kernel) if isinstance(kernel, int) else tuple(kernel)
        padding = tuple((side - 1) // 2 * dilation for side in sides)
        convolution = Conv2d(channels, sides, stride, padding, dilation, groups, bias=False, init_gain=gain)
        norm = BatchNorm2d(eps, init_gain=norm_gain)
        super().__init__([convolution, norm, *([activation()] if activation else [])])


class SqueezeExcitation(Block):
    """Each channel times a gate computed from all channels' means (Hu, Shen, Sun 2018)."""

    def __init__(
        self,
        channels: int,
        squeezed: int,
        activation: Callable[[], Module] = ReLU,
        scale_activation: Callable[[], Module] = Sigmoid,
    ) -> None:
        super().__init__()
        self.avgpool = AdaptiveAvgPool2d(1)
        self.fc1 = Conv2d(squeezed, 1)
        self.fc2 = Conv2d(channels, 1)
        self.activation = activation()
        self.scale_activation = scale_activation()

    def forward(self, x: Tensor) -> Tensor:
        gate = self.fc2(self.activation(self.fc1(self.avgpool(x))))
        return self.scale_activation(gate) * x


def divisible(value: float, divisor: int = 8) -> int:
    """The nearest multiple of the divisor, not below 90 % of the value."""
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * value else rounded
