"""Symbolic values: what the arguments of a formula are while it is traced.

Operators, and numpy's functions, give further symbols with the expression of what was done. So a formula can be traced
and can be evaluated by numpy as it stands.
"""

from __future__ import annotations

import linecache
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from glulam.compiler.errors import LoopError, ShapeError, TraceError
from glulam.compiler.graph.types import DType
from glulam.compiler.loops import expr as ex
from glulam.compiler.loops.expr import Expr
from glulam.compiler.loops.formula import postorder
from glulam.compiler.ops.activation import Sigmoid
from glulam.compiler.ops.pointwise import Mod, Sign
from glulam.frontends.layers.arguments import flag

MAX_DEPTH = 128
"""Operations, each on the result of the one before, that a formula may have."""

_REMEDY = "use arithmetic, comparisons and the functions of gl.math (or numpy's of the same names)"
_HERE = (str(Path(__file__).parent), str(Path(np.__file__).parent))


@dataclass(frozen=True)
class Reduction:
    """A reduction that a trace met: of `operand` over `axes` (None: all of them)."""

    kind: str
    operand: Expr
    axes: tuple[int, ...] | None
    keepdims: bool


@dataclass
class Trace:
    """The reductions of a formula in order. Number k is `Param(inputs + k)` in the expressions after it."""

    label: str
    inputs: int
    own: DType
    reductions: list[Reduction] = field(default_factory=list)
    depths: dict[Expr, int] = field(default_factory=dict)

    def symbol(self, expr: Expr) -> Symbol:
        """The value that the expression stands for. Raises TraceError if it nests too deep for a compiler to read."""
        for e in postorder(expr, self.depths):
            self.depths[e] = max((1 + self.depths[child] for child in e.children()), default=0)
        if self.depths[expr] > MAX_DEPTH:
            raise self.fail(f"more than {MAX_DEPTH} operations in a row; split it into several layers")
        return Symbol(expr, self)

    def fail(self, why: str) -> TraceError:
        return TraceError(f"{_place(self.label)}: {why}")


def _place(label: str) -> str:
    """Formula, file and line that the user wrote, with its text."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_HERE):
        frame = frame.f_back
    file, line = frame.f_code.co_filename, frame.f_lineno
    text = linecache.getline(file, line).strip()
    return f"formula {label!r}, {file}:{line}{f' `{text}`' if text else ''}"


class Symbol:
    """A value without a number: what is done to it is written down.

    Python's arithmetic and comparison operators, `& | ~` on conditions, numpy's functions and those of this module
    give further symbols; whatever needs the number itself raises TraceError.
    """

    __slots__ = ("_expr", "_trace")

    def __init__(self, expr: Expr, trace: Trace) -> None:
        self._expr = expr
        self._trace = trace

    # ---- operators

    def __add__(self, other: Any) -> Symbol:
        return _binary("add", self, other)

    def __radd__(self, other: Any) -> Symbol:
        return _binary("add", other, self)

    def __sub__(self, other: Any) -> Symbol:
        return _binary("sub", self, other)

    def __rsub__(self, other: Any) -> Symbol:
        return _binary("sub", other, self)

    def __mul__(self, other: Any) -> Symbol:
        return _binary("mul", self, other)

    def __rmul__(self, other: Any) -> Symbol:
        return _binary("mul", other, self)

    def __truediv__(self, other: Any) -> Symbol:
        return _binary("div", self, other)

    def __rtruediv__(self, other: Any) -> Symbol:
        return _binary("div", other, self)

    def __pow__(self, other: Any) -> Symbol:
        return _power(self, other)

    def __rpow__(self, other: Any) -> Symbol:
        return _power(other, self)

    def __mod__(self, other: Any) -> Symbol:
        return _remainder(self, other)

    def __rmod__(self, other: Any) -> Symbol:
        return _remainder(other, self)

    def __floordiv__(self, other: Any) -> Symbol:
        return _floor_divide(self, other)

    def __rfloordiv__(self, other: Any) -> Symbol:
        return _floor_divide(other, self)

    def __neg__(self) -> Symbol:
        return apply_unary("neg", self)

    def __pos__(self) -> Symbol:
        return self

    def __abs__(self) -> Symbol:
        return apply_unary("abs", self)

    def __and__(self, other: Any) -> Symbol:
        return _logic("and", self, other)

    def __rand__(self, other: Any) -> Symbol:
        return _logic("and", other, self)

    def __or__(self, other: Any) -> Symbol:
        return _logic("or", self, other)

    def __ror__(self, other: Any) -> Symbol:
        return _logic("or", other, self)

    def __xor__(self, other: Any) -> Symbol:
        return _logic("xor", self, other)

    def __rxor__(self, other: Any) -> Symbol:
        return _logic("xor", other, self)

    def __invert__(self) -> Symbol:
        return _made(self._trace, ex.unary, "not", _condition(self, self._trace))

    def __lt__(self, other: Any) -> Symbol:
        return _compare("lt", self, other)

    def __le__(self, other: Any) -> Symbol:
        return _compare("le", self, other)

    def __gt__(self, other: Any) -> Symbol:
        return _compare("gt", self, other)

    def __ge__(self, other: Any) -> Symbol:
        return _compare("ge", self, other)

    def __eq__(self, other: object) -> Symbol:  # type: ignore[override]
        return _compare("eq", self, other)

    def __ne__(self, other: object) -> Symbol:  # type: ignore[override]
        return _compare("ne", self, other)

    __hash__ = None  # type: ignore[assignment]

    # ---- methods, as numpy's

    def sum(self, axis: Any = None, keepdims: bool = False) -> Symbol:
        return _reduce("sum", self, axis, keepdims)

    def mean(self, axis: Any = None, keepdims: bool = False) -> Symbol:
        return _reduce("mean", self, axis, keepdims)

    def max(self, axis: Any = None, keepdims: bool = False) -> Symbol:
        return _reduce("max", self, axis, keepdims)

    def min(self, axis: Any = None, keepdims: bool = False) -> Symbol:
        return _reduce("min", self, axis, keepdims)

    def prod(self, axis: Any = None, keepdims: bool = False) -> Symbol:
        return _reduce("prod", self, axis, keepdims)

    def var(self, axis: Any = None, keepdims: bool = False) -> Symbol:
        centred = self - self.mean(axis, True)
        return (centred * centred).mean(axis, keepdims)

    def std(self, axis: Any = None, keepdims: bool = False) -> Symbol:
        return apply_unary("sqrt", self.var(axis, keepdims))

    def clip(self, min: Any = None, max: Any = None) -> Symbol:
        return _clip(self, min, max)

    def astype(self, dtype: Any) -> Symbol:
        raise self._trace.fail("conversions are not part of a formula; it computes in the type of its first input")

    # ---- numpy's functions

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Symbol:
        function = _UFUNCS.get(ufunc.__name__)
        if function is None or method != "__call__" or kwargs:
            detail = f".{method}" if method != "__call__" else f" with {', '.join(kwargs)}" if kwargs else ""
            raise self._trace.fail(f"the function {ufunc.__name__}{detail} cannot be traced; {_REMEDY}")
        return function(*inputs)  # type: ignore[no-any-return]

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Symbol:
        ours = _FUNCTIONS.get(function.__name__)
        if ours is None:
            raise self._trace.fail(f"numpy.{function.__name__} cannot be traced; {_REMEDY}")
        try:
            return ours(*args, **kwargs)  # type: ignore[no-any-return]
        except TypeError as error:
            raise self._trace.fail(
                f"numpy.{function.__name__} cannot be traced with these arguments ({error})"
            ) from error

    # ---- what needs a number

    def __bool__(self) -> bool:
        raise self._trace.fail(
            "a condition on a symbolic value has no answer while the formula is traced (`if`, `and`, `or`, `not`, "
            "chained comparisons); write gl.math.where(condition, yes, no), and `&`, `|`, `~` between conditions"
        )

    def __float__(self) -> float:
        raise self._trace.fail(f"the number behind a symbolic value was asked for (math.exp does that); {_REMEDY}")

    __int__ = __index__ = __complex__ = __float__  # type: ignore[assignment]

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise self._trace.fail(f"a symbolic value is no array, and this function cannot be traced; {_REMEDY}")

    def __iter__(self) -> Any:
        raise self._trace.fail("a symbolic value cannot be iterated or unpacked; split tensors by layers, in a Block")

    def __len__(self) -> int:
        raise self._trace.fail("the shape is not known while a formula is traced")

    def __getitem__(self, index: Any) -> Symbol:
        raise self._trace.fail("a formula cannot pick elements; slice tensors by layers, in a Block")

    def __setitem__(self, index: Any, value: Any) -> None:
        raise self._trace.fail("a formula cannot change its operands; write where(condition, new, old)")

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise self._trace.fail(f"symbolic values have no attribute {name!r}; {_REMEDY}")

    def __repr__(self) -> str:
        return f"<symbolic value in {self._trace.label!r}>"


# ---- building expressions


def _trace_of(*operands: Any) -> Trace:
    return next(x._trace for x in operands if isinstance(x, Symbol))


def _operand(x: Any, trace: Trace) -> Expr | ex.Scalar:
    if isinstance(x, Symbol):
        if x._trace is not trace:
            raise trace.fail("a value from another trace was used; give it to the formula as an argument")
        return x._expr
    if isinstance(x, bool | int | float):
        return x
    if isinstance(x, np.ndarray | np.generic) and np.size(x) == 1 and np.asarray(x).dtype.kind in "biuf":
        return np.asarray(x).reshape(()).item()  # type: ignore[no-any-return]
    if isinstance(x, np.ndarray | Sequence):
        raise trace.fail("an array is used that is no argument; declare it as a parameter: `, *, scale=gl.Weight(...)`")
    raise trace.fail(f"an operand is a {type(x).__name__}; operands are symbolic values and numbers")


def _number(x: Any, trace: Trace) -> Expr:
    """The operand as a float; conditions become 0 and 1, as in numpy's arithmetic."""
    value = _operand(x, trace)
    if not isinstance(value, Expr):
        return ex.Const(float(value), trace.own)
    return ex.Cast(value, trace.own) if value.dtype is DType.BOOL else value


def _condition(x: Any, trace: Trace) -> Expr:
    value = _operand(x, trace)
    if not isinstance(value, Expr):
        return ex.Const(bool(value), DType.BOOL)
    return value if value.dtype is DType.BOOL else ex.compare("ne", value, 0)


def _made(trace: Trace, build: Callable[..., Expr], *args: Any) -> Symbol:
    try:
        return trace.symbol(build(*args))
    except LoopError as error:
        raise trace.fail(str(error)) from error


def _binary(op: str, x: Any, y: Any) -> Symbol:
    trace = _trace_of(x, y)
    return _made(trace, ex.binary, op, _number(x, trace), _number(y, trace))


def _compare(op: str, x: Any, y: Any) -> Symbol:
    trace = _trace_of(x, y)
    return _made(trace, ex.compare, op, _number(x, trace), _number(y, trace))


def _logic(op: str, x: Any, y: Any) -> Symbol:
    trace = _trace_of(x, y)
    for side in (x, y):
        if isinstance(side, Symbol) and side._expr.dtype is not DType.BOOL:
            raise trace.fail("`&`, `|` and `^` stand between conditions, which comparisons give")
    return _made(trace, ex.binary, op, _condition(x, trace), _condition(y, trace))


def _power(x: Any, y: Any) -> Symbol:
    """Small whole powers are products."""
    if isinstance(x, Symbol) and isinstance(y, int | float) and y in (1, 2, 3, 4):
        square = x * x if y > 1 else x
        return {1: lambda: x * 1.0, 2: lambda: square, 3: lambda: square * x, 4: lambda: square * square}[int(y)]()
    return _binary("pow", x, y)


def _remainder(x: Any, y: Any) -> Symbol:
    """The remainder with the divisor's sign."""
    trace = _trace_of(x, y)
    return _made(trace, Mod().formula, _number(x, trace), _number(y, trace))


def _floor_divide(x: Any, y: Any) -> Symbol:
    """x without its remainder, in units of y, as numpy defines it: 1 // 0.1 is 9, although 1 / 0.1 rounds to 10."""
    trace = _trace_of(x, y)
    return _made(trace, _whole_quotient, _number(x, trace), _number(y, trace))


def _whole_quotient(x: Expr, y: Expr) -> Expr:
    rest = ex.binary("fmod", x, y)
    whole = (x - rest) / y
    below = ex.not_equal(rest, 0) & ((rest < 0) ^ (y < 0))
    return ex.where(ex.compare("eq", y, 0), x / y, ex.unary("round", ex.where(below, whole - 1, whole)))


def _reduce(kind: str, x: Any, axis: Any, keepdims: bool) -> Symbol:
    trace = _trace_of(x)
    axes = None if axis is None else tuple(axis) if isinstance(axis, Sequence) else (axis,)
    if axes is not None and not all(isinstance(a, int | np.integer) for a in axes):
        raise trace.fail(f"axis={axis!r}; axes are integers")
    try:
        keeps = flag(keepdims, "keepdims")
    except ShapeError as error:
        raise trace.fail(str(error)) from None
    trace.reductions.append(
        Reduction(kind, _number(x, trace), None if axes is None else tuple(int(a) for a in axes), keeps)
    )
    return Symbol(ex.Param(trace.inputs + len(trace.reductions) - 1, trace.own), trace)


def _where(condition: Any, yes: Any, no: Any) -> Symbol:
    trace = _trace_of(condition, yes, no)
    sides = [_operand(side, trace) for side in (yes, no)]
    if all(isinstance(s, bool) or (isinstance(s, Expr) and s.dtype is DType.BOOL) for s in sides):
        picked = (_condition(yes, trace), _condition(no, trace))
    else:
        picked = (_number(yes, trace), _number(no, trace))
    return _made(trace, ex.Select, _condition(condition, trace), *picked)


def apply_unary(op: str, x: Symbol) -> Symbol:
    """One of the unary expressions by name, which numpy need not have."""
    return _made(x._trace, ex.unary, op, _number(x, x._trace))


def apply_op(op: Any, x: Symbol) -> Symbol:
    """The formula of one of glulam's ops, which is careful about large and infinite operands."""
    return _made(x._trace, op.formula, _number(x, x._trace))


def _clip(x: Any, a_min: Any = None, a_max: Any = None, *, min: Any = None, max: Any = None) -> Symbol:
    """min(max(x, low), high) with numpy's names for the bounds; one that is None does not bind."""
    low, high = a_min if min is None else min, a_max if max is None else max
    lifted = x if low is None else _binary("maximum", x, low)
    return lifted if high is None else _binary("minimum", lifted, high)


def _reduction(kind: str) -> Callable[..., Symbol]:
    def function(a: Any, axis: Any = None, keepdims: bool = False) -> Symbol:
        return getattr(a, kind)(axis, keepdims)  # type: ignore[no-any-return]

    return function


# ---- numpy's functions by name; log1p and expm1 are exactly what they stand for, so small operands lose digits

_UFUNCS: dict[str, Callable[..., Symbol]] = {
    **{op: partial(apply_unary, op) for op in ("exp", "log", "tanh", "erf", "sqrt", "sin", "cos", "floor", "ceil")},
    "rint": partial(apply_unary, "round"),
    "absolute": partial(apply_unary, "abs"),
    "fabs": partial(apply_unary, "abs"),
    "negative": partial(apply_unary, "neg"),
    "positive": lambda x: x,
    "square": lambda x: x * x,
    "reciprocal": lambda x: 1 / x,
    "log1p": lambda x: apply_unary("log", 1 + x),
    "expm1": lambda x: apply_unary("exp", x) - 1,
    "expit": partial(apply_op, Sigmoid()),
    "sign": partial(apply_op, Sign()),
    "isnan": lambda x: _compare("ne", x, x),
    **{op: partial(_binary, op) for op in ("maximum", "minimum", "fmod")},
    "add": partial(_binary, "add"),
    "subtract": partial(_binary, "sub"),
    "multiply": partial(_binary, "mul"),
    "divide": partial(_binary, "div"),
    "power": _power,
    "float_power": _power,
    "remainder": _remainder,
    "floor_divide": _floor_divide,
    "clip": _clip,
    "less": partial(_compare, "lt"),
    "less_equal": partial(_compare, "le"),
    "greater": partial(_compare, "gt"),
    "greater_equal": partial(_compare, "ge"),
    "equal": partial(_compare, "eq"),
    "not_equal": partial(_compare, "ne"),
    "logical_and": partial(_logic, "and"),
    "logical_or": partial(_logic, "or"),
    "logical_xor": partial(_logic, "xor"),
    "logical_not": lambda x: ~x,
    "bitwise_and": partial(_logic, "and"),
    "bitwise_or": partial(_logic, "or"),
    "invert": lambda x: ~x,
}
_FUNCTIONS: dict[str, Callable[..., Symbol]] = {
    **{kind: _reduction(kind) for kind in ("sum", "mean", "max", "min", "prod", "var", "std")},
    "amax": _reduction("max"),
    "amin": _reduction("min"),
    "clip": _clip,
    "round": partial(apply_unary, "round"),
    "where": _where,
}
