"""Reshapes, and what is transposed behind them, sink below pointwise ops, which then fuse with what came before.

A convolution among tokens, as of a feed-forward layer that mixes neighbours, is followed by its pixels in one row, a
transpose, and only then its activation. This computes the same on the convolution's own result.
"""

from __future__ import annotations

from glulam.compiler.graph.graph import Graph, Node, Value
from glulam.compiler.graph.op import Op, Trait
from glulam.compiler.graph.patch import Patch
from glulam.compiler.graph.uses import Uses
from glulam.compiler.ops import Reshape, Transpose
from glulam.compiler.passes.manager import Decision, NodePass

_FORESEEN = 4  # ops between a view and where its readers meet: GELU written with erf


class SinkViews(NodePass):
    """Looks at pointwise ops that read such views, all of the same kind, and constants of one element.

    It declines where a view would stay for other readers, and where no kernel could take the op.
    """

    name = "sink_views"

    def visit(self, graph: Graph, uses: Uses, node: Node) -> Patch | Decision | None:
        views = [value for value in node.present_inputs() if not value.is_number]
        moves = _moves(views[0]) if views else ()
        if not any(isinstance(op, Reshape) for op in moves) or not _goes_before(node, moves):
            return None
        if len({_way(value)[0].shape for value in views}) > 1:
            return Decision(node.name, False, "its operands were of different shapes")
        for value in dict.fromkeys(views):
            source, *between, _ = _way(value)
            if source.producer is None or not {Trait.ANCHOR, Trait.POINTWISE} & source.producer.op.traits:
                return Decision(node.name, False, f"no kernel computes what becomes {value.name}")
            if uses.is_output(value) or not all(_goes_before(user, moves, _FORESEEN) for user in uses.users(value)):
                return Decision(node.name, False, f"{value.name} has other readers")
            if (why := next(filter(None, map(uses.shared_because, between)), None)) is not None:
                return Decision(node.name, False, f"its views would stay: {why}")
        patch = Patch(graph, f"{node.op.name} works on what became %{views[0].name}", at=node.name)
        inputs = [None if value is None else _before(patch, value) for value in node.inputs]
        result = patch.apply(node.op, *inputs, name=f"{node.name}.before")
        for op in moves:
            result = patch.apply(op, result)
        patch.replace(node.output, result)
        return patch


def _goes_before(node: Node, moves: tuple[Op, ...], foreseen: int = 0) -> bool:
    """Whether the op does the same before such moves, which then move no more bytes.

    An operand may be the result of so many ops that are `foreseen` to go before them.
    """
    if Trait.POINTWISE not in node.op.traits:
        return False
    tensors, result = [value for value in node.present_inputs() if not value.is_number], node.output.type
    return all(
        value.shape == result.shape
        and value.type.dtype.size >= result.dtype.size
        and (
            _moves(value) == moves
            or (foreseen > 0 and value.producer is not None and _goes_before(value.producer, moves, foreseen - 1))
        )
        for value in tensors
    )


def _way(value: Value) -> list[Value]:
    """What a kernel computes, and what reshapes and transposes make of it one after the other, up to the value."""
    way = [value]
    while (node := way[-1].producer) is not None and isinstance(node.op, Reshape | Transpose):
        way.extend(node.present_inputs())
    return way[::-1]


def _moves(value: Value) -> tuple[Op, ...]:
    """The reshapes and transposes that make the value of what a kernel computes."""
    return tuple(step.producer.op for step in _way(value)[1:] if step.producer is not None)


def _before(patch: Patch, value: Value) -> Value:
    if value.data is not None:
        return patch.constant(value.data.reshape(()), value.name)
    return _way(value)[0]
