"""Pointwise ops: one formula each, from which numpy reference, kernel and fused epilogue are derived.

Here are the base class, arithmetic, comparison, logic and selection; activations live in `activation`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from glulam.compiler.errors import LoopError
from glulam.compiler.graph.op import Op, Prefers, Trait
from glulam.compiler.graph.types import Array, DType, TensorType
from glulam.compiler.kernels import pointwise
from glulam.compiler.kernels.context import Context, Lowered
from glulam.compiler.loops import expr as ex
from glulam.compiler.loops.expr import Expr
from glulam.compiler.ops.inputs import ANY, BOOLS, FLOATS, NUMBERS, broadcast, check_dtype, required

SIGNED = NUMBERS - {DType.U8}


@dataclass(frozen=True)
class Pointwise(Op):
    """Base of all ops whose output element is a formula of the inputs' elements at the same place.

    A subclass gives `arity`, the element types it `accepts`, and `formula`; shapes broadcast as in numpy.
    """

    traits = frozenset({Trait.POINTWISE})
    arity: ClassVar[int] = 1
    accepts: ClassVar[frozenset[DType]] = FLOATS

    def formula(self, *xs: Any, **_: Any) -> Expr:
        """The output element from `arity` input elements. Raises LoopError if their types do not go together."""
        raise self.fail("has no formula")

    def expression(self, *types: TensorType) -> Expr:
        """`formula` traced over one `Param` per input, each of the input's element type."""
        return self.formula(*(ex.Param(index, type.dtype) for index, type in enumerate(types)))

    def check(self, types: Sequence[TensorType]) -> None:
        """Raises ShapeError for element types that the op is not defined for."""
        for type in types:
            check_dtype(self, type.dtype, self.accepts)

    def infer(self, *inputs: TensorType | None) -> tuple[TensorType, ...]:
        types = required(self, inputs, self.arity)
        self.check(types)
        try:
            dtype = self.expression(*types).dtype
        except LoopError as error:
            raise self.fail(str(error)) from error
        return (TensorType(dtype, broadcast(self, *(type.shape for type in types))),)

    def preference(self, inputs: Sequence[TensorType | None], outputs: Sequence[TensorType]) -> Prefers:
        return Prefers.EITHER

    def lower(self, ctx: Context) -> Lowered:
        types = [ctx.operand(i).type for i in range(self.arity)]
        return pointwise.build(ctx, self.expression(*types), range(self.arity))

    def reference(self, *inputs: Array | None) -> tuple[Array, ...]:
        arrays = required(self, inputs, self.arity)
        formula = self.expression(*(TensorType.of(array) for array in arrays))
        shape = np.broadcast_shapes(*(array.shape for array in arrays))
        return (np.array(np.broadcast_to(ex.evaluate(formula, arrays), shape)),)


# ---- arithmetic, one operand


@dataclass(frozen=True)
class Neg(Pointwise):
    """-x."""

    name = "neg"
    accepts = SIGNED

    def formula(self, x: Expr) -> Expr:
        return -x


@dataclass(frozen=True)
class Abs(Pointwise):
    """|x|."""

    name = "abs"
    accepts = NUMBERS

    def formula(self, x: Expr) -> Expr:
        return ex.absolute(x)


@dataclass(frozen=True)
class Sign(Pointwise):
    """-1, 0 or 1; NaN stays NaN."""

    name = "sign"
    accepts = SIGNED

    def formula(self, x: Expr) -> Expr:
        return ex.where(x > 0, 1, ex.where(x < 0, -1, x))


@dataclass(frozen=True)
class Exp(Pointwise):
    """e ** x."""

    name = "exp"

    def formula(self, x: Expr) -> Expr:
        return ex.exp(x)


@dataclass(frozen=True)
class Log(Pointwise):
    """Natural logarithm: -inf at 0, NaN below."""

    name = "log"

    def formula(self, x: Expr) -> Expr:
        return ex.log(x)


@dataclass(frozen=True)
class Sqrt(Pointwise):
    """Square root: NaN below 0."""

    name = "sqrt"

    def formula(self, x: Expr) -> Expr:
        return ex.sqrt(x)


@dataclass(frozen=True)
class Reciprocal(Pointwise):
    """1 / x."""

    name = "reciprocal"

    def formula(self, x: Expr) -> Expr:
        return 1 / x


@dataclass(frozen=True)
class Floor(Pointwise):
    """The largest integer <= x."""

    name = "floor"

    def formula(self, x: Expr) -> Expr:
        return ex.unary("floor", x)


@dataclass(frozen=True)
class Ceil(Pointwise):
    """The smallest integer >= x."""

    name = "ceil"

    def formula(self, x: Expr) -> Expr:
        return ex.unary("ceil", x)


@dataclass(frozen=True)
class Round(Pointwise):
    """The nearest integer, ties to even."""

    name = "round"

    def formula(self, x: Expr) -> Expr:
        return ex.unary("round", x)


@dataclass(frozen=True)
class Erf(Pointwise):
    """The error function."""

    name = "erf"

    def formula(self, x: Expr) -> Expr:
        return ex.erf(x)


@dataclass(frozen=True)
class Sin(Pointwise):
    """Sine of radians."""

    name = "sin"

    def formula(self, x: Expr) -> Expr:
        return ex.unary("sin", x)


@dataclass(frozen=True)
class Cos(Pointwise):
    """Cosine of radians."""

    name = "cos"

    def formula(self, x: Expr) -> Expr:
        return ex.unary("cos", x)


@dataclass(frozen=True)
class Cast(Pointwise):
    """Conversion to `dtype`: float to integer truncates towards zero, anything to bool is `!= 0`."""

    dtype: DType

    name = "cast"
    accepts = ANY

    def formula(self, x: Expr) -> Expr:
        return x if x.dtype is self.dtype else ex.Cast(x, self.dtype)


# ---- arithmetic, two operands


@dataclass(frozen=True)
class Add(Pointwise):
    """x + y."""

    name = "add"
    arity = 2
    accepts = NUMBERS

    def formula(self, x: Expr, y: Expr) -> Expr:
        return x + y


@dataclass(frozen=True)
class Sub(Pointwise):
    """x - y."""

    name = "sub"
    arity = 2
    accepts = NUMBERS

    def formula(self, x: Expr, y: Expr) -> Expr:
        return x - y


@dataclass(frozen=True)
class Mul(Pointwise):
    """x * y."""

    name = "mul"
    arity = 2
    accepts = NUMBERS

    def formula(self, x: Expr, y: Expr) -> Expr:
        return x * y


@dataclass(frozen=True)
class Div(Pointwise):
    """x / y; of integers, truncated towards zero (ONNX), and 0 where y is 0."""

    name = "div"
    arity = 2
    accepts = NUMBERS

    def formula(self, x: Expr, y: Expr) -> Expr:
        return x / y


@dataclass(frozen=True)
class Pow(Pointwise):
    """x ** y in x's type (ONNX); integers are computed in float64."""

    name = "pow"
    arity = 2
    accepts = NUMBERS

    def formula(self, x: Expr, y: Expr) -> Expr:
        if x.dtype.is_float:
            return x ** (y if y.dtype is x.dtype else ex.Cast(y, x.dtype))
        return ex.Cast(ex.Cast(x, DType.F64) ** ex.Cast(y, DType.F64), x.dtype)


@dataclass(frozen=True)
class Mod(Pointwise):
    """Remainder with the divisor's sign as in Python, or with the dividend's as in C if `fmod`."""

    fmod: bool = False

    name = "mod"
    arity = 2
    accepts = NUMBERS

    def formula(self, x: Expr, y: Expr) -> Expr:
        rest = ex.binary("fmod", x, y)
        if self.fmod:
            return rest
        return ex.where(ex.not_equal(rest, 0) & ((rest < 0) ^ (y < 0)), rest + y, rest)


@dataclass(frozen=True)
class Maximum(Pointwise):
    """The larger one; NaN if either is NaN."""

    name = "maximum"
    arity = 2
    accepts = NUMBERS

    def formula(self, x: Expr, y: Expr) -> Expr:
        return ex.maximum(x, y)


@dataclass(frozen=True)
class Minimum(Pointwise):
    """The smaller one; NaN if either is NaN."""

    name = "minimum"
    arity = 2
    accepts = NUMBERS

    def formula(self, x: Expr, y: Expr) -> Expr:
        return ex.minimum(x, y)


@dataclass(frozen=True)
class ScaleShift(Pointwise):
    """x * scale + shift with one rounding: what a folded normalisation leaves behind."""

    name = "scale_shift"
    arity = 3

    def formula(self, x: Expr, scale: Expr, shift: Expr) -> Expr:
        if not x.dtype is scale.dtype is shift.dtype:
            raise LoopError(f"operands of types {x.dtype.value}, {scale.dtype.value}, {shift.dtype.value}; cast them")
        return ex.Fma(x, scale, shift)


# ---- comparison, logic, selection


@dataclass(frozen=True)
class Equal(Pointwise):
    """x == y."""

    name = "equal"
    arity = 2
    accepts = ANY

    def formula(self, x: Expr, y: Expr) -> Expr:
        return ex.equal(x, y)


@dataclass(frozen=True)
class Less(Pointwise):
    """x < y."""

    name = "less"
    arity = 2
    accepts = NUMBERS

    def formula(self, x: Expr, y: Expr) -> Expr:
        return x < y


@dataclass(frozen=True)
class LessOrEqual(Pointwise):
    """x <= y."""

    name = "less_or_equal"
    arity = 2
    accepts = NUMBERS

    def formula(self, x: Expr, y: Expr) -> Expr:
        return x <= y


@dataclass(frozen=True)
class Greater(Pointwise):
    """x > y."""

    name = "greater"
    arity = 2
    accepts = NUMBERS

    def formula(self, x: Expr, y: Expr) -> Expr:
        return x > y


@dataclass(frozen=True)
class GreaterOrEqual(Pointwise):
    """x >= y."""

    name = "greater_or_equal"
    arity = 2
    accepts = NUMBERS

    def formula(self, x: Expr, y: Expr) -> Expr:
        return x >= y


@dataclass(frozen=True)
class Not(Pointwise):
    """Logical negation."""

    name = "not"
    accepts = BOOLS

    def formula(self, x: Expr) -> Expr:
        return ~x


@dataclass(frozen=True)
class And(Pointwise):
    """Both."""

    name = "and"
    arity = 2
    accepts = BOOLS

    def formula(self, x: Expr, y: Expr) -> Expr:
        return x & y


@dataclass(frozen=True)
class Or(Pointwise):
    """At least one."""

    name = "or"
    arity = 2
    accepts = BOOLS

    def formula(self, x: Expr, y: Expr) -> Expr:
        return x | y


@dataclass(frozen=True)
class Xor(Pointwise):
    """Exactly one."""

    name = "xor"
    arity = 2
    accepts = BOOLS

    def formula(self, x: Expr, y: Expr) -> Expr:
        return x ^ y


@dataclass(frozen=True)
class Where(Pointwise):
    """x where the condition holds, else y."""

    name = "where"
    arity = 3
    accepts = ANY

    def check(self, types: Sequence[TensorType]) -> None:
        check_dtype(self, types[0].dtype, BOOLS)

    def formula(self, condition: Expr, x: Expr, y: Expr) -> Expr:
        return ex.where(condition, x, y)
