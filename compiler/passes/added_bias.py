"""The constant that is added to what a layer gives, one number for each channel, as the layer's own bias would be."""

from __future__ import annotations

from glulam.compiler.graph.graph import Node, Value
from glulam.compiler.graph.uses import Uses
from glulam.compiler.ops import Add, Conv


def added_bias(uses: Uses, node: Node) -> tuple[Value, Value] | None:
    """The sum of a convolution or matrix product and such a constant, and the constant, of leading extents of 1.

    None if the layer has a bias already, or if anything else reads what it gives.
    """
    result = node.output
    readers = uses.users(result)
    if len(list(node.present_inputs())) > 2 or len(readers) != 1 or uses.is_output(result):
        return None
    (reader,), channels = readers, per_channel(node)
    if not isinstance(reader.op, Add) or reader.output.type != result.type:
        return None
    for added in reader.present_inputs():
        if added.data is not None and added.shape == (1,) * (added.type.rank - len(channels)) + channels:
            return reader.output, added
    return None


def per_channel(node: Node) -> tuple[int, ...]:
    """The shape of numbers for each channel of a layer's result, as they broadcast."""
    if isinstance(node.op, Conv):
        return (node.output.shape[1], *(1,) * (node.output.type.rank - 2))
    return (node.output.shape[-1],)
