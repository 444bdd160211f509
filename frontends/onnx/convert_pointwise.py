"""ONNX operators that work element by element: activations, arithmetic, comparisons, logic, conversions."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from glulam.compiler import ops
from glulam.compiler.graph.graph import Value
from glulam.compiler.graph.op import Op
from glulam.compiler.graph.types import DType
from glulam.frontends.onnx.context import Context, Converter
from glulam.frontends.onnx.proto import dtype_of, is_bfloat16


def unary(op: Callable[[], Op]) -> Converter:
    def convert(ctx: Context) -> Value:
        ctx.ignore("consumed_inputs")
        return ctx.apply(op(), ctx[0])

    return convert


def with_numbers(op: Callable[..., Op], **defaults: float) -> Converter:
    """An op whose fields are number attributes of the same names."""

    def convert(ctx: Context) -> Value:
        ctx.ignore("consumed_inputs")
        return ctx.apply(op(**{name: ctx.number(name, default) for name, default in defaults.items()}), ctx[0])

    return convert


def shrink(ctx: Context) -> Value:
    """Integers by way of float64: bias and threshold need not be whole."""
    op, x = ops.Shrink(ctx.number("bias", 0.0), ctx.number("lambd", 0.5)), ctx[0]
    if x.type.dtype.is_float:
        return ctx.apply(op, x)
    return ctx.cast(ctx.apply(op, ctx.cast(x, DType.F64)), x.type.dtype)


def sign(ctx: Context) -> Value:
    x = ctx[0]
    if x.type.dtype.is_signed:
        return ctx.apply(ops.Sign(), x)
    return ctx.apply(ops.Minimum(), x, ctx.constant(1, x.type.dtype))


def binary(op: Callable[[], Op]) -> Converter:
    def convert(ctx: Context) -> Value:
        x, y = _legacy_broadcast(ctx)
        return ctx.apply(op(), x, y)

    return convert


def _legacy_broadcast(ctx: Context) -> tuple[Value, Value]:
    """Before opset 7, broadcasting had to be asked for, and `axis` said where the second shape starts in the first."""
    x, y = ctx[0], ctx[1]
    ctx.ignore("consumed_inputs")
    if ctx.opset >= 7:
        return x, y
    asked = ctx.flag("broadcast")
    start = ctx.integer("axis", len(x.shape) - len(y.shape))
    if asked and y.shape:
        start = ctx.axis(start, len(x.shape))
        y = ctx.apply(ops.Reshape(y.shape + (1,) * (len(x.shape) - start - len(y.shape))), y)
    return x, y


def variadic(op: Callable[[], Op]) -> Converter:
    def convert(ctx: Context) -> Value:
        ctx.ignore("consumed_inputs")
        total = ctx[0]
        for index in range(1, len(ctx.inputs)):
            total = ctx.apply(op(), total, ctx[index])
        return total

    return convert


def mean(ctx: Context) -> Value:
    total = variadic(ops.Add)(ctx)
    assert isinstance(total, Value)
    return ctx.apply(ops.Div(), total, ctx.constant(len(ctx.inputs), total.type.dtype))


def power(ctx: Context) -> Value:
    """The exponent may have a type of its own; the result has the base's. The op computes integers in float64."""
    x, y = _legacy_broadcast(ctx)
    return ctx.apply(ops.Pow(), x, ctx.cast(y, x.type.dtype) if x.type.dtype.is_float else y)


def modulo(ctx: Context) -> Value:
    fmod = ctx.flag("fmod")
    if ctx[0].type.dtype.is_float and not fmod and ctx.opset < 28:
        raise ctx.malformed("Mod of floating-point numbers needs fmod=1")
    return ctx.apply(ops.Mod(fmod), ctx[0], ctx[1])


def clip(ctx: Context) -> Value:
    """Bounds were attributes before opset 11; as inputs, either may be left out or be computed."""
    x = ctx[0]
    if ctx.opset < 11:
        ctx.ignore("consumed_inputs")
        return ctx.apply(ops.Clip(ctx.number("min", -math.inf), ctx.number("max", math.inf)), x)
    low, high = ctx.optional(1), ctx.optional(2)
    bounds = [None if v is None else ctx.builder.known(v) for v in (low, high)]
    for value in (low, high):
        if value is not None and value.type.size != 1:
            raise ctx.malformed(f"Clip bounds are scalars, not {value.type}")
    if x.type.dtype.is_float and all(v is None or b is not None for v, b in zip((low, high), bounds, strict=True)):
        lowest = -math.inf if bounds[0] is None else float(bounds[0].reshape(-1)[0])
        highest = math.inf if bounds[1] is None else float(bounds[1].reshape(-1)[0])
        return ctx.apply(ops.Clip(lowest, highest), x)
    if low is not None:
        x = ctx.apply(ops.Maximum(), x, _scalar(ctx, low))
    return x if high is None else ctx.apply(ops.Minimum(), x, _scalar(ctx, high))


def _scalar(ctx: Context, value: Value) -> Value:
    return value if value.shape == () else ctx.apply(ops.Reshape(()), value)


def gelu(ctx: Context) -> Value:
    form = ctx.text("approximate", "none")
    if form not in ("none", "tanh"):
        raise ctx.malformed(f"approximate={form!r}; it is none or tanh")
    return ctx.apply(ops.Gelu(form), ctx[0])


def swish(ctx: Context) -> Value:
    alpha = ctx.number("alpha", 1.0)
    x = ctx[0]
    if alpha == 1.0:
        return ctx.apply(ops.Silu(), x)
    return ctx.apply(ops.Mul(), x, ctx.apply(ops.Sigmoid(), ctx.apply(ops.Mul(), x, ctx.constant(alpha, x.type.dtype))))


def prelu(ctx: Context) -> Value:
    """Before opset 7 the slope was per channel; since then it broadcasts like numpy's arrays."""
    x, slope = ctx[0], ctx[1]
    ctx.ignore("consumed_inputs")
    if ctx.opset < 7 and len(slope.shape) == 1 and len(x.shape) > 2:
        slope = ctx.apply(ops.Reshape(slope.shape + (1,) * (len(x.shape) - 2)), slope)
    return ctx.apply(ops.PRelu(), x, slope)


def cast(ctx: Context) -> Value:
    ctx.ignore("saturate", "round_mode")
    kind = ctx.integer("to", 0)
    result = ctx.cast(ctx[0], dtype_of(kind, "attribute to"))
    return ctx.apply(ops.RoundBfloat16(), result) if is_bfloat16(kind) else result


def cast_like(ctx: Context) -> Value:
    ctx.ignore("saturate", "round_mode")
    return ctx.cast(ctx[0], ctx[1].type.dtype)


def is_nan(ctx: Context) -> Value:
    return ctx.apply(ops.Not(), ctx.apply(ops.Equal(), ctx[0], ctx[0]))


def is_inf(ctx: Context) -> Value:
    x = ctx[0]
    positive, negative = ctx.flag("detect_positive", True), ctx.flag("detect_negative", True)
    if positive and negative:
        return ctx.apply(ops.Equal(), ctx.apply(ops.Abs(), x), ctx.constant(np.inf, x.type.dtype))
    if not positive and not negative:
        return ctx.builder.filled(np.asarray(False), x.shape, ctx.base)
    return ctx.apply(ops.Equal(), x, ctx.constant(np.inf if positive else -np.inf, x.type.dtype))


def bit_shift(ctx: Context) -> Value:
    direction = ctx.text("direction", "").lower()
    if direction not in ("left", "right"):
        raise ctx.malformed(f"direction={direction!r}; it is LEFT or RIGHT")
    return ctx.apply(ops.BitShift(direction), ctx[0], ctx[1])


def where(ctx: Context) -> Value:
    return ctx.apply(ops.Where(), ctx[0], ctx[1], ctx[2])


def softplus() -> Op:
    """Past 20, log(1 + exp(x)) is x in float32."""
    return ops.Softplus(1.0, 20.0)


_UNARY: dict[str, Callable[[], Op]] = {
    "Relu": ops.Relu,
    "Sigmoid": ops.Sigmoid,
    "Tanh": ops.Tanh,
    "Exp": ops.Exp,
    "Log": ops.Log,
    "Sqrt": ops.Sqrt,
    "Neg": ops.Neg,
    "Abs": ops.Abs,
    "Floor": ops.Floor,
    "Ceil": ops.Ceil,
    "Round": ops.Round,
    "Erf": ops.Erf,
    "Reciprocal": ops.Reciprocal,
    "Not": ops.Not,
    "Sin": ops.Sin,
    "Cos": ops.Cos,
    "Tan": ops.Tan,
    "Asin": ops.Asin,
    "Acos": ops.Acos,
    "Atan": ops.Atan,
    "Sinh": ops.Sinh,
    "Cosh": ops.Cosh,
    "Asinh": ops.Asinh,
    "Acosh": ops.Acosh,
    "Atanh": ops.Atanh,
    "BitwiseNot": ops.BitwiseNot,
    "Softsign": ops.Softsign,
    "Mish": ops.Mish,
    "HardSwish": ops.HardSwish,
    "Softplus": softplus,
}

_BINARY: dict[str, Callable[[], Op]] = {
    "Add": ops.Add,
    "Sub": ops.Sub,
    "Mul": ops.Mul,
    "Div": ops.Div,
    "Equal": ops.Equal,
    "Less": ops.Less,
    "LessOrEqual": ops.LessOrEqual,
    "Greater": ops.Greater,
    "GreaterOrEqual": ops.GreaterOrEqual,
    "And": ops.And,
    "Or": ops.Or,
    "Xor": ops.Xor,
    "BitwiseAnd": ops.BitwiseAnd,
    "BitwiseOr": ops.BitwiseOr,
    "BitwiseXor": ops.BitwiseXor,
}

TABLE: dict[str, Converter] = {
    **{name: unary(op) for name, op in _UNARY.items()},
    **{name: binary(op) for name, op in _BINARY.items()},
    "LeakyRelu": with_numbers(ops.LeakyRelu, alpha=0.01),
    "Elu": with_numbers(ops.Elu, alpha=1.0),
    "Celu": with_numbers(ops.Celu, alpha=1.0),
    "Selu": with_numbers(ops.Selu, alpha=1.67326319217681884765625, gamma=1.05070102214813232421875),
    "HardSigmoid": with_numbers(ops.HardSigmoid, alpha=0.2, beta=0.5),
    "ThresholdedRelu": with_numbers(ops.ThresholdedRelu, alpha=1.0),
    "Shrink": shrink,
    "Sign": sign,
    "Max": variadic(ops.Maximum),
    "Min": variadic(ops.Minimum),
    "Sum": variadic(ops.Add),
    "Mean": mean,
    "Pow": power,
    "Mod": modulo,
    "Clip": clip,
    "Gelu": gelu,
    "Swish": swish,
    "PRelu": prelu,
    "Cast": cast,
    "CastLike": cast_like,
    "IsNaN": is_nan,
    "IsInf": is_inf,
    "BitShift": bit_shift,
    "Where": where,
}
