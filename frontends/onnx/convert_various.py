"""ONNX operators of no family: writing into caches, the bits of numbers."""

from __future__ import annotations

import numpy as np

from glulam.compiler import ops
from glulam.compiler.graph.graph import Value
from glulam.compiler.graph.types import DType
from glulam.frontends.onnx.context import Context, Converter
from glulam.frontends.onnx.proto import dtype_of


def tensor_scatter(ctx: Context) -> Value:
    """New rows written into a cache from one place on, for each element of the batch its own; they may wrap around."""
    cache, update, start = ctx[0], ctx[1], ctx.optional(2)
    rank = len(cache.shape)
    axis = ctx.axis(ctx.integer("axis", -2), rank)
    mode = ctx.text("mode", "linear")
    if axis == 0 or len(update.shape) != rank or mode not in ("linear", "circular"):
        raise ctx.malformed(f"{update.type} into {cache.type} along axis {axis}, mode {mode!r}")
    steps = np.arange(update.shape[axis], dtype=np.int64).reshape(-1, *[1] * (rank - axis - 1))
    places = ctx.constant(steps)
    if start is not None:
        column = ctx.apply(ops.Reshape((start.type.size, *[1] * (rank - 1))), ctx.cast(start, DType.I64))
        places = ctx.apply(ops.Add(), column, places)
    if mode == "circular":
        places = ctx.apply(ops.Mod(False), places, ctx.constant(cache.shape[axis], DType.I64))
    return ctx.apply(ops.ScatterElements(axis), cache, ctx.apply(ops.Expand(update.shape), places), update)


def bit_cast(ctx: Context) -> Value:
    dtype = dtype_of(ctx.integer("to", 0), "attribute to")
    x = ctx[0]
    if x.type.dtype is DType.BOOL:
        x = ctx.apply(ops.Cast(DType.U8), x)
    if dtype is DType.BOOL or x.type.dtype.size != dtype.size:
        raise ctx.unsupported(f"the bits of {x.type.dtype.value} as {dtype.value}")
    return x if x.type.dtype is dtype else ctx.apply(ops.BitCast(dtype), x)


TABLE: dict[str, Converter] = {"TensorScatter": tensor_scatter, "BitCast": bit_cast}
