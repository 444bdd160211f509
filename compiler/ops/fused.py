"""A fused region: an anchor with the pointwise ops that follow it, as one kernel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from glulam.compiler.graph.graph import Graph, Node, Value
from glulam.compiler.graph.op import Op, Padding, Prefers, Trait
from glulam.compiler.graph.types import TensorType
from glulam.compiler.kernels import pointwise
from glulam.compiler.kernels.context import Arg, Context, Epilogue, Lowered
from glulam.compiler.kernels.operand import Operand
from glulam.compiler.loops import expr as ex
from glulam.compiler.loops.expr import Expr
from glulam.compiler.ops.contracts import FoldsWindows, PoolsResult
from glulam.compiler.ops.pointwise import Pointwise
from glulam.compiler.ops.subgraph import SubGraph
from glulam.compiler.targets import Target


@dataclass(frozen=True)
class FusedRegion(SubGraph):
    """An anchor, the pointwise nodes behind it, and a pool over their result (the window); all but one may be missing.

    The anchor is what is not pointwise. The kernel is the anchor's with the rest as epilogue.
    """

    name = "fused"

    @property
    def anchor(self) -> Node | None:
        """The node that is not pointwise; None for a chain of pointwise ops."""
        first = self.body.nodes[0]
        return None if Trait.POINTWISE in first.op.traits else first

    @property
    def window(self) -> Node | None:
        """The pool at the end, if there is one."""
        last = self.body.nodes[-1]
        return last if len(self.body.nodes) > 1 and Trait.POINTWISE not in last.op.traits else None

    @property
    def unpooled(self) -> Value:
        """The result of the pointwise part."""
        return self.result if self.window is None else next(self.window.present_inputs())

    @property
    def epilogue_inputs(self) -> list[Value]:
        """What the pointwise nodes behind the anchor read from outside."""
        followers = [node for node in self.body.nodes if node is not self.anchor]
        read = {value for node in followers for value in node.present_inputs()}
        return [value for value in self.body.inputs.values() if value in read]

    def preference(self, inputs: Sequence[TensorType | None], outputs: Sequence[TensorType]) -> Prefers:
        if self.anchor is None:
            return Prefers.EITHER
        return self.anchor.prefers

    def plain_suits(self, target: Target, inputs: Sequence[TensorType | None], outputs: Sequence[TensorType]) -> bool:
        if self.anchor is None:
            return False
        return self.anchor.op.plain_suits(target, self.anchor.input_types, self.anchor.output_types)

    def reads_plain(self, index: int, inputs: Sequence[TensorType | None], block: int) -> bool:
        value = list(self.body.inputs.values())[index]
        if self.anchor is None or value not in self.anchor.inputs or value in self.epilogue_inputs:
            return False
        return self.anchor.op.reads_plain(self.anchor.inputs.index(value), self.anchor.input_types, block)

    def needs_plain(self, index: int) -> bool:
        value = list(self.body.inputs.values())[index]
        anchor = self.anchor
        return anchor is not None and value in anchor.inputs and anchor.op.needs_plain(anchor.inputs.index(value))

    def reads_blocks(self, index: int) -> bool:
        value = list(self.body.inputs.values())[index]
        if self.anchor is None or value not in self.anchor.inputs or value in self.epilogue_inputs:
            return False
        return self.anchor.op.reads_blocks(self.anchor.inputs.index(value))

    def padding(self, index: int, inputs: Sequence[TensorType | None]) -> Padding | None:
        if self.anchor is None:
            return None
        value = list(self.body.inputs.values())[index]
        if value not in self.anchor.inputs:
            return None
        return self.anchor.op.padding(self.anchor.inputs.index(value), self.anchor.input_types)

    def formula(self, leaves: dict[Value, Expr]) -> Expr:
        """The pointwise nodes of the body as one expression, from expressions for the values it starts from."""
        table = dict(leaves)
        for node in self.body.nodes:
            if isinstance(node.op, Pointwise):
                inputs = list(node.present_inputs())
                traced = node.op.expression(*(v.type for v in inputs))
                table[node.output] = ex.substitute(traced, [table[v] for v in inputs])
        return table[self.unpooled]

    def lower(self, ctx: Context) -> Lowered:
        inputs = list(self.body.inputs.values())
        if self.anchor is None:
            formula = self.formula({v: ex.Param(i, v.type.dtype) for i, v in enumerate(inputs)})
            return pointwise.build(ctx, formula, range(len(inputs)))
        inner, order = self.anchored(ctx)
        lowered = self.lower_anchor(self.anchor, inner)
        return replace(lowered, args=tuple(_renumber(arg, order) for arg in lowered.args))

    def anchored(self, ctx: Context) -> tuple[Context, list[int | None]]:
        """The problem of the anchor with the rest as epilogue, and which of `ctx`'s inputs its inputs are."""
        anchor, inputs, extras = self.anchor, list(self.body.inputs.values()), self.epilogue_inputs
        assert anchor is not None
        start = [None if v is None else inputs.index(v) for v in anchor.inputs]
        order = [*start, *(inputs.index(v) for v in extras)]
        leaves: dict[Value, Expr] = {anchor.output: ex.Param(0, anchor.output.type.dtype)}
        leaves |= {v: ex.Param(k, v.type.dtype) for k, v in enumerate(extras, 1)}
        epilogue = Epilogue(self.formula(leaves), tuple(range(len(start), len(order))))
        operands = [None if i is None else ctx.inputs[i] for i in order]
        return Context(ctx.name, ctx.target, operands, ctx.outputs, epilogue), order

    def lower_anchor(self, anchor: Node, ctx: Context) -> Lowered:
        if self.window is None:
            plain: Lowered = anchor.op.lower(ctx)
            return plain
        pool, result = self.window.op, Operand(self.unpooled.type, ctx.output.layout)
        window = pool.as_window(self.unpooled.type) if isinstance(pool, FoldsWindows) else None
        if window is None or not isinstance(anchor.op, PoolsResult):
            raise self.fail(f"{anchor.op.name} cannot take over {pool.name}")
        return anchor.op.lower_pooled(ctx, window, result)


def as_region(node: Node) -> FusedRegion | None:
    """The node as a region of its own; None if it is a chain of pointwise ops, pools its result or has several."""
    if type(node.op) is FusedRegion:  # and not one with further results
        return node.op if node.op.anchor is not None and node.op.window is None else None
    if Trait.ANCHOR not in node.op.traits:
        return None
    body = Graph(node.name)
    inputs = [None if v is None else body.input(f"x{i}", v.type) for i, v in enumerate(node.inputs)]
    body.output("y", body.apply(node.op, *inputs, name=node.name))
    return FusedRegion(body)


def anchor_op(node: Node) -> Op | None:
    """The op that is not pointwise in a fused region, None if there is none; of other nodes their op."""
    if not isinstance(node.op, FusedRegion):
        return node.op
    return None if node.op.anchor is None else node.op.anchor.op


def known(order: Sequence[int | None]) -> list[int]:
    """Of inputs that are all there, or stand for none."""
    return [-1 if i is None else i for i in order]


def _renumber(arg: Arg, order: Sequence[int | None]) -> Arg:
    """An argument in terms of the region's inputs instead of the anchor's."""
    if isinstance(arg, tuple) and arg[0] == "input":
        place = order[arg[1]]
        assert place is not None
        return ("input", place)
    return arg
