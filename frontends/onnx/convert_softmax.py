"""ONNX softmax, whose axis changed its meaning at opset 13."""

from __future__ import annotations

import math
from collections.abc import Callable

from glulam.compiler.graph.graph import Value
from glulam.compiler.graph.op import Op
from glulam.compiler.ops.movement import Reshape
from glulam.compiler.ops.softmax import LogSoftmax, Softmax
from glulam.frontends.onnx.context import Context, Converter


def softmax(op: Callable[[int], Op]) -> Converter:
    def convert(ctx: Context) -> Value:
        return normalised(ctx, op, ctx[0], ctx.integer("axis", -1 if ctx.opset >= 13 else 1), ctx.opset)

    return convert


def normalised(ctx: Context, op: Callable[[int], Op], x: Value, axis: int, opset: int) -> Value:
    """From opset 13 one axis is normalised; before, all dimensions from `axis` on, as if flattened to a matrix."""
    rank = len(x.shape)
    axis = ctx.axis(axis, rank, end=opset < 13)
    if opset >= 13 or (axis < rank and math.prod(x.shape[axis + 1 :]) == 1):
        return ctx.apply(op(axis), x)
    matrix = ctx.apply(Reshape((math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))), x)
    return ctx.apply(Reshape(x.shape), ctx.apply(op(1), matrix))


TABLE: dict[str, Converter] = {"Softmax": softmax(Softmax), "LogSoftmax": softmax(LogSoftmax)}
