"""Pointwise comparison, boolean logic and selection. Comparisons with NaN are false."""

from __future__ import annotations

from collections.abc import Sequence

from glulam.compiler.graph.op import Case
from glulam.compiler.graph.types import TensorType, f32
from glulam.compiler.loops import expr as ex
from glulam.compiler.loops.expr import Expr
from glulam.compiler.ops.inputs import ANY, BOOLS, NUMBERS, boolean, check_dtype, i64
from glulam.compiler.ops.pointwise import EDGES, Pointwise


class Equal(Pointwise):
    """x == y."""

    name = "equal"
    arity = 2
    accepts = ANY

    def formula(self, x: Expr, y: Expr) -> Expr:
        return ex.equal(x, y)

    @classmethod
    def cases(cls) -> Sequence[Case]:
        return (*super().cases(), Case(cls(), (f32(3, 7), f32(3, 7)), low=1.0, high=1.0))


class Less(Pointwise):
    """x < y."""

    name = "less"
    arity = 2
    accepts = NUMBERS

    def formula(self, x: Expr, y: Expr) -> Expr:
        return x < y


class LessOrEqual(Pointwise):
    """x <= y."""

    name = "less_or_equal"
    arity = 2
    accepts = NUMBERS

    def formula(self, x: Expr, y: Expr) -> Expr:
        return x <= y


class Greater(Pointwise):
    """x > y."""

    name = "greater"
    arity = 2
    accepts = NUMBERS

    def formula(self, x: Expr, y: Expr) -> Expr:
        return x > y


class GreaterOrEqual(Pointwise):
    """x >= y."""

    name = "greater_or_equal"
    arity = 2
    accepts = NUMBERS

    def formula(self, x: Expr, y: Expr) -> Expr:
        return x >= y


class Not(Pointwise):
    """Logical negation."""

    name = "not"
    accepts = BOOLS

    def formula(self, x: Expr) -> Expr:
        return ~x


class And(Pointwise):
    """Both."""

    name = "and"
    arity = 2
    accepts = BOOLS

    def formula(self, x: Expr, y: Expr) -> Expr:
        return x & y


class Or(Pointwise):
    """At least one."""

    name = "or"
    arity = 2
    accepts = BOOLS

    def formula(self, x: Expr, y: Expr) -> Expr:
        return x | y


class Xor(Pointwise):
    """Exactly one."""

    name = "xor"
    arity = 2
    accepts = BOOLS

    def formula(self, x: Expr, y: Expr) -> Expr:
        return x ^ y


class Where(Pointwise):
    """x where the condition holds, else y."""

    name = "where"
    arity = 3
    accepts = ANY

    def check(self, types: Sequence[TensorType]) -> None:
        check_dtype(self, types[0].dtype, BOOLS)

    def formula(self, condition: Expr, x: Expr, y: Expr) -> Expr:
        return ex.where(condition, x, y)

    @classmethod
    def cases(cls) -> Sequence[Case]:
        return (
            Case(cls(), (boolean(3, 7), f32(3, 7), f32(3, 7))),
            Case(cls(), (boolean(7, 1), f32(3, 1, 5), f32())),
            Case(cls(), (boolean(), f32(2, 17), f32(17))),
            Case(cls(), (boolean(0, 3), f32(3), f32(1))),
            Case(cls(), (boolean(4), i64(4), i64(4))),
            Case(cls(), (boolean(4), boolean(4), boolean())),
            Case(cls(), (boolean(EDGES.size), EDGES, EDGES[::-1].copy())),
        )
