"""Scalar expressions: the one language for pointwise formulas, fused epilogues and the bodies of loops.

An expression is a tree of frozen nodes without lanes: inside a vector loop the same tree is evaluated for all lanes at
once. Formulas over `Param` leaves are what pointwise operators are made of; `evaluate` gives their numpy meaning.
Leaves that read memory (`Load`, `TileRead`) live in `loops.ir`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from glulam.compiler.errors import LoopError
from glulam.compiler.graph.types import Array, DType

Scalar = float | int | bool


class Expr:
    """Base of all expressions. Python's arithmetic and comparison operators build larger ones."""

    dtype: DType

    def children(self) -> tuple[Expr, ...]:
        return ()

    def __add__(self, other: Expr | Scalar) -> Expr:
        return binary("add", self, other)

    def __radd__(self, other: Scalar) -> Expr:
        return binary("add", other, self)

    def __sub__(self, other: Expr | Scalar) -> Expr:
        return binary("sub", self, other)

    def __rsub__(self, other: Scalar) -> Expr:
        return binary("sub", other, self)

    def __mul__(self, other: Expr | Scalar) -> Expr:
        return binary("mul", self, other)

    def __rmul__(self, other: Scalar) -> Expr:
        return binary("mul", other, self)

    def __truediv__(self, other: Expr | Scalar) -> Expr:
        return binary("div", self, other)

    def __rtruediv__(self, other: Scalar) -> Expr:
        return binary("div", other, self)

    def __pow__(self, other: Expr | Scalar) -> Expr:
        return binary("pow", self, other)

    def __neg__(self) -> Expr:
        return unary("neg", self)

    def __and__(self, other: Expr) -> Expr:
        return binary("and", self, other)

    def __or__(self, other: Expr) -> Expr:
        return binary("or", self, other)

    def __xor__(self, other: Expr) -> Expr:
        return binary("xor", self, other)

    def __invert__(self) -> Expr:
        return unary("not", self)

    def __lt__(self, other: Expr | Scalar) -> Expr:
        return compare("lt", self, other)

    def __le__(self, other: Expr | Scalar) -> Expr:
        return compare("le", self, other)

    def __gt__(self, other: Expr | Scalar) -> Expr:
        return compare("gt", self, other)

    def __ge__(self, other: Expr | Scalar) -> Expr:
        return compare("ge", self, other)


@dataclass(frozen=True, eq=False)
class Const(Expr):
    value: Scalar
    dtype: DType = DType.F32


@dataclass(frozen=True, eq=False)
class Param(Expr):
    """Operand `index` of a formula."""

    index: int
    dtype: DType = DType.F32


LOOKED_UP = 256
"""Entries of a table that has one for each byte."""

FUNCTIONS = frozenset({
    "exp", "exp_negative", "log", "tanh", "erf", "sin", "cos", "tan", "asin", "acos", "atan",
    "sinh", "cosh", "asinh", "acosh", "atanh",
})  # fmt: skip
"""Unary operations that code generation expands into a dozen others, or dozens."""

POWERS = frozenset({1, 2, 3, 4, 5, 6, 0.5, 1.5, -0.5, -1, -2})
"""Exponents for which a power takes few multiplications, and a root or a division at most."""


@dataclass(frozen=True, eq=False)
class Unary(Expr):
    op: str
    x: Expr

    @property
    def dtype(self) -> DType:  # type: ignore[override]
        return self.x.dtype

    def children(self) -> tuple[Expr, ...]:
        return (self.x,)


@dataclass(frozen=True, eq=False)
class Binary(Expr):
    op: str
    x: Expr
    y: Expr

    @property
    def dtype(self) -> DType:  # type: ignore[override]
        return self.x.dtype

    def children(self) -> tuple[Expr, ...]:
        return (self.x, self.y)


@dataclass(frozen=True, eq=False)
class Compare(Expr):
    """Ordered comparison (`ne` is true for NaN, as in IEEE 754); the result is a BOOL."""

    op: str
    x: Expr
    y: Expr
    dtype: DType = DType.BOOL

    def children(self) -> tuple[Expr, ...]:
        return (self.x, self.y)


@dataclass(frozen=True, eq=False)
class Select(Expr):
    """`yes` where `condition` holds, else `no`; both sides are evaluated."""

    condition: Expr
    yes: Expr
    no: Expr

    @property
    def dtype(self) -> DType:  # type: ignore[override]
        return self.yes.dtype

    def children(self) -> tuple[Expr, ...]:
        return (self.condition, self.yes, self.no)


@dataclass(frozen=True, eq=False)
class Fma(Expr):
    """x * y + z with one rounding."""

    x: Expr
    y: Expr
    z: Expr

    @property
    def dtype(self) -> DType:  # type: ignore[override]
        return self.x.dtype

    def children(self) -> tuple[Expr, ...]:
        return (self.x, self.y, self.z)


@dataclass(frozen=True, eq=False)
class Cast(Expr):
    """Numeric conversion; float to integer truncates towards zero, anything to BOOL is `!= 0`."""

    x: Expr
    dtype: DType

    def children(self) -> tuple[Expr, ...]:
        return (self.x,)


@dataclass(frozen=True, eq=False)
class Bitcast(Expr):
    """The same bits read as another type of the same size."""

    x: Expr
    dtype: DType

    def children(self) -> tuple[Expr, ...]:
        return (self.x,)


@dataclass(frozen=True, eq=False)
class Lookup(Expr):
    """The entry of `table`, which has LOOKED_UP bytes, that a U8 says."""

    x: Expr
    table: bytes
    dtype: DType = DType.U8

    def children(self) -> tuple[Expr, ...]:
        return (self.x,)


def _erf(x: Array) -> Array:
    flat = np.fromiter((math.erf(float(v)) for v in np.ravel(x)), np.float64, np.size(x))
    return flat.reshape(np.shape(x)).astype(np.asarray(x).dtype)


UNARY: dict[str, Callable[[Any], Any]] = {
    "neg": np.negative,
    "abs": np.abs,
    "not": np.logical_not,
    "sqrt": np.sqrt,
    "exp": np.exp,
    "exp_negative": np.exp,  # of what is not above 0; NaN may give anything
    "log": np.log,
    "tanh": np.tanh,
    "erf": _erf,
    "sin": np.sin,
    "cos": np.cos,
    "tan": np.tan,
    "asin": np.arcsin,
    "acos": np.arccos,
    "atan": np.arctan,
    "sinh": np.sinh,
    "cosh": np.cosh,
    "asinh": np.arcsinh,
    "acosh": np.arccosh,
    "atanh": np.arctanh,
    "floor": np.floor,
    "ceil": np.ceil,
    "round": np.rint,  # ties to even
}

BINARY: dict[str, Callable[[Any, Any], Any]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,  # of integers: towards zero, see `evaluate`
    "maximum": np.maximum,  # NaN if either is NaN
    "minimum": np.minimum,
    "pow": np.power,
    "fmod": np.fmod,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "xor": np.bitwise_xor,
    "shl": np.left_shift,
    "shr": np.right_shift,
}

COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
    "eq": np.equal,
    "ne": np.not_equal,
}


def is_long(e: Expr) -> bool:
    """Whether code generation expands the operation into a dozen others, or dozens."""
    match e:
        case Binary("pow", _, Const(value)):
            return value not in POWERS
        case Binary("fmod"):
            return e.dtype.is_float
        case Unary(op) | Binary(op):
            return op in FUNCTIONS or op == "pow"
    return False


def lift(x: Expr | Scalar, dtype: DType) -> Expr:
    """A Python number as a constant of the wanted type; an expression as it is."""
    return x if isinstance(x, Expr) else Const(x, dtype)


def _pair(x: Expr | Scalar, y: Expr | Scalar) -> tuple[Expr, Expr]:
    known = x if isinstance(x, Expr) else y
    if not isinstance(known, Expr):
        raise LoopError("an expression needs at least one symbolic operand; compute with numbers in Python instead")
    left, right = lift(x, known.dtype), lift(y, known.dtype)
    if left.dtype is not right.dtype:
        raise LoopError(f"operands of types {left.dtype.value} and {right.dtype.value}; cast one of them")
    return left, right


def unary(op: str, x: Expr) -> Expr:
    if op not in UNARY:
        raise LoopError(f"no unary operation {op!r}; there are {sorted(UNARY)}")
    return Unary(op, x)


def binary(op: str, x: Expr | Scalar, y: Expr | Scalar) -> Expr:
    if op not in BINARY:
        raise LoopError(f"no binary operation {op!r}; there are {sorted(BINARY)}")
    return Binary(op, *_pair(x, y))


def compare(op: str, x: Expr | Scalar, y: Expr | Scalar) -> Expr:
    if op not in COMPARE:
        raise LoopError(f"no comparison {op!r}; there are {sorted(COMPARE)}")
    return Compare(op, *_pair(x, y))


def where(condition: Expr, yes: Expr | Scalar, no: Expr | Scalar) -> Expr:
    if isinstance(yes, Expr) or isinstance(no, Expr):
        return Select(condition, *_pair(yes, no))
    return Select(condition, Const(yes), Const(no))


def exp(x: Expr) -> Expr:
    return unary("exp", x)


def exp_negative(x: Expr) -> Expr:
    """e**x where x is not above 0, in fewer instructions; NaN may give anything."""
    return unary("exp_negative", x)


def log(x: Expr) -> Expr:
    return unary("log", x)


def tanh(x: Expr) -> Expr:
    return unary("tanh", x)


def erf(x: Expr) -> Expr:
    return unary("erf", x)


def sqrt(x: Expr) -> Expr:
    return unary("sqrt", x)


def absolute(x: Expr) -> Expr:
    return unary("abs", x)


def maximum(x: Expr | Scalar, y: Expr | Scalar) -> Expr:
    """The larger one; NaN if either is NaN."""
    return binary("maximum", x, y)


def minimum(x: Expr | Scalar, y: Expr | Scalar) -> Expr:
    """The smaller one; NaN if either is NaN."""
    return binary("minimum", x, y)


def equal(x: Expr | Scalar, y: Expr | Scalar) -> Expr:
    return compare("eq", x, y)


def not_equal(x: Expr | Scalar, y: Expr | Scalar) -> Expr:
    return compare("ne", x, y)


def transform(expr: Expr, leaf: Callable[[Expr], Expr | None]) -> Expr:
    """A copy of the tree in which every node that `leaf` maps to an expression is replaced by it; sharing is kept."""
    memo: dict[int, Expr] = {}

    def walk(e: Expr) -> Expr:
        if id(e) in memo:
            return memo[id(e)]
        result = leaf(e)
        if result is None:
            result = _rebuild(e, [walk(child) for child in e.children()])
        memo[id(e)] = result
        return result

    return walk(expr)


def _rebuild(e: Expr, children: Sequence[Expr]) -> Expr:
    if all(new is old for new, old in zip(children, e.children(), strict=True)):
        return e
    match e:
        case Unary(op):
            return Unary(op, *children)
        case Binary(op):
            return Binary(op, *children)
        case Compare(op):
            return Compare(op, children[0], children[1])
        case Select():
            return Select(*children)
        case Fma():
            return Fma(*children)
        case Cast(_, dtype):
            return Cast(children[0], dtype)
        case Bitcast(_, dtype):
            return Bitcast(children[0], dtype)
        case Lookup(_, table):
            return Lookup(children[0], table)
    raise LoopError(f"cannot rebuild {type(e).__name__}")


def substitute(expr: Expr, params: Sequence[Expr] | Mapping[int, Expr]) -> Expr:
    """The formula with its parameters replaced."""
    return transform(expr, lambda e: params[e.index] if isinstance(e, Param) else None)


def evaluate(expr: Expr, params: Sequence[Array]) -> Array:
    """The formula's value by numpy, with numpy's broadcasting between the parameters."""
    memo: dict[int, Any] = {}

    def walk(e: Expr) -> Any:
        if id(e) not in memo:
            memo[id(e)] = step(e)
        return memo[id(e)]

    def step(e: Expr) -> Any:
        match e:
            case Const(value, dtype):
                return dtype.numpy.type(value)
            case Param(index):
                return params[index]
            case Unary() | Binary() | Compare() | Select() | Fma() | Cast() | Bitcast() | Lookup():
                return operation(e)(*[walk(child) for child in e.children()])
        raise LoopError(f"{type(e).__name__} has no meaning outside a loop")

    with np.errstate(all="ignore"):
        return np.asarray(walk(expr))


def operation(e: Expr) -> Callable[..., Any]:
    """What the expression does to numpy values of its children; the interpreter of loops uses it too."""
    match e:
        case Unary(op):
            return UNARY[op]
        case Binary("div") if not e.dtype.is_float:
            return _truncating_divide
        case Binary(op):
            return BINARY[op]
        case Compare(op):
            return COMPARE[op]
        case Select():
            return np.where
        case Fma():
            return _fma(e.dtype)
        case Cast(x, dtype):
            truncates = x.dtype.is_float and dtype is not DType.BOOL and not dtype.is_float
            return _truncation(dtype) if truncates else lambda x: np.asarray(x).astype(dtype.numpy)
        case Bitcast(_, dtype):
            return lambda x: np.asarray(x).view(dtype.numpy)
        case Lookup(_, table):
            entries = np.frombuffer(table, np.uint8)
            return lambda x: entries[x]
    raise LoopError(f"{type(e).__name__} is not an operation")


def _fma(dtype: DType) -> Callable[[Any, Any, Any], Any]:
    return lambda x, y, z: (np.multiply(x, y, dtype=np.float64) + z).astype(dtype.numpy)


def _truncation(dtype: DType) -> Callable[[Any], Array]:
    """Towards zero; what lies beyond the integers becomes the nearest of them, and NaN 0."""
    limits = np.iinfo(dtype.numpy.name)

    def truncate(x: Any) -> Array:
        wide = np.asarray(x).astype(np.float64)
        low, high = wide <= limits.min, wide >= limits.max
        inside = np.where(low | high | np.isnan(wide), 0, wide).astype(dtype.numpy)
        return np.where(low, limits.min, np.where(high, limits.max, inside)).astype(dtype.numpy)

    return truncate


def _truncating_divide(x: Any, y: Any) -> Any:
    """Towards zero; 0 where the divisor is 0."""
    divisor = np.where(np.equal(y, 0), np.ones_like(y), y)
    floor = np.floor_divide(x, divisor)
    inexact = (np.fmod(x, divisor) != 0) & (np.less(x, 0) != np.less(divisor, 0))
    return np.where(np.equal(y, 0), 0, floor + inexact).astype(np.asarray(x).dtype)
