"""Quantised operators of ONNX Runtime's own domain, which its quantiser writes where ONNX has none.

Pointwise operators, pools and the like are the float operator between dequantised operands and a quantised result, as
they are defined. `convert_quantised` has ONNX's own.
"""

from __future__ import annotations

from collections.abc import Callable

from glulam.compiler import ops
from glulam.compiler.graph.graph import Value
from glulam.compiler.graph.op import Op
from glulam.compiler.graph.types import DType
from glulam.frontends.onnx.context import Context, Converter
from glulam.frontends.onnx.convert_pool import averaged
from glulam.frontends.onnx.convert_quantised import (
    centred,
    dequantize_linear,
    qlinear_conv,
    quantised_by_range,
    quantize_linear,
    saturated,
)
from glulam.frontends.onnx.convert_softmax import normalised

DOMAIN = "com.microsoft"


def binary(op: Op) -> Converter:
    def convert(ctx: Context) -> Value:
        return _quantised(ctx, ctx.apply(op, _real(ctx, 0), _real(ctx, 3)), 6)

    return convert


def unary(compute: Callable[[Context, Value], Value]) -> Converter:
    """Of the one operand that the node has."""

    def convert(ctx: Context) -> Value:
        return _quantised(ctx, compute(ctx, _real(ctx, 0)), 3)

    return convert


def _sigmoid(ctx: Context, x: Value) -> Value:
    return ctx.apply(ops.Sigmoid(), x)


def _leaky_relu(ctx: Context, x: Value) -> Value:
    return ctx.apply(ops.LeakyRelu(ctx.number("alpha", 0.01)), x)


def _softmax(ctx: Context, x: Value) -> Value:
    opset = ctx.integer("opset", 13)  # whose meaning of the axis
    return normalised(ctx, ops.Softmax, x, ctx.integer("axis", -1), opset)


def _average_pool(ctx: Context, x: Value) -> Value:
    _channels_first(ctx)
    return averaged(ctx, x)


def _global_average_pool(ctx: Context, x: Value) -> Value:
    _channels_first(ctx)
    return ctx.apply(ops.Reduce("mean", tuple(range(2, len(x.shape))), True), x)


def concat(ctx: Context) -> Value:
    """Scale and zero point of the result come first; then triples of tensor, scale and zero point."""
    count = len(ctx.inputs) - 2
    if count < 3 or count % 3:
        raise ctx.malformed(f"{count} inputs after the result's scale and zero point; they come by threes")
    parts = [_real(ctx, place) for place in range(2, 2 + count, 3)]
    joined = ctx.apply(ops.Concat(ctx.axis(ctx.integer("axis", 0), len(parts[0].shape))), *parts)
    return _quantised(ctx, joined, 0, like=2)


def where(ctx: Context) -> Value:
    return _quantised(ctx, ctx.apply(ops.Where(), ctx[0], _real(ctx, 1), _real(ctx, 4)), 7, like=1)


def gemm(ctx: Context) -> Value:
    """alpha * scales * (A' B' + C), with exact sums; quantised if there is a scale for that, else float32."""
    a, b, c = ctx[0], ctx[3], ctx.optional(6)
    if len(a.shape) != 2 or len(b.shape) != 2:
        raise ctx.malformed(f"QGemm of {a.type} and {b.type}; it takes matrices")
    if ctx.flag("transA"):
        a = ctx.apply(ops.Transpose((1, 0)), a)
    if ctx.flag("transB"):
        b = ctx.apply(ops.Transpose((1, 0)), b)
    rows, columns = centred(ctx, a, ctx.optional(2), DType.F64), centred(ctx, b, ctx.optional(5), DType.F64)
    sums = ctx.apply(ops.MatMul(), rows, columns)
    if c is not None:
        sums = ctx.apply(ops.Add(), sums, ctx.cast(c, DType.F64))
    alpha = ctx.constant(ctx.number("alpha", 1.0), DType.F32)
    scale = ctx.apply(ops.Mul(), ctx.apply(ops.Mul(), _scale(ctx, 1), _scale(ctx, 4)), alpha)
    if ctx.optional(7) is None:
        return ctx.apply(ops.Mul(), ctx.cast(sums, DType.F32), scale)
    scale = ctx.apply(ops.Div(), scale, _scale(ctx, 7))
    codes = ctx.apply(ops.Round(), ctx.apply(ops.Mul(), ctx.cast(sums, DType.F32), scale))
    return saturated(ctx, codes, ctx.optional(8), _type_of_result(ctx, 8, like=0))


def matmul_integer_to_float(ctx: Context) -> Value:
    codes = centred(ctx, ctx[0], ctx.optional(4), DType.F64)
    return _scaled_product(ctx, codes, _scale(ctx, 2), 3, 5, 6)


def dynamic_quantize_matmul(ctx: Context) -> Value:
    """The product of a float operand, quantised by its own range, with codes."""
    codes, scale, zero = quantised_by_range(ctx, ctx[0])
    return _scaled_product(ctx, centred(ctx, codes, zero, DType.F64), scale, 2, 3, 4)


def _scaled_product(ctx: Context, a: Value, a_scale: Value, scale: int, zero: int, bias: int) -> Value:
    """Exact sums of products with the codes of input 1, whose scale and zero point have these places, in float32."""
    b = centred(ctx, ctx[1], ctx.optional(zero), DType.F64)
    sums = ctx.cast(ctx.apply(ops.MatMul(), a, b), DType.F32)
    y = ctx.apply(ops.Mul(), sums, ctx.apply(ops.Mul(), a_scale, _scale(ctx, scale)))
    added = ctx.optional(bias)
    return y if added is None else ctx.apply(ops.Add(), y, added)


def conv(ctx: Context) -> Value:
    _channels_first(ctx)
    return qlinear_conv(ctx)


def _channels_first(ctx: Context) -> None:
    if ctx.flag("channels_last"):
        raise ctx.unsupported("channels_last is not offered")


def _real(ctx: Context, place: int) -> Value:
    """The numbers that the codes of an input stand for, of which scale and zero point follow it."""
    codes = centred(ctx, ctx[place], _point(ctx, place + 2), DType.F32)
    return ctx.apply(ops.Mul(), codes, _scale(ctx, place + 1))


def _quantised(ctx: Context, y: Value, place: int, like: int = 0) -> Value:
    """Codes of `y` by the scale at `place` and the zero point behind it."""
    codes = ctx.apply(ops.Round(), ctx.apply(ops.Div(), y, _scale(ctx, place)))
    return saturated(ctx, codes, _point(ctx, place + 1), _type_of_result(ctx, place + 1, like))


def _type_of_result(ctx: Context, zero: int, like: int) -> DType:
    """That of the zero point, or of the operand's codes if there is none."""
    given = ctx.optional(zero)
    return (ctx[like] if given is None else given).type.dtype


def _scale(ctx: Context, place: int) -> Value:
    return _scalar(ctx, ctx.cast(ctx[place], DType.F32))


def _point(ctx: Context, place: int) -> Value | None:
    zero = ctx.optional(place)
    return None if zero is None else _scalar(ctx, zero)


def _scalar(ctx: Context, x: Value) -> Value:
    """A list of one as a number, so that it broadcasts to tensors without axes too."""
    return ctx.apply(ops.Reshape(()), x) if x.type.size == 1 and x.shape else x


_OWN: dict[str, Converter] = {
    "QuantizeLinear": quantize_linear,
    "DequantizeLinear": dequantize_linear,
    "QLinearAdd": binary(ops.Add()),
    "QLinearMul": binary(ops.Mul()),
    "QLinearSigmoid": unary(_sigmoid),
    "QLinearLeakyRelu": unary(_leaky_relu),
    "QLinearSoftmax": unary(_softmax),
    "QLinearAveragePool": unary(_average_pool),
    "QLinearGlobalAveragePool": unary(_global_average_pool),
    "QLinearConcat": concat,
    "QLinearWhere": where,
    "QLinearConv": conv,
    "QGemm": gemm,
    "MatMulIntegerToFloat": matmul_integer_to_float,
    "DynamicQuantizeMatMul": dynamic_quantize_matmul,
}
TABLE: dict[str, Converter] = {f"{DOMAIN}.{name}": convert for name, convert in _OWN.items()}
