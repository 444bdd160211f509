"""Convolutions and transposed convolutions over one, two and three spatial axes."""

from __future__ import annotations

from typing import ClassVar

import numpy.typing as npt

from glulam.compiler import ops
from glulam.compiler.errors import ShapeError
from glulam.frontends.layers.arguments import (
    Extents,
    Pads,
    bias_argument,
    choice,
    extents,
    integer,
    padding_argument,
    real,
    resolve_padding,
)
from glulam.frontends.layers.initial import he, uniform
from glulam.frontends.layers.module import Layer
from glulam.frontends.layers.tensor import Parameter, Tensor, apply, require_rank

# PyTorch's padding_mode -> the Pad operator's mode
PADDING_MODES = {"zeros": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}
BIAS = uniform(-0.1, 0.1)


class _ConvNd(Layer):
    """What all convolutions share: checked arguments, channel inference, weight and bias."""

    spatial: ClassVar[int]
    inferred = "in_channels"

    def __init__(
        self,
        out_channels: int,
        kernel_size: Extents,
        stride: Extents,
        dilation: Extents,
        groups: int,
        bias: bool | npt.ArrayLike,
        weight: npt.ArrayLike | None,
        init_gain: float | None,
        name: str | None,
    ) -> None:
        super().__init__(name)
        label = type(self).__name__
        self.out_channels = integer(out_channels, f"{label}: out_channels", low=1)
        self.kernel_size = extents(kernel_size, self.spatial, f"{label}: kernel_size")
        self.stride = extents(stride, self.spatial, f"{label}: stride")
        self.dilation = extents(dilation, self.spatial, f"{label}: dilation")
        self.groups = integer(groups, f"{label}: groups", low=1)
        if self.out_channels % self.groups:
            raise ShapeError(f"{label}: {self.out_channels} output channels do not divide into {self.groups} groups")
        self.has_bias, self._given_bias = bias_argument(bias, label, self.inferred)
        self._given_weight = weight
        self.init_gain = None if init_gain is None else real(init_gain, f"{label}: init_gain", low=0.0)

    def in_channels(self, x: Tensor) -> int:
        label = type(self).__name__
        require_rank(x, self.spatial + 2, label)
        if x.shape[1] % self.groups:
            raise ShapeError(
                f"{label}: {x.shape[1]} input channels of {x.name!r} do not divide into {self.groups} groups"
            )
        return x.shape[1]

    def bias(self, x: Tensor) -> Parameter | None:
        if not self.has_bias:
            return None
        return self.parameter("bias", (self.out_channels,), self._given_bias, BIAS, x)


class _Conv(_ConvNd):
    """Convolution (cross-correlation) of [N, C, *spatial] with a weight of [out_channels, C / groups, *kernel_size].

    PyTorch's first argument, in_channels, is inferred from the input and left out: out_channels comes first.
    padding: an integer, one per axis, ((before, after), ...) per axis, "same" (ceil(extent / stride) outputs, an odd
    pad goes behind), "same_lower" (in front) or "valid". bias: whether there is one, or its array. weight: an array.
    init_gain: the drawn weight has variance init_gain / fan_in; None for what suits data after a ReLU.
    """

    def __init__(
        self,
        out_channels: int,
        kernel_size: Extents,
        stride: Extents = 1,
        padding: Extents | str | tuple[tuple[int, int], ...] = 0,
        dilation: Extents = 1,
        groups: int = 1,
        bias: bool | npt.ArrayLike = True,
        padding_mode: str = "zeros",
        *,
        weight: npt.ArrayLike | None = None,
        init_gain: float | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(out_channels, kernel_size, stride, dilation, groups, bias, weight, init_gain, name)
        label = type(self).__name__
        self.padding = padding_argument(padding, self.spatial, f"{label}: padding")
        self.padding_mode = choice(padding_mode, PADDING_MODES, f"{label}: padding_mode")

    def forward(self, x: Tensor) -> Tensor:
        channels = self.in_channels(x) // self.groups
        pads = resolve_padding(self.padding, x.shape[2:], self.kernel_size, self.stride, self.dilation)
        self._check_reach(x, pads)
        shape = (self.out_channels, channels, *self.kernel_size)
        fan_in = channels
        for extent in self.kernel_size:
            fan_in *= extent
        weight = self.parameter("weight", shape, self._given_weight, he(fan_in, self.init_gain), x)
        bias = self.bias(x)
        if self.padding_mode != "zeros":
            mode = PADDING_MODES[self.padding_mode]
            x = apply(ops.Pad(((0, 0), (0, 0), *pads), mode, 0.0), x, name=f"{self.path(x.scope)}.pad")
            pads = ((0, 0),) * self.spatial
        op = ops.Conv(self.stride, pads, self.dilation, self.groups)
        return apply(op, x, weight, bias, name=self.path(x.scope))

    def _check_reach(self, x: Tensor, pads: Pads) -> None:
        """Raises ShapeError if the kernel is larger than the input, as it is by one argument too many in front."""
        reach = tuple((k - 1) * d + 1 for k, d in zip(self.kernel_size, self.dilation, strict=True))
        padded = tuple(extent + before + after for extent, (before, after) in zip(x.shape[2:], pads, strict=True))
        if any(kernel > extent for kernel, extent in zip(reach, padded, strict=True)):
            raise ShapeError(
                f"{type(self).__name__} {self.path(x.scope)!r}: the kernel reaches over {reach}, more than the "
                f"padded extents {padded} of {x.name!r} ({self.inferred} is inferred: leave it out)"
            )


class Conv1d(_Conv):
    __doc__ = _Conv.__doc__
    spatial = 1


class Conv2d(_Conv):
    __doc__ = _Conv.__doc__
    spatial = 2


class Conv3d(_Conv):
    __doc__ = _Conv.__doc__
    spatial = 3


class _ConvTranspose(_ConvNd):
    """Transposed convolution of [N, C, *spatial] with a weight of [C, out_channels / groups, *kernel_size].

    PyTorch's first argument, in_channels, is inferred from the input and left out: out_channels comes first.
    The output extent is (extent - 1) stride - before - after + dilation (kernel - 1) + output_padding + 1.
    """

    def __init__(
        self,
        out_channels: int,
        kernel_size: Extents,
        stride: Extents = 1,
        padding: Extents | tuple[tuple[int, int], ...] = 0,
        output_padding: Extents = 0,
        groups: int = 1,
        bias: bool | npt.ArrayLike = True,
        dilation: Extents = 1,
        *,
        weight: npt.ArrayLike | None = None,
        init_gain: float | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(out_channels, kernel_size, stride, dilation, groups, bias, weight, init_gain, name)
        label = type(self).__name__
        pads = padding_argument(padding, self.spatial, f"{label}: padding")
        if isinstance(pads, str):
            raise ShapeError(f"{label}: padding {pads!r} has no meaning for a transposed convolution; give numbers")
        self.padding = pads
        self.output_padding = extents(output_padding, self.spatial, f"{label}: output_padding", low=0)
        for extra, stride_, dilation_ in zip(self.output_padding, self.stride, self.dilation, strict=True):
            if extra >= max(stride_, dilation_):
                raise ShapeError(f"{label}: output_padding {extra} must be smaller than stride or dilation")

    def forward(self, x: Tensor) -> Tensor:
        channels = self.in_channels(x)
        shape = (channels, self.out_channels // self.groups, *self.kernel_size)
        # each output element receives about kernel / stride products per input channel of its group
        fan_in = float(channels // self.groups)
        for extent, step in zip(self.kernel_size, self.stride, strict=True):
            fan_in *= max(extent / step, 1.0)
        weight = self.parameter(
            "weight", shape, self._given_weight, he(round(fan_in), self.init_gain, centered=False), x
        )
        op = ops.ConvTranspose(self.stride, self.padding, self.dilation, self.output_padding, self.groups)
        return apply(op, x, weight, self.bias(x), name=self.path(x.scope))


class ConvTranspose1d(_ConvTranspose):
    __doc__ = _ConvTranspose.__doc__
    spatial = 1


class ConvTranspose2d(_ConvTranspose):
    __doc__ = _ConvTranspose.__doc__
    spatial = 2


class ConvTranspose3d(_ConvTranspose):
    __doc__ = _ConvTranspose.__doc__
    spatial = 3
