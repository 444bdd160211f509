"""A depthwise convolution and the 1x1 convolution that reads it as one op. A pass puts it in; no frontend does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from glulam.compiler.graph.graph import Graph
from glulam.compiler.graph.layout import Layout
from glulam.compiler.graph.op import Case, Op, Padding, Prefers, Trait
from glulam.compiler.graph.types import TensorType, f32
from glulam.compiler.kernels import conv_separable
from glulam.compiler.kernels.context import Context, Lowered
from glulam.compiler.kernels.operand import Operand
from glulam.compiler.ops.activation import Clip, HardSwish, Silu
from glulam.compiler.ops.conv import Conv
from glulam.compiler.ops.fused import FusedRegion
from glulam.compiler.ops.pointwise import Add
from glulam.compiler.ops.region_pair import RegionPair

_RELU6 = Clip(0.0, 6.0)


@dataclass(frozen=True)
class SeparableConv(RegionPair):
    """Two fused regions, which begin with the convolutions."""

    name = "separable_conv"
    traits = frozenset({Trait.BLIND})

    def preference(self, inputs: Sequence[TensorType | None], outputs: Sequence[TensorType]) -> Prefers:
        return Prefers.BLOCKS

    def padding(self, index: int, inputs: Sequence[TensorType | None]) -> Padding | None:
        padding = self.regions[0].padding(index, inputs[: self.split]) if index < self.split else None
        # The kernel goes through whole rows, whichever taps their pixels meet.
        return None if padding is None else replace(padding, or_none=False)

    def read_in_place(self) -> list[int]:
        """The inputs that the kernel reads only at the place that it writes next."""
        second = self.regions[1]
        assert second.anchor is not None
        barred = {value.name for value in second.anchor.present_inputs()}
        return [i for i, name in enumerate(list(second.body.inputs)[1:], self.split) if name not in barred]

    def lower(self, ctx: Context) -> Lowered:
        first = self.regions[0]
        assert first.anchor is not None
        conv = first.anchor.op
        assert isinstance(conv, Conv)
        middle = Operand(first.result.type, Layout(ctx.output.layout.block, ((0, 0), (0, 0))))
        parts, numbers = self.parts(ctx, middle)
        return conv_separable.build(ctx, conv.geometry(parts[0]), parts, numbers)

    @classmethod
    def cases(cls) -> Sequence[Case]:
        return (
            _case((1, 3, 7, 7), (3, 1, 3, 3), 5),
            _case((2, 17, 13, 7), (17, 1, 5, 5), 17, pads=2, activation=HardSwish()),
            _case((1, 33, 5, 13), (33, 1, 3, 3), 40, strides=2, activation=Silu(), residual=True),
            _case((1, 1, 1, 1), (1, 1, 3, 3), 1, residual=True),
            _case((2, 20, 9, 7), (20, 1, 3, 2), 70, pads=0, dilations=2, activation=None, residual=True),
        )


def _case(
    x: tuple[int, ...], w: tuple[int, ...], channels: int, *, strides: int = 1, pads: int = 1, dilations: int = 1,
    activation: Op | None = _RELU6, residual: bool = False,
) -> Case:  # fmt: skip
    first, second = Graph("depthwise"), Graph("pointwise")
    conv = Conv((strides,) * 2, ((pads, pads),) * 2, (dilations,) * 2, x[1])
    types = [f32(*x), f32(*w), f32(x[1])]
    value = first.apply(conv, *(first.input(f"x{i}", type) for i, type in enumerate(types)))
    first.output("y", value if activation is None else first.apply(activation, value))
    one = Conv((1, 1), ((0, 0), (0, 0)), (1, 1))
    value = second.apply(one, second.input("x", value.type), second.input("w", f32(channels, x[1], 1, 1)))
    types.append(f32(channels, x[1], 1, 1))
    if residual:
        types.append(value.type)
        value = second.apply(Add(), value, second.input("r", value.type))
    second.output("y", value)
    constants = frozenset({1, 2, 3})
    return Case(SeparableConv.of(FusedRegion(first), second=FusedRegion(second)), tuple(types), constants)
