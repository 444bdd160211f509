"""Attention as one op: a softmax between two matrix products. A pass puts it in; no frontend does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from glulam.compiler.graph.graph import Graph
from glulam.compiler.graph.op import Case, Op, Trait
from glulam.compiler.graph.types import Shape, f32
from glulam.compiler.kernels import attention
from glulam.compiler.kernels.context import Context, Lowered
from glulam.compiler.kernels.operand import Operand
from glulam.compiler.ops.activation import Relu
from glulam.compiler.ops.fused import FusedRegion
from glulam.compiler.ops.matmul import MatMul
from glulam.compiler.ops.pointwise import Add, Mul
from glulam.compiler.ops.region_pair import RegionPair
from glulam.compiler.ops.softmax import Softmax


@dataclass(frozen=True)
class Attention(RegionPair):
    """A fused region that begins with a matrix product, the softmax of its last axis, and another such region."""

    name = "attention"
    traits = frozenset({Trait.BLIND})

    def lower(self, ctx: Context) -> Lowered:
        return attention.build(ctx, *self.parts(ctx, Operand(self.regions[0].result.type)))

    @classmethod
    def cases(cls) -> Sequence[Case]:
        return (
            _case((2, 3, 7, 5), (2, 3, 5, 13), (2, 3, 13, 4)),
            _case((3, 37, 33), (33, 17), (1, 17, 20), mask=(1, 17), scale=True),
            _case((17, 1), (1, 70), (70, 1), mask=(17, 70)),
            _case((1, 2, 1, 16), (1, 1, 16, 100), (2, 100, 40), mask=(2, 1, 100), scale=True, activation=Relu()),
            _case((1, 1, 40, 8), (1, 8, 33), (33, 3), activation=Relu()),
        )


def _case(
    q: Shape, k: Shape, v: Shape, *, mask: Shape | None = None, scale: bool = False, activation: Op | None = None
) -> Case:
    first, second = Graph("scores"), Graph("mixed")
    types = [f32(*q), f32(*k)]
    value = first.apply(MatMul(), first.input("q", types[0]), first.input("k", types[1]))
    if scale:
        types.append(f32())
        value = first.apply(Mul(), value, first.input("scale", f32()))
    if mask is not None:
        types.append(f32(*mask))
        value = first.apply(Add(), value, first.input("mask", f32(*mask)))
    first.output("scores", value)
    types.append(f32(*v))
    result = second.apply(MatMul(), second.input("weights", value.type), second.input("v", f32(*v)))
    second.output("y", result if activation is None else second.apply(activation, result))
    op = Attention.of(FusedRegion(first), Softmax(value.type.rank - 1), second=FusedRegion(second))
    return Case(op, tuple(types))
