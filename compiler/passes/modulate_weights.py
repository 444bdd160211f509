"""A factor for each channel in front of a 1x1 convolution scales its weights at run time: they are fewer than pixels.

So the kernel that multiplies a whole tensor goes, as in squeeze-and-excitation blocks (J. Hu et al., 2018).
"""

from __future__ import annotations

import itertools
import math

from glulam.compiler.graph.graph import Graph, Node, Value
from glulam.compiler.graph.patch import Patch
from glulam.compiler.graph.types import DType
from glulam.compiler.graph.uses import Uses
from glulam.compiler.ops.conv import Conv
from glulam.compiler.ops.dynamic_conv import DynamicConv, Modulate
from glulam.compiler.ops.pointwise import Mul
from glulam.compiler.ops.tiled import TiledConv
from glulam.compiler.passes.convolutions import is_pointwise
from glulam.compiler.passes.manager import Decision, NodePass

_PIXELS = 8  # for each output channel: weights come from afar, and pixels from the kernel before


class ModulateWeights(NodePass):
    """(x * factor) through constant weights is x through weights * factor, of each sample."""

    name = "modulate_weights"

    def visit(self, graph: Graph, uses: Uses, node: Node) -> Patch | Decision | None:
        if not isinstance(node.op, Mul) or (found := _scaled(node)) is None:
            return None
        x, factor = found
        why = uses.shared_because(node.output)
        reader = None if uses.is_output(node.output) else next(iter(uses.users(node.output)), None)
        if reader is None or not isinstance(reader.op, Conv):
            return None
        why = why or _refused(uses, x, reader)
        if why is not None:
            return Decision(node.name, False, why)
        weights, bias = reader.operand(1), reader.inputs[2:]
        tile = (reader.op.pixels, reader.op.blocks) if isinstance(reader.op, TiledConv) else ()
        dynamic = DynamicConv.of(reader.op, weights.shape[2:], 1, tile)
        patch = Patch(graph, f"scales the weights of {reader.name}, not its {_pixels(x)} pixels", at=node.name)
        own = patch.apply(Modulate(), factor, weights, name=node.name)
        patch.replace(reader.output, patch.apply(dynamic, x, own, *bias, name=reader.name))
        return patch


def _scaled(node: Node) -> tuple[Value, Value] | None:
    """The tensor [N,C,*S] and the factor [N,C,*1] that are multiplied; None if that is not what they are."""
    for x, factor in itertools.permutations(node.present_inputs()):
        ones = (1,) * (x.type.rank - 2)
        shapes = x.shape == node.output.shape and factor.shape == (*x.shape[:2], *ones)
        if ones and shapes and x.shape[2:] != ones and not factor.is_constant and x.type.dtype is DType.F32:
            return x, factor
    return None


def _refused(uses: Uses, x: Value, reader: Node) -> str | None:
    """Why the reader of the product shall not scale its weights; None if it shall."""
    channels = reader.operand(1).shape[0]
    if type(reader.op) not in (Conv, TiledConv):
        return f"{reader.name} is computed by {reader.op.name}"
    if not is_pointwise(reader):
        return f"{reader.name} is no 1x1 convolution without strides, padding and groups"
    if not reader.parameters_are_known:
        return f"the weights of {reader.name} are not constant"
    if len(uses.users(x)) == 1 and not uses.is_output(x):
        return "the kernel that computes the tensor multiplies it"
    if _PIXELS * channels > _pixels(x):
        return f"{reader.name} has {channels} output channels for {_pixels(x)} pixels"
    return None


def _pixels(x: Value) -> int:
    """Of one sample."""
    return math.prod(x.shape[2:])
