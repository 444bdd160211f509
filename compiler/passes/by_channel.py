"""Which tensors kernels go through channel by channel, so that threads had better share them by channels too."""

from __future__ import annotations

import math

from glulam.compiler.graph.graph import Graph, Node, Value
from glulam.compiler.graph.op import Trait
from glulam.compiler.ops.averaged import AveragedRegion
from glulam.compiler.ops.conv import Conv
from glulam.compiler.ops.fused import anchor_op
from glulam.compiler.targets import PARTNERS


def by_channel(graph: Graph) -> set[Value]:
    """What is reduced over all pixels, and what leads up to it channel by channel."""
    found: set[Value] = set()
    for node in reversed(graph.nodes):
        for value in node.present_inputs():
            one = (*value.shape[:2], *(1,) * (value.type.rank - 2))
            reduced = value.shape != one and any(v.shape == one for v in node.outputs) and not _by_partner(value)
            if value.layout.block > 1 and (reduced or (_keeps_channels(node) and not found.isdisjoint(node.outputs))):
                found.add(value)
    return found


def written_by_channel(graph: Graph) -> set[Value]:
    """What threads share by channels where it is computed: those, and what kernels that read them make."""
    found = by_channel(graph)
    made = [value for node in graph.nodes if not found.isdisjoint(node.present_inputs()) for value in node.outputs]
    return found.union(value for value in made if value.layout.block > 1)


def _by_partner(value: Value) -> bool:
    """Whether the value is means of rows, so many that either partner has its own: nothing leads up to it.

    Not where channels outnumber pixels, and so weights, which threads then share, the elements of the image.
    """
    node = value.producer
    if node is None or not isinstance(node.op, AveragedRegion) or node.op.chunks % PARTNERS:
        return False
    _, channels, *spatial = node.outputs[0].shape
    return math.prod(spatial) >= channels


def _keeps_channels(node: Node) -> bool:
    """Whether each channel of the output depends on the same one of the input alone."""
    op, x = anchor_op(node), node.inputs[0]
    if op is None:
        return True
    return Trait.POINTWISE in op.traits or (isinstance(op, Conv) and x is not None and op.groups == x.shape[1] > 1)
