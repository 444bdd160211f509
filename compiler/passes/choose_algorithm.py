"""Algorithm choice: 3x3 convolutions go to Winograd's minimal filtering where its estimated cycles are fewer."""

from __future__ import annotations

from dataclasses import dataclass

from glulam.compiler.graph.graph import Graph, Node
from glulam.compiler.graph.patch import Patch
from glulam.compiler.graph.types import DType
from glulam.compiler.kernels import conv_direct, conv_winograd, winograd_stages
from glulam.compiler.kernels.winograd import FILTERINGS
from glulam.compiler.ops.conv import Conv
from glulam.compiler.ops.winograd import WinogradConv
from glulam.compiler.passes.manager import Decision, NodePass, Uses
from glulam.compiler.targets import Target


@dataclass(frozen=True)
class ChooseAlgorithm(NodePass):
    """By cost, not by rule: small images of many channels would stream too many transformed weights."""

    target: Target

    name = "choose_algorithm"

    def visit(self, graph: Graph, uses: Uses, node: Node) -> Patch | Decision | None:
        op = node.op
        if type(op) is not Conv:
            return None
        if (refused := refuses(node)) is not None:
            return Decision(node.name, False, refused)
        x, weights = node.inputs[:2]
        assert x is not None
        assert weights is not None
        size = (x.shape[0], node.output.shape[2:], x.shape[1], node.output.shape[1])
        direct = conv_direct.cost(self.target, *size, taps=9) / 1e3
        variants = {
            (f.outputs, staged): module.cost(self.target, *size, f) / 1e3
            for f in FILTERINGS.values()
            for staged, module in ((False, conv_winograd), (True, winograd_stages))
        }
        (outputs, staged), least = min(variants.items(), key=lambda item: item[1])
        named = (f"{o}x{o}{' staged' if s else ''} {c:.0f}k" for (o, s), c in variants.items())
        costs = f"direct {direct:.0f}k cycles, winograd {', '.join(named)}"
        if least >= direct:
            return Decision(node.name, False, costs)
        patch = Patch(graph, costs, at=node.name)
        chosen = WinogradConv(**op.attributes(), outputs=outputs, staged=staged)
        patch.replace(node.output, patch.apply(chosen, *node.inputs, name=node.name))
        return patch


def refuses(node: Node) -> str | None:
    """Why Winograd's algorithm does not serve this convolution, None if it does."""
    op, (x, weights, *bias) = node.op, node.inputs
    assert isinstance(op, Conv)
    assert x is not None
    assert weights is not None
    if weights.shape[2:] != (3, 3):
        return f"direct: the kernel is {'x'.join(map(str, weights.shape[2:]))}"
    if op.strides != (1, 1) or op.dilations != (1, 1) or op.groups != 1:
        return "direct: strides, dilation or groups"
    if not all(v is None or v.is_constant for v in (weights, *bias)) or x.type.dtype is not DType.F32:
        return "direct: the weights are not float32 constants"
    if 0 in node.output.shape:
        return "direct: nothing to compute"
    return None
