"""What several passes ask about a convolution in a graph."""

from __future__ import annotations

from glulam.compiler.graph.graph import Node
from glulam.compiler.kernels.conv_geometry import ConvGeometry
from glulam.compiler.ops import Conv


def geometry_of(node: Node) -> ConvGeometry:
    """The window of a convolution and its way over the image."""
    assert isinstance(node.op, Conv)
    return node.op.geometry_of(node.operand(1).shape[2:])


def is_pointwise(node: Node) -> bool:
    """Whether a convolution's outputs depend on all channels of one pixel each, and each pixel is met once."""
    geometry = geometry_of(node)
    return geometry.groups == 1 and geometry.is_pointwise


def is_depthwise(node: Node) -> bool:
    """Whether a convolution has one input and one output channel in each of several groups."""
    assert isinstance(node.op, Conv)
    return node.op.groups == node.operand(0).shape[1] == node.output.shape[1] > 1
