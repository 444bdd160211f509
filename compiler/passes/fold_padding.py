"""Explicit padding goes into the convolution or pool that reads it.

Convolution: zeros. Max pool: -inf, zeros around what cannot be negative, or the outermost elements again, which are in
each window that reaches beyond them. Average pool: zeros, which then count as they did (`count_include_pad`); but not
if the pool pads already without counting.
"""

from __future__ import annotations

from dataclasses import replace

from glulam.compiler.graph.graph import Graph, Node, Value
from glulam.compiler.graph.patch import Patch
from glulam.compiler.graph.types import Pads
from glulam.compiler.graph.uses import Uses
from glulam.compiler.ops import AveragePool, Conv, MaxPool, Pad
from glulam.compiler.passes.manager import Decision, NodePass
from glulam.compiler.passes.nonnegative import is_nonnegative

Reader = Conv | MaxPool | AveragePool


class FoldPadding(NodePass):
    """Looks at every padding of the spatial axes with one reader."""

    name = "fold_padding"

    def visit(self, graph: Graph, uses: Uses, node: Node) -> Patch | Decision | None:
        pad = node.op
        if not isinstance(pad, Pad):
            return None
        if why := uses.shared_because(node.output):
            return Decision(node.name, False, why)
        reader = next(iter(uses.users(node.output)), None)
        if reader is None or not isinstance(reader.op, Reader) or reader.inputs[0] is not node.output:
            return Decision(node.name, False, "its reader is neither a convolution nor a pool")
        if pad.mode not in ("constant", "edge") or any(side for axis in pad.pads[:2] for side in axis) or _crops(pad):
            return Decision(node.name, False, "only constant or edge padding of the spatial axes can be folded")
        x = node.operand(0)
        op = _padded(reader.op, pad, x)
        if isinstance(op, str):
            return Decision(node.name, False, f"{reader.name}: {op}")
        patch = Patch(graph, f"becomes padding of {reader.name}", at=node.name)
        new = patch.apply(op, x, *reader.inputs[1:], name=reader.name)
        if new.type != reader.output.type:
            return Decision(node.name, False, f"{reader.name}: the ceiling rule would drop a window")
        patch.replace(reader.output, new)
        return patch


def _padded(op: Reader, pad: Pad, x: Value) -> Reader | str:
    """The reader with the padding added to its own, or why that is not the same."""
    pads = _sum(op.pads, pad.pads[2:])
    own = any(side for axis in op.pads for side in axis)
    match op:
        case MaxPool():
            padded = replace(op, pads=pads)
            if pad.mode == "edge":
                if any(step > 1 for step in op.dilations):
                    return "its taps may pass over the element that is repeated"
            elif pad.value == float("-inf"):
                return padded
            elif pad.value != 0 or own or not is_nonnegative(x):
                return f"padding with {pad.value} could win a maximum"
            if padded.has_empty_windows(x.shape[2:]):
                return "a window may lie in the padding alone"
            return padded
        case _ if pad.mode == "edge":
            return "the padding repeats elements"
        case _ if pad.value != 0:
            return f"the padding is {pad.value}, not zero"
        case AveragePool():
            if own and not op.count_include_pad:
                return "its own padding does not count in the mean, this one does"
            return replace(op, pads=pads, count_include_pad=True)
    return replace(op, pads=pads)


def _sum(first: Pads, second: Pads) -> Pads:
    return tuple((a + c, b + d) for (a, b), (c, d) in zip(first, second, strict=True))


def _crops(pad: Pad) -> bool:
    return any(side < 0 for axis in pad.pads for side in axis)
