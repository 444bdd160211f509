"""Pointwise ops: one formula each, from which numpy reference, kernel and fused epilogue are derived.

Here are the base class, arithmetic and conversion; comparison and logic are in `logic`, activations in `activation`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, Self

import numpy as np

from glulam.compiler.errors import LoopError
from glulam.compiler.graph.op import Case, Op, Prefers, Trait
from glulam.compiler.graph.types import Array, DType, Shape, TensorType, f32
from glulam.compiler.kernels import pointwise
from glulam.compiler.kernels.context import Context, Lowered
from glulam.compiler.loops import expr as ex
from glulam.compiler.loops.expr import Expr
from glulam.compiler.ops.inputs import ANY, FLOATS, NUMBERS, UNSIGNED, boolean, broadcast, check_dtype, i64, required

# What every pointwise op is tried with: shapes by the number of inputs, and values at which formulas break.
SHAPES: Mapping[int, tuple[tuple[Shape, ...], ...]] = MappingProxyType(
    {
        1: (((2, 3, 7, 13),), ((),), ((0, 3),), ((33,),)),
        2: (
            ((2, 17, 7), (2, 17, 7)),
            ((2, 3, 7, 13), (3, 1, 1)),
            ((), (5, 1)),
            ((3, 1, 7), (5, 1)),
            ((0, 3), (3,)),
        ),
        3: (((3, 7), (3, 7), (3, 7)), ((2, 3, 1), (5,), ()), ((0, 3), (3,), (1,))),
    }
)
EDGES = np.array(
    [
        *(0, -0.0, 1e-6, 0.5, 1, -1, 1.5, 2.5, -2.5, 20, -20, 89, -89, -104),
        *(1e10, -1e10, 1e38, -1e38, np.inf, -np.inf, np.nan),
    ],
    np.float32,
)
SIGNED = NUMBERS - UNSIGNED


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

    def for_samples(self, count: int, inputs: Sequence[TensorType | None]) -> Op | None:
        return self if len({type.rank for type in inputs if type is not None}) == 1 else None

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

    @classmethod
    def samples(cls) -> Sequence[Self]:
        """The op with attributes worth testing; an op with required attributes gives its own."""
        return (cls(),)

    @classmethod
    def cases(cls) -> Sequence[Case]:
        typical, *others = cls.samples()
        wanted = (DType.F32, DType.F64, DType.I64, DType.I32, DType.BOOL)
        types = [dtype for dtype in wanted if dtype in cls.accepts]
        first, rest = types[0], types[1:]
        return (
            *(Case(typical, tuple(TensorType(first, shape) for shape in shapes)) for shapes in SHAPES[cls.arity]),
            *(Case(typical, (TensorType(dtype, (3, 7)),) * cls.arity) for dtype in rest),
            *(Case(other, (TensorType(first, (2, 17)),) * cls.arity, low=-4.0, high=4.0) for other in others),
            *(Case(op, inputs) for op in cls.samples() if (inputs := cls.edges())),
        )

    @classmethod
    def edges(cls) -> tuple[Array, ...]:
        """Inputs with the values at which formulas break, every one against every other; () for none."""
        if DType.F32 not in cls.accepts or cls.arity > 2:
            return ()
        return (EDGES,) if cls.arity == 1 else (EDGES[:, None], EDGES)


# ---- arithmetic, one operand


class Neg(Pointwise):
    """-x."""

    name = "neg"
    accepts = SIGNED

    def formula(self, x: Expr) -> Expr:
        return -x


class Abs(Pointwise):
    """|x|."""

    name = "abs"
    accepts = NUMBERS

    def formula(self, x: Expr) -> Expr:
        return ex.absolute(x)


class Sign(Pointwise):
    """-1, 0 or 1; NaN stays NaN."""

    name = "sign"
    accepts = SIGNED

    def formula(self, x: Expr) -> Expr:
        return ex.where(x > 0, 1, ex.where(x < 0, -1, x))


class Exp(Pointwise):
    """e ** x."""

    name = "exp"

    def formula(self, x: Expr) -> Expr:
        return ex.exp(x)


class Log(Pointwise):
    """Natural logarithm: -inf at 0, NaN below."""

    name = "log"

    def formula(self, x: Expr) -> Expr:
        return ex.log(x)


class Sqrt(Pointwise):
    """Square root: NaN below 0."""

    name = "sqrt"

    def formula(self, x: Expr) -> Expr:
        return ex.sqrt(x)


class Reciprocal(Pointwise):
    """1 / x."""

    name = "reciprocal"

    def formula(self, x: Expr) -> Expr:
        return 1 / x


class Floor(Pointwise):
    """The largest integer <= x."""

    name = "floor"

    def formula(self, x: Expr) -> Expr:
        return ex.unary("floor", x)


class Ceil(Pointwise):
    """The smallest integer >= x."""

    name = "ceil"

    def formula(self, x: Expr) -> Expr:
        return ex.unary("ceil", x)


class Round(Pointwise):
    """The nearest integer, ties to even."""

    name = "round"

    def formula(self, x: Expr) -> Expr:
        return ex.unary("round", x)


class Erf(Pointwise):
    """The error function."""

    name = "erf"

    def formula(self, x: Expr) -> Expr:
        return ex.erf(x)


class Sin(Pointwise):
    """Sine of radians."""

    name = "sin"

    def formula(self, x: Expr) -> Expr:
        return ex.unary("sin", x)

    @classmethod
    def edges(cls) -> tuple[Array, ...]:
        return (np.array([0, -0.0, 1e-6, 3.1415927, -100, 1000, np.inf, -np.inf, np.nan], np.float32),)


class Cos(Pointwise):
    """Cosine of radians."""

    name = "cos"

    def formula(self, x: Expr) -> Expr:
        return ex.unary("cos", x)

    @classmethod
    def edges(cls) -> tuple[Array, ...]:
        return (np.array([0, -0.0, 1e-6, 1.5707964, -100, 1000, np.inf, -np.inf, np.nan], np.float32),)


@dataclass(frozen=True)
class Cast(Pointwise):
    """Conversion to `dtype`: float to integer truncates towards zero and saturates, anything to bool is `!= 0`."""

    dtype: DType

    name = "cast"
    accepts = ANY

    def formula(self, x: Expr) -> Expr:
        return x if x.dtype is self.dtype else ex.Cast(x, self.dtype)

    @classmethod
    def samples(cls) -> Sequence[Self]:
        return tuple(cls(dtype) for dtype in DType)

    @classmethod
    def cases(cls) -> Sequence[Case]:
        floats = np.array([0, -0.0, 0.4, 1.5, -1.5, 2.5, 127, 1e-40], np.float32)
        counts = np.array([0, 0.9, 1.5, 2.5, 127], np.float32)
        signed = tuple(op for op in cls.samples() if op.dtype not in UNSIGNED)
        return (
            *(Case(op, (floats,)) for op in signed),
            *(Case(op, (counts,)) for op in cls.samples() if op.dtype in UNSIGNED),
            *(Case(cls(DType.F32), (TensorType(dtype, (3, 7)),)) for dtype in DType),
            Case(cls(DType.BOOL), (i64(2, 3),)),
            Case(cls(DType.I64), (boolean(7),)),
            Case(cls(DType.BOOL), (np.array([np.nan, np.inf, 1e-38, 0], np.float32),)),
        )


@dataclass(frozen=True)
class ThroughInteger(Pointwise):
    """What is left of a float in an integer type, as the float type again: `Cast` there and back.

    It is what a quantised network makes of a tensor. No frontend makes it. `whole` promises that there are none but
    whole numbers and NaN, of which only those beyond the type change.
    """

    dtype: DType
    whole: bool = False

    name = "through_integer"

    def formula(self, x: Expr) -> Expr:
        limits = np.iinfo(self.dtype.numpy.name)
        if not self.whole or limits.min < 0:
            return ex.Cast(ex.Cast(x, self.dtype), x.dtype)
        x = ex.where(x > 0.0, x, 0.0)  # also for NaN
        return ex.where(x < float(limits.max), x, float(limits.max))

    @classmethod
    def samples(cls) -> Sequence[Self]:
        return cls(DType.I8), cls(DType.I32)

    @classmethod
    def cases(cls) -> Sequence[Case]:
        floats = np.array([0, -0.0, 0.4, 1.5, -1.5, 2.5, 127, 1e-40], np.float32)
        whole = np.array([0, -0.0, 1, -1, 127, 128, 255, 256, 1e9, -1e9, np.inf, -np.inf, np.nan], np.float32)
        counts = np.array([0, 0.9, 1.5, 2.5, 127], np.float32)
        return (
            *(Case(cls(dtype), (floats,)) for dtype in (DType.I8, DType.I16, DType.I32)),
            *(Case(cls(dtype), (counts,)) for dtype in (DType.U8, DType.U16)),
            *(Case(cls(dtype, True), (whole,)) for dtype in (DType.U8, DType.U16, DType.I8)),
            Case(cls(DType.I32), (floats.astype(np.float64),)),
        )


# ---- arithmetic, two operands


class Add(Pointwise):
    """x + y."""

    name = "add"
    arity = 2
    accepts = NUMBERS

    def formula(self, x: Expr, y: Expr) -> Expr:
        return x + y


class Sub(Pointwise):
    """x - y."""

    name = "sub"
    arity = 2
    accepts = NUMBERS

    def formula(self, x: Expr, y: Expr) -> Expr:
        return x - y


class Mul(Pointwise):
    """x * y."""

    name = "mul"
    arity = 2
    accepts = NUMBERS

    def formula(self, x: Expr, y: Expr) -> Expr:
        return x * y


class Div(Pointwise):
    """x / y; of integers, truncated towards zero (ONNX), and 0 where y is 0."""

    name = "div"
    arity = 2
    accepts = NUMBERS

    def formula(self, x: Expr, y: Expr) -> Expr:
        return x / y

    @classmethod
    def cases(cls) -> Sequence[Case]:
        whole = (np.arange(-7, 8)[:, None], np.array([-3, -1, 0, 2, 7]))
        return (*(case for case in super().cases() if _is_float(case)), Case(cls(), whole))


class Pow(Pointwise):
    """x ** y in x's type (ONNX); integers are computed in float64."""

    name = "pow"
    arity = 2
    accepts = NUMBERS

    def formula(self, x: Expr, y: Expr) -> Expr:
        if x.dtype.is_float:
            return x ** (y if y.dtype is x.dtype else ex.Cast(y, x.dtype))
        return ex.Cast(ex.Cast(x, DType.F64) ** ex.Cast(y, DType.F64), x.dtype)

    @classmethod
    def cases(cls) -> Sequence[Case]:
        return (
            *super().cases(),
            *(
                Case(cls(), (f32(3, 7), np.array(p, np.float32)), constants=frozenset({1}))
                for p in (0, 0.5, 1, 2, 3, -1)
            ),
            Case(cls(), (f32(3, 7), np.array([0, 1, 2, 3, 4, 5, -2]))),
            Case(cls(), (np.array([[-3], [0], [2]]), np.array([0, 1, 2, 5]))),
        )


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

    @classmethod
    def samples(cls) -> Sequence[Self]:
        return (cls(False), cls(True))

    @classmethod
    def cases(cls) -> Sequence[Case]:
        whole = (np.arange(-7, 8)[:, None], np.array([-3, -1, 0, 2, 7]))
        return (*(c for c in super().cases() if _is_float(c)), *(Case(op, whole) for op in cls.samples()))


class Maximum(Pointwise):
    """The larger one; NaN if either is NaN."""

    name = "maximum"
    arity = 2
    accepts = NUMBERS

    def formula(self, x: Expr, y: Expr) -> Expr:
        return ex.maximum(x, y)


class Minimum(Pointwise):
    """The smaller one; NaN if either is NaN."""

    name = "minimum"
    arity = 2
    accepts = NUMBERS

    def formula(self, x: Expr, y: Expr) -> Expr:
        return ex.minimum(x, y)


class ScaleShift(Pointwise):
    """x * scale + shift with one rounding: what a folded normalisation leaves behind."""

    name = "scale_shift"
    arity = 3

    def formula(self, x: Expr, scale: Expr, shift: Expr) -> Expr:
        if not x.dtype is scale.dtype is shift.dtype:
            raise LoopError(f"operands of types {x.dtype.value}, {scale.dtype.value}, {shift.dtype.value}; cast them")
        return ex.Fma(x, scale, shift)

    @classmethod
    def cases(cls) -> Sequence[Case]:
        per_channel = (f32(2, 17, 3, 5), f32(17, 1, 1), f32(17, 1, 1))
        return (*super().cases(), Case(cls(), per_channel, constants=frozenset({1, 2})))


def _is_float(case: Case) -> bool:
    return all(x is not None and x.dtype not in (DType.I64, DType.I32) for x in case.inputs)
