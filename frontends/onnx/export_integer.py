"""ConvInteger and MatMulInteger for convolutions and products of codes, which the graph has in float64.

As the importer composes them, an operand is a cast of 8-bit codes, less a zero point. What is of another form stays
float64, for which some runtimes have no convolution.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from glulam.compiler import ops
from glulam.compiler.graph.graph import Node, Value
from glulam.compiler.graph.types import Array, DType
from glulam.frontends.onnx.writer import Writer

CODES = (DType.U8, DType.I8)
MOST_TERMS = (2**31 - 1) // 255**2  # that a sum of int32 holds, whatever the codes are


def integer_sums(w: Writer, node: Node, outputs: Sequence[str]) -> bool:
    """Emits the node as an operator on codes with int32 sums; False, and nothing is emitted, if it is none."""
    op = node.op
    if not isinstance(op, ops.Conv | ops.MatMul) or node.output.type.dtype is not DType.F64:
        return False
    first, second, *rest = node.inputs
    assert first is not None
    assert second is not None
    terms = math.prod(second.shape[1:]) if isinstance(op, ops.Conv) else first.shape[-1]
    if terms > MOST_TERMS or any(value is not None for value in rest):
        return False
    left, right = _codes(w, first), _codes(w, second)
    if left is None or right is None:
        return False
    names = [left[0], right[0], left[1], right[1]]
    if isinstance(op, ops.MatMul):
        w.emit("MatMulInteger", names, outputs)
        return True
    w.emit(
        "ConvInteger",
        names,
        outputs,
        kernel_shape=second.shape[2:],
        strides=op.strides,
        pads=[before for before, _ in op.pads] + [after for _, after in op.pads],
        dilations=op.dilations,
        group=op.groups,
    )
    return True


def _codes(w: Writer, value: Value) -> tuple[str, str] | None:
    """Names of the codes and the zero point (empty: there is none) that an operand was made from, if it was."""
    if value.data is not None:
        return _stored(w, value.data)
    centred = _cast_from(value)
    if centred is None:
        return None
    shift: Value | None = None
    if centred.producer is not None and isinstance(centred.producer.op, ops.Sub):
        centred, shift = centred.producer.inputs
        assert centred is not None
    codes = _cast_from(centred)
    if codes is None or codes.type.dtype not in CODES or codes.shape != value.shape:
        return None
    if shift is None:
        return w.name(codes), ""
    zero = _zero(w, shift, codes.type.dtype)
    return None if zero is None else (w.name(codes), zero)


def _zero(w: Writer, shift: Value, dtype: DType) -> str | None:
    """The name of a zero point of the codes' type, which all of them have."""
    if not shift.type.size:
        return None
    if shift.data is None:
        zero = _cast_from(shift)
        if zero is None or zero.type.dtype is not dtype or zero.type.size != 1 or len(zero.shape) > 1:
            return None
        return w.name(zero)
    limits = np.iinfo(dtype.numpy.name)
    number = shift.data.reshape(-1)[0]
    if (shift.data != number).any() or number != np.round(number) or not limits.min <= number <= limits.max:
        return None
    return w.constant(int(number), dtype)


def _stored(w: Writer, numbers: Array) -> tuple[str, str] | None:
    """Whole numbers as codes: with a sign, without, or less a zero point, if they span no more than 8 bits."""
    if not numbers.size or not np.isfinite(numbers).all() or (numbers != np.round(numbers)).any():
        return None
    low, high = min(int(numbers.min()), 0), max(int(numbers.max()), 0)
    if high - low > 255:
        return None
    if low < 0 and -128 <= low <= high <= 127:
        return w.constant(numbers, DType.I8), ""
    return w.constant(numbers - low, DType.U8), w.constant(-low, DType.U8) if low else ""


def _cast_from(value: Value) -> Value | None:
    """What the value is a cast of."""
    made = value.producer
    return made.inputs[0] if made is not None and isinstance(made.op, ops.Cast) else None
