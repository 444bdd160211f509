"""ONNX reductions: axes were an attribute until opset 18 (ReduceSum: 13)."""

from __future__ import annotations

from glulam.compiler.graph.graph import Value
from glulam.compiler.graph.types import DType
from glulam.compiler.ops.pointwise import Abs, Cast, Log, Mul
from glulam.compiler.ops.reduce import ArgReduce, Reduce
from glulam.frontends.onnx.context import Context, Converter


def reduce(kind: str, since: int = 18) -> Converter:
    def convert(ctx: Context) -> Value:
        x = ctx[0]
        rank = len(x.shape)
        axes = ctx.ints_from("axes", 1, since)
        keepdims = ctx.flag("keepdims", True)
        noop = ctx.flag("noop_with_empty_axes")
        if not axes and noop:
            return _per_element(ctx, kind, x)
        found = sorted(ctx.axes(axes, rank)) if axes else range(rank)
        return _reduced(ctx, Reduce(kind, tuple(found), keepdims), x)

    return convert


def _reduced(ctx: Context, op: Reduce, x: Value) -> Value:
    """Kinds that divide or take roots work on integers in float64; the largest and smallest of bools as of bytes."""
    dtype = x.type.dtype
    if dtype is DType.BOOL:
        through = DType.U8
    elif not dtype.is_float and op.kind in ("mean", "l2", "log_sum", "log_sum_exp"):
        through = DType.F64
    else:
        return ctx.apply(op, x)
    return ctx.apply(Cast(dtype), ctx.apply(op, ctx.apply(Cast(through), x)))


def _per_element(ctx: Context, kind: str, x: Value) -> Value:
    """What is left of a reduction that reduces nothing."""
    match kind:
        case "l1" | "l2":
            return ctx.apply(Abs(), x)
        case "sum_square":
            return ctx.apply(Mul(), x, x)
        case "log_sum":
            return ctx.apply(Log(), x)
    return x


def arg_reduce(kind: str) -> Converter:
    def convert(ctx: Context) -> Value:
        axis = ctx.axis(ctx.integer("axis", 0), len(ctx[0].shape))
        op = ArgReduce(kind, axis, ctx.flag("keepdims", True), ctx.flag("select_last_index"))
        return ctx.apply(op, ctx[0])

    return convert


TABLE: dict[str, Converter] = {
    "ReduceSum": reduce("sum", since=13),
    "ReduceMean": reduce("mean"),
    "ReduceMax": reduce("max"),
    "ReduceMin": reduce("min"),
    "ReduceProd": reduce("prod"),
    "ReduceL1": reduce("l1"),
    "ReduceL2": reduce("l2"),
    "ReduceSumSquare": reduce("sum_square"),
    "ReduceLogSum": reduce("log_sum"),
    "ReduceLogSumExp": reduce("log_sum_exp"),
    "ArgMax": arg_reduce("max"),
    "ArgMin": arg_reduce("min"),
}
