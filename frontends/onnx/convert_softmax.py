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
    """From opset 13 one axis is normalised; before, all dimensions from `axis` on, as if flattened to a matrix."""

    def convert(ctx: Context) -> Value:
        x = ctx[0]
        rank = len(x.shape)
        if ctx.opset >= 13:
            return ctx.apply(op(ctx.axis(ctx.integer("axis", -1), rank)), x)
        axis = ctx.axis(ctx.integer("axis", 1), rank, end=True)
        if axis < rank and math.prod(x.shape[axis + 1 :]) == 1:
            return ctx.apply(op(axis), x)
        matrix = ctx.apply(Reshape((math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))), x)
        return ctx.apply(Reshape(x.shape), ctx.apply(op(1), matrix))

    return convert


TABLE: dict[str, Converter] = {"Softmax": softmax(Softmax), "LogSoftmax": softmax(LogSoftmax)}
