"""Matrix products in a common form: left [*batch, M, K], right [*batch, K, N] or [N, K], output [*batch, M, N].

Operands are plain, so adding an axis or merging axes changes their type only. Contexts made here keep the number of
each input.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from glulam.compiler.graph.types import DType
from glulam.compiler.kernels.context import Context, Point, View, broadcast
from glulam.compiler.kernels.operand import Operand
from glulam.compiler.loops.expr import Const, Expr, Fma
from glulam.compiler.loops.index import IndexLike, Var
from glulam.compiler.loops.ir import Buffer


def with_columns(ctx: Context) -> Context:
    """The same problem with the axis of columns that a vector on the right lacks."""
    right = ctx.operand(1)
    if right.type.rank > 1:
        return ctx
    inputs = [ctx.inputs[0], _axis(right, 1), *(_axis_of_extra(ctx, i, 0) for i in range(2, len(ctx.inputs)))]
    return Context(ctx.name, ctx.target, inputs, [_axis(ctx.output, ctx.output.type.rank)], ctx.epilogue)


def with_rows(ctx: Context) -> Context:
    """The same problem with the axis of rows that a vector on the left lacks; the columns have theirs."""
    left = ctx.operand(0)
    if left.type.rank > 1:
        return ctx
    inputs = [_axis(left, 0), *(_axis_of_extra(ctx, i, 1) for i in range(1, len(ctx.inputs)))]
    return Context(ctx.name, ctx.target, inputs, [_axis(ctx.output, ctx.output.type.rank - 1)], ctx.epilogue)


def _axis_of_extra(ctx: Context, i: int, from_end: int) -> Operand | None:
    """Input `i` with one more axis, `from_end` axes before the end, if it belongs to the epilogue."""
    operand = ctx.inputs[i]
    if operand is None or i not in ctx.epilogue.inputs or operand.type.rank < from_end:
        return operand
    return _axis(operand, operand.type.rank - from_end)


def _axis(operand: Operand, at: int) -> Operand:
    """The operand with an axis of one element inserted."""
    shape = (*operand.shape[:at], 1, *operand.shape[at:])
    strides = operand.strides
    if strides is not None:
        strides = (*strides[:at], 1, *strides[at:])
    return operand.reshaped(shape, strides)


def without_batch(ctx: Context) -> Context:
    """The right operand as a matrix; its batch axes have one element."""
    right = ctx.operand(1)
    inputs = [ctx.inputs[0], right.reshaped(right.shape[-2:], right.strides and right.strides[-2:]), *ctx.inputs[2:]]
    return Context(ctx.name, ctx.target, inputs, ctx.outputs, ctx.epilogue)


def merged_rows(ctx: Context) -> Context | None:
    """All axes but the last as one of rows, None if an operand's memory forbids it. The right operand has no batch."""
    lead = ctx.output.shape[:-1]
    if len(lead) == 1:
        return ctx
    rows = math.prod(lead)
    inputs = list(ctx.inputs)
    for i in (0, *ctx.epilogue.inputs):
        operand = ctx.operand(i)
        extents = ((1,) * (len(lead) + 1 - operand.type.rank) + operand.shape)[:-1]
        if operand.strides is not None or extents not in (lead, (1,) * len(lead)):
            return None
        if operand.type.rank:
            inputs[i] = operand.reshaped((rows if extents == lead else 1, operand.shape[-1]))
    if ctx.output.strides is not None:
        return None
    return Context(ctx.name, ctx.target, inputs, [ctx.output.reshaped((rows, ctx.output.shape[-1]))], ctx.epilogue)


def batch_point(ctx: Context, i: int, batch: Sequence[Var], row: IndexLike, column: IndexLike) -> Point:
    """Where matrix operand `i` has an element, its batch axes broadcast to those of the output."""
    extents = ctx.operand(i).shape[:-2]
    point: Point = tuple(batch[len(batch) - len(extents) :])
    return (*broadcast(point, extents), row, column)


def source(ctx: Context, i: int) -> View | Buffer:
    """Input `i` read where it lies, in its logical shape, whether known at compile time or not."""
    data = ctx.data(i)
    return ctx.input_view(i) if data is None else ctx.constant(data, "c")


def multiply_add(x: Expr, y: Expr, z: Expr) -> Expr:
    """x * y + z, with one rounding for floats."""
    return Fma(x, y, z) if x.dtype.is_float else x * y + z


def zero(dtype: DType) -> Const:
    return Const(0.0 if dtype.is_float else 0, dtype)
