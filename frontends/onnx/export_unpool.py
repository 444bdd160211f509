"""ONNX nodes for max pools with indices and for unpooling: ONNX counts places through the whole tensor."""

from __future__ import annotations

import math

import numpy as np

from glulam.compiler import ops
from glulam.compiler.errors import UnsupportedError
from glulam.compiler.graph.graph import Node
from glulam.compiler.graph.op import Op
from glulam.compiler.graph.types import Array, DType, Shape
from glulam.frontends.onnx.proto import elem_type_of
from glulam.frontends.onnx.writer import Export, Writer


def _plane_starts(shape: Shape, size: int) -> Array:
    """Elements in front of each plane of `size` elements, to be added to the places [N, C, *S]."""
    planes = np.arange(math.prod(shape[:2]), dtype=np.int64) * size
    return planes.reshape(*shape[:2], *(1,) * (len(shape) - 2))


def max_pool_indices(w: Writer, node: Node) -> None:
    op, x = node.op, node.inputs[0]
    assert isinstance(op, ops.MaxPoolIndices)
    assert x is not None
    if any(max(pad) >= k for pad, k in zip(op.pads, op.kernel, strict=True)):
        raise UnsupportedError("ONNX has no pool with indices whose padding is as wide as its kernel")
    values, places = w.outputs(node)
    counted = w.fresh(f"{places}.counted") if op.per_plane else places
    w.emit(
        "MaxPool",
        w.inputs(node),
        [values, counted],
        kernel_shape=op.kernel,
        strides=op.strides,
        pads=[before for before, _ in op.pads] + [after for _, after in op.pads],
        dilations=op.dilations,
        ceil_mode=int(op.ceil_mode),
        storage_order=int(op.column_major),
    )
    if op.per_plane:
        starts = w.constant(_plane_starts(x.shape, math.prod(x.shape[2:])))
        w.emit("Sub", [counted, starts], [places])


def max_unpool(w: Writer, node: Node) -> None:
    """As if the windows were one element apart, and large enough to reach the output's end."""
    op, x, places = node.op, node.inputs[0], node.inputs[1]
    assert isinstance(op, ops.MaxUnpool)
    assert x is not None
    assert places is not None
    kernel = [size - (n - 1) for size, n in zip(op.sizes, x.shape[2:], strict=True)]
    if min(kernel) < 1:
        raise UnsupportedError(f"ONNX cannot unpool {x.type} to the smaller extents {list(op.sizes)}")
    values, counted = w.inputs(node)
    if places.type.dtype is not DType.I64:
        counted = w.call("Cast", counted, to=elem_type_of(DType.I64))
    if op.per_plane:
        counted = w.call("Add", counted, w.constant(_plane_starts(x.shape, math.prod(op.sizes))))
    w.emit("MaxUnpool", [values, counted], w.outputs(node), kernel_shape=kernel, strides=[1] * len(kernel))


TABLE: dict[type[Op], Export] = {ops.MaxPoolIndices: max_pool_indices, ops.MaxUnpool: max_unpool}
