"""A channel shuffle written as reshape, transpose, reshape becomes one op, which needs no other layout."""

from __future__ import annotations

from glulam.compiler.graph.graph import Graph, Node
from glulam.compiler.graph.patch import Patch
from glulam.compiler.graph.uses import Uses
from glulam.compiler.ops import Reshape, Transpose
from glulam.compiler.ops.movement import ChannelShuffle
from glulam.compiler.passes.manager import Decision, NodePass


class CanonicalShuffle(NodePass):
    """reshape [N,g,C/g,*S], swap of axes 1 and 2, reshape [N,C,*S] is channel_shuffle(g).

    The spatial extents may be anything in between, so long as they stay behind the channels.
    """

    name = "canonical_shuffle"

    def visit(self, graph: Graph, uses: Uses, node: Node) -> Patch | Decision | None:
        if not isinstance(node.op, Reshape):
            return None
        swap = _producer(node)
        if swap is None or not isinstance(swap.op, Transpose):
            return None
        apart = _producer(swap)
        if apart is None or not isinstance(apart.op, Reshape) or swap.op.perm[:3] != (0, 2, 1):
            return None
        (source,) = apart.present_inputs()
        _, groups, each, *rest = apart.output.shape
        if swap.op.perm[3:] != tuple(range(3, len(rest) + 3)):
            return Decision(node.name, False, f"transpose {swap.op.perm} moves more than the channels")
        if (
            node.output.type != source.type
            or source.shape[1:2] != (groups * each,)
            or source.shape[0] != apart.output.shape[0]
        ):
            return Decision(node.name, False, f"{source!r} does not have {groups} x {each} channels before and after")
        for value in (swap.output, apart.output):
            if (why := uses.shared_because(value)) is not None:
                return Decision(node.name, False, f"it would be computed besides the transpose: {why}")
        patch = Patch(graph, f"interleaves {groups} groups of channels", at=node.name)
        patch.replace(node.output, patch.apply(ChannelShuffle(groups), source, name=node.name))
        return patch


def _producer(node: Node) -> Node | None:
    return next(node.present_inputs()).producer
