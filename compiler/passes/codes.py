"""Codes of one byte: all there are, what ops make of each, and the same codes moved or stored as bytes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from glulam.compiler.graph.graph import Node, Value
from glulam.compiler.graph.op import Trait
from glulam.compiler.graph.patch import Patch
from glulam.compiler.graph.types import Array, DType
from glulam.compiler.ops import Add, Cast, Expand, MaxPool, Slice, Split, ThroughInteger, Transpose
from glulam.compiler.passes.codes_as_floats import before_cast
from glulam.compiler.passes.whole_numbers import range_of_type

BYTES = (DType.U8, DType.I8)


def every_code(dtype: DType, held_as: DType) -> Array:
    """The 256 numbers of a type of BYTES from the lowest on, in the type that holds them."""
    limits = range_of_type(dtype)
    return np.arange(limits.low, limits.high + 1).astype(held_as.numpy)


def computed(nodes: Sequence[Node], source: Value, numbers: Array) -> Array:
    """What the last of some pointwise nodes, in their order, gives where `source` has these numbers.

    All other inputs are constants of one element. Without nodes, the numbers.
    """
    known: dict[Value, Array] = {source: numbers}
    result = numbers
    for node in nodes:
        inputs = [known[value] if value.data is None else value.data.reshape(()) for value in node.present_inputs()]
        result = known[node.output] = np.broadcast_to(node.op.reference(*inputs)[0], numbers.shape)
    return result


def moves(node: Node) -> bool:
    """Whether all that the node gives are elements of its only input: codes stay codes, wherever they go."""
    if isinstance(node.op, MaxPool):
        (x,) = node.present_inputs()
        return not node.op.has_empty_windows(x.shape[2:])
    return isinstance(node.op, Expand | Slice | Split | Transpose) or Trait.VIEW in node.op.traits


def stored(patch: Patch, value: Value, offset: int, name: str | None = None, dtype: DType = DType.U8) -> Value:
    """The codes plus an offset that makes bytes of them, in one of BYTES.

    NaN, for which there is no code, becomes the lowest one.
    """
    node = value.producer
    if node is not None and any(node.op == ThroughInteger(own, True) and _becomes(own, offset, dtype) for own in BYTES):
        (value,) = node.present_inputs()  # the cast cuts off the same numbers
    return patch.apply(Cast(dtype), moved(patch, value, offset, dtype), name=name)


def _becomes(own: DType, offset: int, dtype: DType) -> bool:
    """Whether the codes of one of BYTES plus an offset, which is not 0, are those of another one."""
    return offset != 0 and range_of_type(own).low + offset == range_of_type(dtype).low


def moved(patch: Patch, value: Value, offset: int, dtype: DType = DType.U8) -> Value:
    """Numbers plus an offset; if there is none, what a cast to `dtype` makes the same of."""
    if not offset:
        return before_cast(value, dtype)
    if value.type.dtype in BYTES:  # which do not hold the sum
        value = patch.apply(Cast(DType.I16), value)
    return patch.apply(Add(), value, patch.constant(np.asarray(offset, value.type.dtype.numpy), "offset"))
