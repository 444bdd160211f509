"""Regions for tests of kernels: an anchor with relu and, if there is one, a factor behind it."""

from __future__ import annotations

from glulam.compiler.graph.graph import Graph
from glulam.compiler.graph.types import TensorType
from glulam.compiler.ops.activation import Relu
from glulam.compiler.ops.fused import FusedRegion
from glulam.compiler.ops.pointwise import Mul


def with_relu(op, arrays, factor=None, activation=None):
    """The region relu(op(arrays)) * factor and its inputs; missing ones stay missing inside."""
    body = Graph("body")
    values = [None if a is None else body.input(f"x{i}", TensorType.of(a)) for i, a in enumerate(arrays)]
    value = body.apply(activation or Relu(), body.apply(op, *values))
    given = [a for a in arrays if a is not None]
    if factor is not None:
        value = body.apply(Mul(), value, body.input("factor", TensorType.of(factor)))
        given.append(factor)
    body.output("y", value)
    return FusedRegion(body), given
