"""Concats sink below norms and pointwise ops, which then fold into the layers before or fuse with them."""

from __future__ import annotations

from itertools import accumulate

from glulam.compiler.graph.graph import Graph, Node, Value
from glulam.compiler.graph.op import Trait
from glulam.compiler.graph.patch import Patch
from glulam.compiler.graph.uses import Uses
from glulam.compiler.ops import BatchNorm, Concat
from glulam.compiler.passes.manager import Decision, NodePass

_FORESEEN = 4  # ops between a concat and where its readers meet: the gate of a swish, GELU written with erf


class SinkConcats(NodePass):
    """Looks at norms and pointwise ops that read concats, all cut alike, and constants.

    It declines where a concat, or one of its parts, would stay for other readers, and where a part is no result of a
    kernel that could take the op.
    """

    name = "sink_concats"

    def visit(self, graph: Graph, uses: Uses, node: Node) -> Patch | Decision | None:
        wholes = list(dict.fromkeys(value for value in node.present_inputs() if not value.is_constant))
        cut = _cut(wholes[0]) if wholes else None
        if cut is None or not _goes_before(node, cut):
            return None
        for value in wholes:
            if uses.is_output(value) or not all(_goes_before(user, cut, _FORESEEN) for user in uses.users(value)):
                return Decision(node.name, False, f"{value.name} has other readers")
            if (why := _keeps(uses, value)) is not None:
                return Decision(node.name, False, why)
        patch = Patch(graph, f"{node.op.name} works on the parts of %{wholes[0].name}", at=node.name)
        axis, sizes = cut
        parts = []
        for index, (end, size) in enumerate(zip(accumulate(sizes), sizes, strict=True)):
            inputs = [
                value if value is None else _part(patch, node, value, axis, index, slice(end - size, end))
                for value in node.inputs
            ]
            parts.append(patch.apply(node.op, *inputs, name=f"{node.name}.{index}"))
        patch.replace(node.output, patch.apply(Concat(axis), *parts, name=node.name))
        return patch


Cut = tuple[int, tuple[int, ...]]  # the axis, and the extents of the parts along it


def _cut(value: Value) -> Cut | None:
    """Of what parts the value was put together, if it was."""
    node = value.producer
    if node is None or not isinstance(node.op, Concat):
        return None
    return node.op.axis, tuple(part.shape[node.op.axis] for part in node.present_inputs())


def _goes_before(node: Node, cut: Cut, foreseen: int = 0) -> bool:
    """Whether the op does the same with the parts that a concat has put together.

    An operand may be the result of so many ops that are `foreseen` to work on parts.
    """
    if not _is_by_element(node) or (isinstance(node.op, BatchNorm) and cut[0] != 1):
        return False
    return all(
        value.is_constant
        or (
            value.shape == node.output.shape
            and value.type.dtype.size >= node.output.type.dtype.size
            and (
                _cut(value) == cut
                or (foreseen > 0 and value.producer is not None and _goes_before(value.producer, cut, foreseen - 1))
            )
        )
        for value in node.present_inputs()
    )


def _is_by_element(node: Node) -> bool:
    return Trait.POINTWISE in node.op.traits or isinstance(node.op, BatchNorm)


def _keeps(uses: Uses, whole: Value) -> str | None:
    """Why the parts of the concat had better stay as they are."""
    assert whole.producer is not None
    for part in whole.producer.present_inputs():
        if part.producer is None or not (Trait.ANCHOR in part.producer.op.traits or _is_by_element(part.producer)):
            return f"no kernel computes {part.name}"
        if uses.is_output(part) or not all(
            reader is whole.producer or _is_by_element(reader) for reader in uses.users(part)
        ):
            return f"{part.name} has other readers than {whole.name}"
    return None


def _part(patch: Patch, node: Node, value: Value, axis: int, index: int, span: slice) -> Value:
    """What the op needs of an operand for one of the parts."""
    if not value.is_constant:
        assert value.producer is not None
        return list(value.producer.present_inputs())[index]
    at = 0 if isinstance(node.op, BatchNorm) else axis - len(node.output.shape) + len(value.shape)
    if at < 0 or value.shape[at] == 1 or value.data is None:
        return value
    return patch.constant(value.data[(slice(None),) * at + (span,)], value.name)
