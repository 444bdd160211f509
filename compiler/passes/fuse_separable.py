"""A depthwise convolution and the 1x1 convolution behind it become one kernel where the first waits for its input.

What the depthwise convolution reads is then brought to the second-level cache while the 1x1 convolution multiplies, and
what it gives never leaves that cache.
"""

from __future__ import annotations

from dataclasses import dataclass

from glulam.compiler.graph.graph import Graph, Node, Value
from glulam.compiler.graph.patch import Patch
from glulam.compiler.graph.types import DType
from glulam.compiler.graph.uses import Uses
from glulam.compiler.kernels import conv_separable
from glulam.compiler.ops.conv import Conv
from glulam.compiler.ops.fused import FusedRegion, as_region
from glulam.compiler.ops.separable import SeparableConv
from glulam.compiler.passes.convolutions import is_depthwise, is_pointwise
from glulam.compiler.passes.manager import Decision, NodePass
from glulam.compiler.targets import Target


@dataclass(frozen=True)
class FuseSeparable(NodePass):
    """Looks at every depthwise convolution of images, with what was fused behind it."""

    target: Target

    name = "fuse_separable"

    def visit(self, graph: Graph, uses: Uses, node: Node) -> Patch | Decision | None:
        if (first := as_region(node)) is None or (conv := _convolution(first)) is None or not is_depthwise(conv):
            return None
        if (why := uses.shared_because(node.output)) is not None:
            return Decision(node.name, False, why)
        reader = next(iter(uses.users(node.output)), None)
        second = None if reader is None else as_region(reader)
        other = None if second is None else _convolution(second)
        if reader is None or second is None or other is None or not is_pointwise(other):
            return Decision(node.name, False, "what reads it is no plain 1x1 convolution")
        if reader.inputs[0] is not node.output:
            return Decision(node.name, False, f"{reader.name!r} reads it behind its convolution")
        constant = {
            value for each in (node, reader) for value in each.inputs if value is not None and value.is_constant
        }
        x, weights = node.operand(0), reader.operand(1)
        if not _has_constants(node, first, constant) or not _has_constants(reader, second, constant):
            return Decision(node.name, False, "the weights are not constants")
        if not node.output.type.size:
            return Decision(node.name, False, "nothing to compute")
        refused = conv_separable.accepts(
            self.target, x.type.nbytes // x.shape[0], node.output.shape, weights.type.nbytes
        )
        if refused is not None:
            return Decision(node.name, False, refused)
        patch = Patch(graph, f"one kernel with {reader.name}", at=node.name)
        op = SeparableConv.of(first, second=second)
        given = [value for value in (*node.inputs, *reader.inputs[1:]) if value is not None]
        patch.replace(reader.output, patch.apply(op, *given, name=reader.name))
        return patch


def _convolution(region: FusedRegion) -> Node | None:
    """The plain float32 convolution of an image that a region begins with, and whose input is the region's first."""
    node = region.anchor
    if node is None or type(node.op) is not Conv or node.output.type.rank != 4:
        return None
    starts = node.inputs[0] is next(iter(region.body.inputs.values()))
    return (
        node
        if starts and node.inputs[0] not in region.epilogue_inputs and node.output.type.dtype is DType.F32
        else None
    )


def _has_constants(node: Node, region: FusedRegion, constant: set[Value]) -> bool:
    """Whether the convolution's weights and bias are known."""
    assert region.anchor is not None
    table = dict(zip(region.body.inputs.values(), node.present_inputs(), strict=True))
    return all(value is None or table[value] in constant for value in region.anchor.inputs[1:])
