"""Codes of one byte: all there are, what ops make of each, and the same codes moved or stored as bytes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from glulam.compiler.graph.graph import Node, Value
from glulam.compiler.graph.patch import Patch
from glulam.compiler.graph.types import Array, DType
from glulam.compiler.ops import Add, Cast, ThroughInteger
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


def is_number(value: Value) -> bool:
    """Whether it is a constant of one element."""
    return value.data is not None and value.type.size == 1


def stored(patch: Patch, value: Value, offset: int, name: str | None = None) -> Value:
    """The codes plus an offset that makes bytes of them, as U8.

    NaN, for which there is no code, becomes the lowest one.
    """
    node = value.producer
    if node is not None and node.op == ThroughInteger(DType.I8, True) and -offset == range_of_type(DType.I8).low:
        (value,) = node.present_inputs()  # the cast cuts off the same numbers
    return patch.apply(Cast(DType.U8), moved(patch, value, offset), name=name)


def moved(patch: Patch, value: Value, offset: int) -> Value:
    """Numbers plus an offset; if there is none, what a cast to U8 makes the same of."""
    if not offset:
        return before_cast(value, DType.U8)
    if value.type.dtype is DType.I8:  # which does not hold the sum
        value = patch.apply(Cast(DType.I16), value)
    return patch.apply(Add(), value, patch.constant(np.asarray(offset, value.type.dtype.numpy), "offset"))
