"""Taps that meet only padding go."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from glulam.compiler.graph.graph import Graph, Node
from glulam.compiler.graph.patch import Patch
from glulam.compiler.graph.uses import Uses
from glulam.compiler.ops import Conv
from glulam.compiler.passes.manager import Decision, NodePass


class TrimTaps(NodePass):
    """The first or last taps along an axis meet nothing but padding where the extent is small."""

    name = "trim_taps"

    def visit(self, graph: Graph, uses: Uses, node: Node) -> Patch | Decision | None:
        if type(node.op) is not Conv or 0 in node.output.shape:
            return None
        x, weights, rest = node.operand(0), node.operand(1), node.inputs[2:]
        if not weights.is_constant:
            return None
        kept = [
            met_taps(node.op, d, x.shape[2 + d], weights.shape[2 + d], n) for d, n in enumerate(node.output.shape[2:])
        ]
        if kept == [(0, extent) for extent in weights.shape[2:]]:
            return None
        pads = []
        for (first, end), (before, after), dilation, taps in zip(
            kept, node.op.pads, node.op.dilations, weights.shape[2:], strict=True
        ):
            pads.append((before - first * dilation, after - (taps - end) * dilation))
        if any(side < 0 for pair in pads for side in pair):
            return Decision(node.name, False, f"the padding {node.op.pads} leaves out pixels too")
        assert weights.data is not None
        part = np.ascontiguousarray(weights.data[:, :, *(slice(*span) for span in kept)])
        patch = Patch(graph, f"taps {kept} of {'x'.join(map(str, weights.shape[2:]))} meet the input", at=node.name)
        trimmed = patch.constant(part, f"{weights.name}_met")
        patch.replace(node.output, patch.apply(replace(node.op, pads=tuple(pads)), x, trimmed, *rest, name=node.name))
        return patch


def met_taps(op: Conv, axis: int, extent: int, taps: int, outputs: int) -> tuple[int, int]:
    """(first, end) of the taps that meet an element of the input; all if none does."""

    def meets(tap: int) -> bool:
        """Whether the first output for which the tap lies behind the beginning finds it before the end."""
        place, stride = tap * op.dilations[axis] - op.pads[axis][0], op.strides[axis]
        output = max(0, -(place // stride))
        return output < outputs and place + output * stride < extent

    met = [tap for tap in range(taps) if meets(tap)]
    return (met[0], met[-1] + 1) if met else (0, taps)
