"""Pointwise ops on the bits of integers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from glulam.compiler.graph.op import Case
from glulam.compiler.loops import expr as ex
from glulam.compiler.loops.expr import Const, Expr
from glulam.compiler.ops.inputs import INTEGERS
from glulam.compiler.ops.pointwise import Pointwise


@dataclass(frozen=True)
class BitwiseAnd(Pointwise):
    """Bits that both have."""

    name = "bitwise_and"
    arity = 2
    accepts = INTEGERS

    def formula(self, x: Expr, y: Expr) -> Expr:
        return x & y


@dataclass(frozen=True)
class BitwiseOr(Pointwise):
    """Bits that at least one has."""

    name = "bitwise_or"
    arity = 2
    accepts = INTEGERS

    def formula(self, x: Expr, y: Expr) -> Expr:
        return x | y


@dataclass(frozen=True)
class BitwiseXor(Pointwise):
    """Bits that exactly one has."""

    name = "bitwise_xor"
    arity = 2
    accepts = INTEGERS

    def formula(self, x: Expr, y: Expr) -> Expr:
        return x ^ y


@dataclass(frozen=True)
class BitwiseNot(Pointwise):
    """The other bits."""

    name = "bitwise_not"
    accepts = INTEGERS

    def formula(self, x: Expr) -> Expr:
        return x ^ Const(-1 if x.dtype.is_signed else (1 << 8 * x.dtype.size) - 1, x.dtype)


@dataclass(frozen=True)
class BitShift(Pointwise):
    """Unsigned x with its bits moved by y places to the "left" or "right"; 0 if none is left."""

    direction: str

    name = "bit_shift"
    arity = 2
    accepts = frozenset(dtype for dtype in INTEGERS if not dtype.is_signed)

    def formula(self, x: Expr, y: Expr) -> Expr:
        if self.direction not in ("left", "right"):
            raise self.fail(f"direction is {self.direction!r}; it is 'left' or 'right'")
        bits = 8 * x.dtype.size
        moved = ex.binary("shl" if self.direction == "left" else "shr", x, ex.minimum(y, bits - 1))
        return ex.where(y < bits, moved, 0)

    @classmethod
    def samples(cls) -> Sequence[Self]:
        return (cls("left"), cls("right"))

    @classmethod
    def cases(cls) -> Sequence[Case]:
        values = np.arange(0, 256, 5, dtype=np.uint8)[:, None]
        return tuple(Case(op, (values, np.arange(10, dtype=np.uint8))) for op in cls.samples())
