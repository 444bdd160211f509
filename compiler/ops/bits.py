"""Pointwise ops on bits: those of integers, and rounding to a shorter float."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from glulam.compiler.graph.op import Case
from glulam.compiler.graph.types import DType
from glulam.compiler.loops import expr as ex
from glulam.compiler.loops.expr import Bitcast, Const, Expr
from glulam.compiler.ops.inputs import INTEGERS, NUMBERS
from glulam.compiler.ops.pointwise import Pointwise


class RoundBfloat16(Pointwise):
    """The nearest float32 that bfloat16 has, too: the upper half of its bits, ties to even; NaN stays NaN."""

    name = "round_bfloat16"
    accepts = frozenset({DType.F32})

    def formula(self, x: Expr) -> Expr:
        bits = Bitcast(x, DType.I32)
        odd = ex.binary("shr", bits, 16) & Const(1, DType.I32)
        rounded = Bitcast((bits + 0x7FFF + odd) & Const(-0x10000, DType.I32), DType.F32)
        return ex.where(ex.not_equal(x, x), x, rounded)


class BitwiseAnd(Pointwise):
    """Bits that both have."""

    name = "bitwise_and"
    arity = 2
    accepts = INTEGERS

    def formula(self, x: Expr, y: Expr) -> Expr:
        return x & y


class BitwiseOr(Pointwise):
    """Bits that at least one has."""

    name = "bitwise_or"
    arity = 2
    accepts = INTEGERS

    def formula(self, x: Expr, y: Expr) -> Expr:
        return x | y


class BitwiseXor(Pointwise):
    """Bits that exactly one has."""

    name = "bitwise_xor"
    arity = 2
    accepts = INTEGERS

    def formula(self, x: Expr, y: Expr) -> Expr:
        return x ^ y


class BitwiseNot(Pointwise):
    """The other bits."""

    name = "bitwise_not"
    accepts = INTEGERS

    def formula(self, x: Expr) -> Expr:
        return x ^ Const(-1 if x.dtype.is_signed else (1 << 8 * x.dtype.size) - 1, x.dtype)


@dataclass(frozen=True)
class BitCast(Pointwise):
    """The same bits read as another type of the same size."""

    dtype: DType

    name = "bit_cast"
    accepts = NUMBERS

    def formula(self, x: Expr) -> Expr:
        if x.dtype.size != self.dtype.size or self.dtype not in NUMBERS:
            raise self.fail(f"{x.dtype.value} has not the size of {self.dtype.value}")
        return ex.Bitcast(x, self.dtype)

    @classmethod
    def samples(cls) -> Sequence[Self]:
        return (cls(DType.I32),)

    @classmethod
    def cases(cls) -> Sequence[Case]:
        floats = np.array([[0, -0.0, 1.5], [np.inf, -1e38, 1e-40]], np.float32)
        return (
            Case(cls(DType.I32), (floats,)),
            Case(cls(DType.U32), (floats,)),
            Case(cls(DType.F32), (np.array([0, 1 << 30, -(1 << 29)], np.int32),)),
            Case(cls(DType.I64), (np.array([1.5, -np.inf]),)),
            Case(cls(DType.U8), (np.array([-1, -128, 127], np.int8),)),
            Case(cls(DType.U16), (np.array([-1, 0], np.int16),)),
        )


@dataclass(frozen=True)
class BitShift(Pointwise):
    """The bits of x moved by y places to the "left" or "right"; a right shift of signed integers copies the sign.

    Of a y that is negative, or not below the number of bits, only the fill is left: 0, or -1 for the copied sign.
    """

    direction: str

    name = "bit_shift"
    arity = 2
    accepts = INTEGERS

    def formula(self, x: Expr, y: Expr) -> Expr:
        if self.direction not in ("left", "right"):
            raise self.fail(f"direction is {self.direction!r}; it is 'left' or 'right'")
        bits = 8 * x.dtype.size
        inside = y < bits
        if x.dtype.is_signed:
            inside = inside & (y >= 0)
        places = ex.where(inside, y, bits - 1)
        moved = ex.binary("shl" if self.direction == "left" else "shr", x, places)
        return moved if self.direction == "right" and x.dtype.is_signed else ex.where(inside, moved, 0)

    @classmethod
    def samples(cls) -> Sequence[Self]:
        return (cls("left"), cls("right"))

    @classmethod
    def cases(cls) -> Sequence[Case]:
        unsigned = (np.arange(0, 256, 5, dtype=np.uint8)[:, None], np.arange(10, dtype=np.uint8))
        signed = (np.arange(-128, 128, 5)[:, None], np.array([0, 1, 7, 31, 62, 63, 64, 100, -1, -64]))
        narrow = tuple(array.astype(np.int8) for array in signed)
        return tuple(Case(op, pair) for op in cls.samples() for pair in (unsigned, signed, narrow))
