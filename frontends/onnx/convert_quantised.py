"""ONNX's quantised operators, composed of float arithmetic that is exact for the integers that occur.

Sums of products of codes are in float64, which holds them all, and for which no algorithm adds up anything else.
"""

from __future__ import annotations

import numpy as np

from glulam.compiler import ops
from glulam.compiler.graph.graph import Value
from glulam.compiler.graph.types import DType
from glulam.frontends.onnx.context import Context, Converter
from glulam.frontends.onnx.convert_conv import window_of
from glulam.frontends.onnx.proto import dtype_of


def quantize_linear(ctx: Context) -> Value:
    """saturate(round(x / scale) + zero point)."""
    x, scale, zero = ctx[0], ctx[1], ctx.optional(2)
    ctx.ignore("saturate", "precision")
    wanted = ctx.integer("output_dtype", 0)
    dtype = zero.type.dtype if zero is not None else dtype_of(wanted, "attribute output_dtype") if wanted else DType.U8
    axis, block = ctx.integer("axis", 1), ctx.integer("block_size", 0)
    steps = _along(ctx, ctx.cast(scale, DType.F32), x, axis, block)
    codes = ctx.apply(ops.Round(), ctx.apply(ops.Div(), ctx.cast(x, DType.F32), steps))
    shift = None if zero is None else _along(ctx, zero, x, axis, block)
    return saturated(ctx, codes, shift, dtype)


def dequantize_linear(ctx: Context) -> Value:
    """(x - zero point) * scale."""
    x, scale, zero = ctx[0], ctx[1], ctx.optional(2)
    axis, block = ctx.integer("axis", 1), ctx.integer("block_size", 0)
    wanted = ctx.integer("output_dtype", 0)
    dtype = dtype_of(wanted, "attribute output_dtype") if wanted else scale.type.dtype
    wide = exact_type(x.type.dtype)
    codes = ctx.cast(x, wide)
    if zero is not None:
        codes = ctx.apply(ops.Sub(), codes, _along(ctx, ctx.cast(zero, wide), x, axis, block))
    steps = _along(ctx, ctx.cast(scale, DType.F32), x, axis, block)
    return ctx.cast(ctx.apply(ops.Mul(), ctx.cast(codes, DType.F32), steps), dtype)


def dynamic_quantize_linear(ctx: Context) -> tuple[Value, ...]:
    return quantised_by_range(ctx, ctx[0])


def quantised_by_range(ctx: Context, x: Value) -> tuple[Value, Value, Value]:
    """Codes 0 to 255 for what lies between the least and the largest element, and 0; their scale and zero point.

    Where all elements are 0 the scale is 1, as ONNX Runtime has it: by the text it were 0, and codes were 0 / 0.
    """
    nothing = ctx.constant(0, DType.F32)
    low = ctx.apply(ops.Minimum(), _extreme(ctx, "min", x), nothing)
    high = ctx.apply(ops.Maximum(), _extreme(ctx, "max", x), nothing)
    step = ctx.apply(ops.Div(), ctx.apply(ops.Sub(), high, low), ctx.constant(255, DType.F32))
    scale = ctx.apply(ops.Where(), ctx.apply(ops.Equal(), step, nothing), ctx.constant(1, DType.F32), step)
    start = ctx.apply(ops.Round(), ctx.apply(ops.Sub(), nothing, ctx.apply(ops.Div(), low, scale)))
    zero = saturated(ctx, start, None, DType.U8)
    codes = ctx.apply(ops.Round(), ctx.apply(ops.Div(), x, scale))
    return saturated(ctx, codes, zero, DType.U8), scale, zero


def _extreme(ctx: Context, kind: str, x: Value) -> Value:
    """The least or the largest element; of images first that of each channel, which channel blocks give as well."""
    axes = tuple(range(len(x.shape)))
    if len(axes) > 3:
        x = ctx.apply(ops.Reduce(kind, axes[2:], True), x)
    return ctx.apply(ops.Reduce(kind, axes, False), x)


def matmul_integer(ctx: Context) -> Value:
    a = centred(ctx, ctx[0], ctx.optional(2), DType.F64, rows=True)
    b = centred(ctx, ctx[1], ctx.optional(3), DType.F64)
    return ctx.cast(ctx.apply(ops.MatMul(), a, b), DType.I32)


def qlinear_matmul(ctx: Context) -> Value:
    a_scale, b_scale, y_scale = (ctx.cast(ctx[i], DType.F32) for i in (1, 4, 6))
    a = centred(ctx, ctx[0], ctx[2], DType.F64, rows=True)
    b = centred(ctx, ctx[3], ctx[5], DType.F64)
    product = ctx.cast(ctx.apply(ops.MatMul(), a, b), DType.F32)
    scale = ctx.apply(ops.Div(), ctx.apply(ops.Mul(), as_column(ctx, a_scale), b_scale), y_scale)
    codes = ctx.apply(ops.Round(), ctx.apply(ops.Mul(), product, scale))
    return saturated(ctx, codes, ctx[7], ctx[7].type.dtype)


def conv_integer(ctx: Context) -> Value:
    sums = _convolved(ctx, ctx[0], ctx.optional(2), ctx[1], ctx.optional(3))
    return ctx.cast(sums, DType.I32)


def qlinear_conv(ctx: Context) -> Value:
    x_scale, w_scale, y_scale = (ctx.cast(ctx[i], DType.F32) for i in (1, 4, 6))
    rank = len(ctx[0].shape)
    sums = _convolved(ctx, ctx[0], ctx[2], ctx[3], ctx[5])
    if ctx.optional(8) is not None:
        sums = ctx.apply(ops.Add(), sums, per_channel(ctx, ctx.cast(ctx[8], DType.F64), rank))
    scale = ctx.apply(ops.Div(), ctx.apply(ops.Mul(), x_scale, per_channel(ctx, w_scale, rank)), y_scale)
    codes = ctx.apply(ops.Round(), ctx.apply(ops.Mul(), ctx.cast(sums, DType.F32), scale))
    return saturated(ctx, codes, ctx[7], ctx[7].type.dtype)


def _convolved(ctx: Context, x: Value, x_zero: Value | None, w: Value, w_zero: Value | None) -> Value:
    """The sums of a convolution of codes, in float64. Padding stands for the zero point, which is 0 here."""
    codes = centred(ctx, x, x_zero, DType.F64)
    if w_zero is not None and w_zero.type.size > 1:
        w_zero = ctx.apply(ops.Reshape((w_zero.type.size, *[1] * (len(w.shape) - 1))), w_zero)
    weights = centred(ctx, w, w_zero, DType.F64)
    window = window_of(ctx, x, w)
    return ctx.apply(ops.Conv(window.strides, window.pads, window.dilations, ctx.integer("group", 1)), codes, weights)


def centred(ctx: Context, x: Value, zero: Value | None, dtype: DType, *, rows: bool = False) -> Value:
    """Codes less their zero point; one for each row of a matrix with `rows`, else one for each column."""
    wide = exact_type(x.type.dtype)
    codes = ctx.cast(x, wide)
    if zero is not None:
        shift = ctx.cast(zero, wide)
        codes = ctx.apply(ops.Sub(), codes, as_column(ctx, shift) if rows else shift)
    return ctx.cast(codes, dtype)


def exact_type(codes: DType) -> DType:
    """A type for differences of codes: float32, in which all that follows may be, or if it does not hold them int32."""
    return DType.F32 if codes.size <= 2 else DType.I32


def as_column(ctx: Context, x: Value) -> Value:
    """A list as a column."""
    return ctx.apply(ops.Reshape((x.type.size, 1)), x) if len(x.shape) == 1 and x.type.size > 1 else x


def per_channel(ctx: Context, x: Value, rank: int) -> Value:
    return ctx.apply(ops.Reshape((x.type.size, *[1] * (rank - 2))), x) if x.type.size > 1 else x


def _along(ctx: Context, x: Value, like: Value, axis: int, block: int) -> Value:
    """A scale or zero point so that it broadcasts: for all, along an axis, or for blocks along it."""
    if x.type.size == 1 and not block:
        return ctx.apply(ops.Reshape(()), x) if x.shape else x
    rank = len(like.shape)
    place = ctx.axis(axis, rank)
    if not block:
        if x.shape != (like.shape[place],):
            raise ctx.malformed(f"a scale of type {x.type} for axis {place} of {like.type}")
        return ctx.apply(ops.Reshape((x.type.size, *[1] * (rank - place - 1))), x)
    count = -(-like.shape[place] // block)
    if len(x.shape) != rank or x.shape[place] != count:
        raise ctx.malformed(f"a scale of type {x.type} for blocks of {block} along axis {place} of {like.type}")
    places = np.arange(like.shape[place], dtype=np.int64) // block
    return ctx.apply(ops.Gather(place), x, ctx.constant(places))


def saturated(ctx: Context, codes: Value, zero: Value | None, dtype: DType) -> Value:
    """Whole floats plus the zero point, within the range of the type."""
    if dtype.is_float:
        raise ctx.unsupported(f"codes of type {dtype.value}")
    if zero is not None:
        codes = ctx.apply(ops.Add(), codes, ctx.cast(zero, DType.F32))
    limits = np.iinfo(dtype.numpy.name)
    return ctx.cast(ctx.apply(ops.Clip(float(limits.min), float(limits.max)), codes), dtype)


TABLE: dict[str, Converter] = {
    "QuantizeLinear": quantize_linear,
    "DequantizeLinear": dequantize_linear,
    "DynamicQuantizeLinear": dynamic_quantize_linear,
    "MatMulInteger": matmul_integer,
    "QLinearMatMul": qlinear_matmul,
    "ConvInteger": conv_integer,
    "QLinearConv": qlinear_conv,
}
