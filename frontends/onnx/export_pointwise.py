"""ONNX nodes for pointwise ops; those that ONNX lacks, or got after the opset written, are composed."""

from __future__ import annotations

import math

from glulam.compiler import ops
from glulam.compiler.errors import UnsupportedError
from glulam.compiler.graph.graph import Node
from glulam.compiler.graph.op import Op
from glulam.compiler.graph.types import DType
from glulam.compiler.ops.activation import bounds
from glulam.frontends.onnx.export_integer import integer_sums
from glulam.frontends.onnx.proto import elem_type_of, require_onnx
from glulam.frontends.onnx.writer import Export, Writer


def same(op_type: str) -> Export:
    """An op whose fields are the attributes of the ONNX operator."""

    def export(w: Writer, node: Node) -> None:
        w.emit(op_type, w.inputs(node), w.outputs(node), **node.op.attributes())

    return export


def scale_shift(w: Writer, node: Node) -> None:
    x, scale, shift = w.inputs(node)
    w.emit("Add", [w.call("Mul", x, scale), shift], w.outputs(node))


def silu(w: Writer, node: Node) -> None:
    (x,) = w.inputs(node)
    w.emit("Mul", [x, w.call("Sigmoid", x)], w.outputs(node))


def hard_swish(w: Writer, node: Node) -> None:
    (x,) = w.inputs(node)
    if w.opset >= 14:
        w.emit("HardSwish", [x], w.outputs(node))
    else:
        w.emit("Mul", [x, w.call("HardSigmoid", x, alpha=1 / 6, beta=0.5)], w.outputs(node))


def mish(w: Writer, node: Node) -> None:
    (x,) = w.inputs(node)
    if w.opset >= 18:
        w.emit("Mish", [x], w.outputs(node))
    else:
        w.emit("Mul", [x, w.call("Tanh", w.call("Softplus", x))], w.outputs(node))


def gelu(w: Writer, node: Node) -> None:
    op = node.op
    assert isinstance(op, ops.Gelu)
    (x,) = w.inputs(node)
    dtype = node.output.type.dtype
    if w.opset >= 20:
        w.emit("Gelu", [x], w.outputs(node), approximate=op.approximate)
        return
    if op.approximate == "none":
        inner = w.call("Erf", w.call("Div", x, w.constant(math.sqrt(2), dtype)))
    else:
        scale = math.sqrt(2 / math.pi)
        square = w.call("Mul", x, x)
        factor = w.call("Add", w.call("Mul", square, w.constant(0.044715 * scale, dtype)), w.constant(scale, dtype))
        inner = w.call("Tanh", w.call("Mul", x, factor))
    half = w.call("Mul", x, w.constant(0.5, dtype))
    w.emit("Mul", [half, w.call("Add", inner, w.constant(1, dtype))], w.outputs(node))


def softplus(w: Writer, node: Node) -> None:
    """ONNX's has neither beta nor threshold."""
    op = node.op
    assert isinstance(op, ops.Softplus)
    (x,) = w.inputs(node)
    dtype = node.output.type.dtype
    scaled = x if op.beta == 1 else w.call("Mul", x, w.constant(op.beta, dtype))
    soft = w.call("Softplus", scaled)
    if op.beta != 1:
        soft = w.call("Div", soft, w.constant(op.beta, dtype))
    if math.isinf(op.threshold):
        w.emit("Identity", [soft], w.outputs(node))
    else:
        w.emit("Where", [w.call("Greater", scaled, w.constant(op.threshold, dtype)), x, soft], w.outputs(node))


def clip(w: Writer, node: Node) -> None:
    op = node.op
    assert isinstance(op, ops.Clip)
    dtype = node.output.type.dtype
    given = ["" if bound is None else w.constant(bound, dtype) for bound in bounds(dtype, op.low, op.high)]
    w.emit("Clip", [*w.inputs(node), *given], w.outputs(node))


def cast(w: Writer, node: Node) -> None:
    """Of float64 sums of codes to int32: those that an operator on codes has."""
    assert isinstance(node.op, ops.Cast)
    value = node.inputs[0]
    assert value is not None
    if node.op.dtype is DType.I32 and value.producer and integer_sums(w, value.producer, w.outputs(node)):
        return
    w.emit("Cast", w.inputs(node), w.outputs(node), to=elem_type_of(node.op.dtype))


def through_integer(w: Writer, node: Node) -> None:
    assert isinstance(node.op, ops.ThroughInteger)
    whole = w.call("Cast", *w.inputs(node), to=elem_type_of(node.op.dtype))
    w.emit("Cast", [whole], w.outputs(node), to=elem_type_of(node.output.type.dtype))


def modulo(w: Writer, node: Node) -> None:
    """ONNX's floating-point remainders have the dividend's sign; for the divisor's, y is added where they differ."""
    op = node.op
    assert isinstance(op, ops.Mod)
    x, y = w.inputs(node)
    if op.fmod or not node.output.type.dtype.is_float:
        w.emit("Mod", [x, y], w.outputs(node), fmod=int(op.fmod))
    else:
        zero = w.constant(0, node.output.type.dtype)
        rest = w.call("Mod", x, y, fmod=1)
        differs = w.call("Xor", w.call("Less", rest, zero), w.call("Less", y, zero))
        wrong = w.call("And", differs, w.call("Not", w.call("Equal", rest, zero)))
        w.emit("Where", [wrong, w.call("Add", rest, y), rest], w.outputs(node))


def prelu(w: Writer, node: Node) -> None:
    """ONNX broadcasts the slope to the input only, not the input to the slope."""
    x, slope = w.inputs(node)
    value = node.inputs[0]
    assert value is not None
    if value.shape == node.output.shape:
        w.emit("PRelu", [x, slope], w.outputs(node))
        return
    negative = w.call("Less", x, w.constant(0, value.type.dtype))
    w.emit("Where", [negative, w.call("Mul", slope, x), x], w.outputs(node))


def power(w: Writer, node: Node) -> None:
    """Integers are computed in float64, which not every runtime does by itself."""
    x, y = w.inputs(node)
    if node.output.type.dtype.is_float:
        w.emit("Pow", [x, y], w.outputs(node))
        return
    double = elem_type_of(DType.F64)
    wide = w.call("Pow", w.call("Cast", x, to=double), w.call("Cast", y, to=double))
    w.emit("Cast", [wide], w.outputs(node), to=elem_type_of(node.output.type.dtype))


def round_bfloat16(w: Writer, node: Node) -> None:
    onnx = require_onnx()
    short = w.call("Cast", *w.inputs(node), to=onnx.TensorProto.BFLOAT16)
    w.emit("Cast", [short], w.outputs(node), to=onnx.TensorProto.FLOAT)


def bitwise(w: Writer, node: Node) -> None:
    if w.opset < 18:
        raise UnsupportedError(f"{type(node.op).__name__} needs opset=18")
    w.emit(type(node.op).__name__, w.inputs(node), w.outputs(node))


def bit_shift(w: Writer, node: Node) -> None:
    """Only of unsigned integers, which is what the operator took at these opsets."""
    op = node.op
    assert isinstance(op, ops.BitShift)
    if node.output.type.dtype.is_signed:
        raise UnsupportedError("a shift of signed integers needs an opset beyond those that can be written")
    w.emit("BitShift", w.inputs(node), w.outputs(node), direction=op.direction.upper())


_SAME: tuple[type[Op], ...] = (
    ops.Relu, ops.LeakyRelu, ops.ThresholdedRelu, ops.Elu, ops.Celu, ops.Selu, ops.Sigmoid, ops.HardSigmoid, ops.Tanh,
    ops.Softsign, ops.Shrink, ops.Neg, ops.Abs, ops.Sign, ops.Exp, ops.Log, ops.Sqrt, ops.Reciprocal, ops.Floor,
    ops.Tan, ops.Asin, ops.Acos, ops.Atan, ops.Sinh, ops.Cosh, ops.Asinh, ops.Acosh, ops.Atanh,
    ops.Ceil, ops.Round, ops.Erf, ops.Sin, ops.Cos, ops.Add, ops.Sub, ops.Mul, ops.Div, ops.Equal, ops.Less,
    ops.LessOrEqual, ops.Greater, ops.GreaterOrEqual, ops.Not, ops.And, ops.Or, ops.Xor, ops.Where,
)  # fmt: skip

TABLE: dict[type[Op], Export] = {
    **{op: same(op.__name__) for op in _SAME},
    ops.Maximum: same("Max"),
    ops.Minimum: same("Min"),
    ops.ScaleShift: scale_shift,
    ops.Silu: silu,
    ops.HardSwish: hard_swish,
    ops.Mish: mish,
    ops.Gelu: gelu,
    ops.Softplus: softplus,
    ops.Clip: clip,
    ops.Cast: cast,
    ops.ThroughInteger: through_integer,
    ops.Mod: modulo,
    ops.Pow: power,
    ops.RoundBfloat16: round_bfloat16,
    ops.BitwiseAnd: bitwise,
    ops.BitwiseOr: bitwise,
    ops.BitwiseXor: bitwise,
    ops.BitwiseNot: bitwise,
    ops.BitShift: bit_shift,
    ops.PRelu: prelu,
}
