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
from glulam.compiler.ops.fused import FusedRegion, known
from glulam.compiler.ops.matmul import MatMul
from glulam.compiler.ops.pointwise import Add, Mul
from glulam.compiler.ops.softmax import Softmax
from glulam.compiler.ops.subgraph import SubGraph


@dataclass(frozen=True)
class Attention(SubGraph):
    """A fused region that begins with a matrix product, the softmax of its last axis, and another such region.

    The second region's first input is the softmax; all others are the body's inputs: first those of the first region,
    then those of the second.
    """

    name = "attention"
    traits = frozenset({Trait.BLIND})

    @classmethod
    def of(cls, first: FusedRegion, softmax: Softmax, second: FusedRegion) -> Attention:
        """The second region reads the softmax as its first input, and nowhere else."""
        body = Graph("attention")
        types = [v.type for v in first.body.inputs.values()], [v.type for v in second.body.inputs.values()]
        own = [body.input(f"x{i}", type) for i, type in enumerate(types[0])]
        others = [body.input(f"z{i}", type) for i, type in enumerate(types[1][1:], 1)]
        weights = body.apply(softmax, body.apply(first, *own, name=first.result.name), name="weights")
        body.output("y", body.apply(second, weights, *others, name=second.result.name))
        return cls(body)

    @property
    def regions(self) -> tuple[FusedRegion, FusedRegion]:
        first, _, second = (node.op for node in self.body.nodes)
        assert isinstance(first, FusedRegion)
        assert isinstance(second, FusedRegion)
        return first, second

    def lower(self, ctx: Context) -> Lowered:
        first, second = self.regions
        scores, split = Operand(first.result.type), len(first.body.inputs)
        one, order = first.anchored(Context(ctx.name, ctx.target, ctx.inputs[:split], [scores]))
        other, others = second.anchored(Context(ctx.name, ctx.target, [scores, *ctx.inputs[split:]], ctx.outputs))
        numbers = [known(order), [i + split - 1 for i in known(others)[1:]]]
        return attention.build(ctx, (one, other), numbers)

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
    op = Attention.of(FusedRegion(first), Softmax(value.type.rank - 1), FusedRegion(second))
    return Case(op, tuple(types))
