"""Convolution of bytes with exact sums. A pass puts it in; no frontend does."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from glulam.compiler.graph.op import Case, Op, Padding, Prefers, Trait
from glulam.compiler.graph.types import Array, DType, Ints, Pads, TensorType
from glulam.compiler.kernels import conv_bytes
from glulam.compiler.kernels.context import Context, Lowered
from glulam.compiler.ops.conv import Conv
from glulam.compiler.ops.inputs import optional, required, wide


@dataclass(frozen=True)
class ConvInteger(Op):
    """x[N,C,*S] of U8 less the zero point, convolved with w[OC,C/groups,*K] of I8, plus bias?[OC] of I32, in I32.

    Padding holds the zero point, so it adds nothing. Shapes are those of `Conv`. Sums must not exceed I32. With one
    channel in each group weights may be of I16, from -512 to 508.
    """

    strides: Ints
    pads: Pads
    dilations: Ints
    groups: int = 1
    zero_point: int = 0

    name = "conv_integer"
    traits = frozenset({Trait.ANCHOR, Trait.CONVERTS})

    @property
    def conv(self) -> Conv:
        """The same of floats."""
        return Conv(self.strides, self.pads, self.dilations, self.groups)

    def infer(self, *inputs: TensorType | None) -> tuple[TensorType, ...]:
        x, w = required(self, inputs, 2, 1)
        bias = optional(inputs, 2)
        types = (DType.I8, DType.I16) if w.shape[:2] == (self.groups, 1) else (DType.I8,)
        if x.dtype is not DType.U8 or w.dtype not in types or (bias is not None and bias.dtype is not DType.I32):
            raise self.fail(f"inputs of types {x}, {w} and {bias}; they are u8, i8 and i32")
        if not 0 <= self.zero_point <= np.iinfo(np.uint8).max:
            raise self.fail(f"the zero point {self.zero_point} is no u8")
        (result,) = self.conv.infer(*(None if t is None else TensorType(DType.F32, t.shape) for t in inputs))
        return (TensorType(DType.I32, result.shape),)

    def reference(self, *inputs: Array | None) -> tuple[Array, ...]:
        x, w = required(self, inputs, 2, 1)
        bias = optional(inputs, 2)
        (sums,) = self.conv.reference(wide(x) - self.zero_point, wide(w), None if bias is None else wide(bias))
        return (sums.astype(np.int32),)

    def preference(self, inputs: Sequence[TensorType | None], outputs: Sequence[TensorType]) -> Prefers:
        return Prefers.BLOCKS

    def padding(self, index: int, inputs: Sequence[TensorType | None]) -> Padding | None:
        padding = self.conv.padding(index, inputs)
        if padding is None:
            return None
        return replace(padding, value=float(self.zero_point), only_blocks=False, or_none=False)

    def flops(self, inputs: Sequence[TensorType | None], outputs: Sequence[TensorType]) -> int:
        return self.conv.flops(inputs, outputs)

    def lower(self, ctx: Context) -> Lowered:
        return conv_bytes.build(ctx, self.conv.geometry(ctx), self.zero_point)

    @classmethod
    def cases(cls) -> Sequence[Case]:
        return (
            _case((1, 3, 7, 7), (5, 3, 3, 3), pads=1, zero_point=7),
            _case((2, 17, 13, 7), (33, 17, 3, 2), strides=2, pads=1, bias=False),
            _case((1, 64, 5, 5), (24, 64, 1, 1), zero_point=255),
            _case((1, 1, 13, 1), (1, 1, 5, 3), pads=((0, 3), (2, 0)), zero_point=128),
            _case((1, 20, 13, 13), (70, 20, 3, 3), pads=2, dilations=(2, 3), zero_point=1),
            _case((2, 3, 33), (17, 3, 7), strides=2, pads=3, zero_point=100),
            _case((1, 5, 4, 5, 3), (3, 5, 3, 2, 1), pads=((1, 1), (0, 1), (0, 0)), strides=(1, 2, 1), zero_point=9),
            _case((1, 64, 6, 7), (32, 32, 3, 3), pads=1, groups=2, zero_point=3),
            _case((1, 33, 7, 6), (33, 1, 3, 3), strides=2, pads=1, groups=33, zero_point=200),
            _case((2, 16, 13, 1), (16, 1, 5, 3), pads=((0, 3), (2, 0)), dilations=(2, 1), groups=16, bias=False),
            _case((1, 17, 30), (17, 1, 7), pads=3, groups=17, zero_point=50),
            _case((1, 33, 7, 6), (33, 1, 3, 3), strides=2, pads=1, groups=33, zero_point=200, wide=True),
            _case((2, 3, 13), (3, 1, 5), pads=2, groups=3, bias=False, wide=True),
        )


def _case(
    x: Ints, w: Ints, *, strides: int | Ints = 1, pads: int | Pads = 0, dilations: int | Ints = 1, groups: int = 1,
    zero_point: int = 0, bias: bool = True, wide: bool = False,
) -> Case:  # fmt: skip
    """Bytes from one end to the other; with `wide` weights are four of them together."""
    spatial, rng = len(x) - 2, np.random.default_rng(math.prod(x) + zero_point)
    op = ConvInteger(
        (strides,) * spatial if isinstance(strides, int) else strides,
        ((pads, pads),) * spatial if isinstance(pads, int) else pads,
        (dilations,) * spatial if isinstance(dilations, int) else dilations,
        groups,
        zero_point,
    )
    codes = rng.integers(0, 256, x).astype(np.uint8)
    weights = rng.integers(-512, 509, w).astype(np.int16) if wide else rng.integers(-128, 128, w).astype(np.int8)
    shift = rng.integers(-(10**6), 10**6, w[0]).astype(np.int32) if bias else None
    return Case(op, (codes, weights, shift), constants=frozenset({1, 2} if bias else {1}))
