"""Two fused regions as one op, where one reads what the other gives: the base of what becomes one kernel of both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from glulam.compiler.graph.graph import Graph
from glulam.compiler.graph.op import Op
from glulam.compiler.kernels.context import Context
from glulam.compiler.kernels.operand import Operand
from glulam.compiler.ops.fused import FusedRegion, known
from glulam.compiler.ops.subgraph import SubGraph


@dataclass(frozen=True)
class RegionPair(SubGraph):
    """The second region's first input is what the first one gives, perhaps by way of ops of one input between them.

    All others are the body's inputs: first those of the first region, then those of the second.
    """

    @classmethod
    def of(cls, first: FusedRegion, *between: Op, second: FusedRegion) -> Self:
        """The second region reads the first one's result as its first input, and nowhere else."""
        body = Graph(cls.name)
        types = [v.type for v in first.body.inputs.values()], [v.type for v in second.body.inputs.values()]
        own = [body.input(f"x{i}", type) for i, type in enumerate(types[0])]
        others = [body.input(f"z{i}", type) for i, type in enumerate(types[1][1:], 1)]
        middle = body.apply(first, *own, name=first.result.name)
        for op in between:
            middle = body.apply(op, middle, name=op.name)
        body.output("y", body.apply(second, middle, *others, name=second.result.name))
        return cls(body)

    @property
    def regions(self) -> tuple[FusedRegion, FusedRegion]:
        first, second = self.body.nodes[0].op, self.body.nodes[-1].op
        assert isinstance(first, FusedRegion)
        assert isinstance(second, FusedRegion)
        return first, second

    @property
    def split(self) -> int:
        """How many inputs are those of the first region."""
        return len(self.body.nodes[0].inputs)

    def parts(self, ctx: Context, middle: Operand) -> tuple[tuple[Context, Context], tuple[list[int], list[int]]]:
        """The problems of both anchors, and which of `ctx`'s inputs their inputs are, but the second one's first.

        `middle` is what the first one gives.
        """
        first, second = self.regions
        one, order = first.anchored(Context(ctx.name, ctx.target, ctx.inputs[: self.split], [middle]))
        rest = [middle, *ctx.inputs[self.split :]]
        other, others = second.anchored(Context(ctx.name, ctx.target, rest, ctx.outputs))
        return (one, other), (known(order), [i + self.split - 1 for i in known(others)[1:]])
