"""Symbolic values: what the arguments of a formula are while it is traced, and the functions that take them.

The functions here (`gl.math.exp`, ...) work on symbolic values and on numpy arrays alike, and so do numpy's own of the
same names: a formula can be traced and can be evaluated by numpy as it stands.
"""

from __future__ import annotations

import linecache
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from glulam.compiler.errors import LoopError, TraceError
from glulam.compiler.graph.types import DType
from glulam.compiler.loops import expr as ex
from glulam.compiler.loops.expr import Expr
from glulam.compiler.ops.activation import Sigmoid, Softplus
from glulam.compiler.ops.pointwise import Mod, Sign

__all__ = [
    "abs", "ceil", "clip", "cos", "erf", "exp", "expm1", "floor", "log", "log1p", "logical_and", "logical_not",
    "logical_or", "max", "maximum", "mean", "min", "minimum", "pow", "prod", "relu", "round", "rsqrt", "sigmoid",
    "sign",
    "sin", "softplus", "sqrt", "square", "std", "sum", "tanh", "var", "where",
]  # fmt: skip

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
        return _unary("neg", self)

    def __pos__(self) -> Symbol:
        return self

    def __abs__(self) -> Symbol:
        return _unary("abs", self)

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
        return Symbol(ex.unary("not", _condition(self, self._trace)), self._trace)

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
        return _unary("sqrt", self.var(axis, keepdims))

    def clip(self, min: Any = None, max: Any = None) -> Symbol:
        low = self if min is None else _binary("maximum", self, min)
        return low if max is None else _binary("minimum", low, max)

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
        return Symbol(build(*args), trace)
    except LoopError as error:
        raise trace.fail(str(error)) from error


def _unary(op: str, x: Symbol) -> Symbol:
    return _made(x._trace, ex.unary, op, _number(x, x._trace))


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
    trace.reductions.append(
        Reduction(kind, _number(x, trace), None if axes is None else tuple(int(a) for a in axes), bool(keepdims))
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


def _of_op(op: Any) -> Callable[[Symbol], Symbol]:
    """A function that is one of glulam's ops: its formula is careful about large and infinite operands."""
    return lambda x: _made(x._trace, op.formula, _number(x, x._trace))


# ---- functions of symbolic values and of arrays


def _is_symbolic(*operands: Any) -> bool:
    return any(isinstance(x, Symbol) for x in operands)


def _one(op: str, numpy: Callable[..., Any], text: str) -> Callable[[Any], Any]:
    def function(x: Any) -> Any:
        return _unary(op, x) if isinstance(x, Symbol) else numpy(x)

    function.__name__, function.__doc__ = numpy.__name__.lstrip("_"), text
    return function


def _two(op: str, numpy: Callable[..., Any], text: str) -> Callable[[Any, Any], Any]:
    def function(x: Any, y: Any) -> Any:
        return _binary(op, x, y) if _is_symbolic(x, y) else numpy(x, y)

    function.__name__, function.__doc__ = numpy.__name__, text
    return function


exp = _one("exp", np.exp, "e ** x.")
log = _one("log", np.log, "The natural logarithm.")
tanh = _one("tanh", np.tanh, "The hyperbolic tangent.")
erf = _one("erf", ex.UNARY["erf"], "The error function.")
sqrt = _one("sqrt", np.sqrt, "The square root.")
sin = _one("sin", np.sin, "The sine.")
cos = _one("cos", np.cos, "The cosine.")
floor = _one("floor", np.floor, "The largest integer <= x.")
ceil = _one("ceil", np.ceil, "The smallest integer >= x.")
round = _one("round", np.rint, "The nearest integer, ties to even.")
abs = _one("abs", np.abs, "|x|.")
maximum = _two("maximum", np.maximum, "The larger of two values; NaN if either is NaN.")
minimum = _two("minimum", np.minimum, "The smaller of two values; NaN if either is NaN.")


def pow(x: Any, y: Any) -> Any:
    """x ** y."""
    return _power(x, y) if _is_symbolic(x, y) else np.power(x, y)


def square(x: Any) -> Any:
    """x * x."""
    return x * x


def rsqrt(x: Any) -> Any:
    """1 / sqrt(x)."""
    return 1 / sqrt(x)


def relu(x: Any) -> Any:
    """max(x, 0)."""
    return maximum(x, 0)


def log1p(x: Any) -> Any:
    """log(1 + x); of a symbolic value exactly as written, so small x lose digits."""
    return _unary("log", 1 + x) if isinstance(x, Symbol) else np.log1p(x)


def expm1(x: Any) -> Any:
    """exp(x) - 1; of a symbolic value exactly as written, so small x lose digits."""
    return _unary("exp", x) - 1 if isinstance(x, Symbol) else np.expm1(x)


def sigmoid(x: Any) -> Any:
    """1 / (1 + exp(-x)), exact at both ends."""
    return _of_op(Sigmoid())(x) if isinstance(x, Symbol) else 0.5 * (1 + np.tanh(np.multiply(x, 0.5)))


def softplus(x: Any) -> Any:
    """log(1 + exp(x)), without overflow."""
    return _of_op(Softplus(1.0, math.inf))(x) if isinstance(x, Symbol) else np.logaddexp(x, np.zeros_like(x))


def sign(x: Any) -> Any:
    """-1, 0 or 1; NaN stays NaN."""
    return _of_op(Sign())(x) if isinstance(x, Symbol) else np.sign(x)


def clip(x: Any, low: Any = None, high: Any = None) -> Any:
    """min(max(x, low), high); a bound that is None does not bind."""
    if not _is_symbolic(x, low, high):
        return np.clip(x, low, high)
    lifted = x if low is None else maximum(x, low)
    return lifted if high is None else minimum(lifted, high)


def where(condition: Any, yes: Any, no: Any) -> Any:
    """`yes` where the condition holds, else `no`; both are computed."""
    return _where(condition, yes, no) if _is_symbolic(condition, yes, no) else np.where(condition, yes, no)


def logical_and(x: Any, y: Any) -> Any:
    """Both conditions."""
    return _logic("and", x, y) if _is_symbolic(x, y) else np.logical_and(x, y)


def logical_or(x: Any, y: Any) -> Any:
    """Either condition, or both."""
    return _logic("or", x, y) if _is_symbolic(x, y) else np.logical_or(x, y)


def logical_not(x: Any) -> Any:
    """The opposite of a condition."""
    return ~x if isinstance(x, Symbol) else np.logical_not(x)


def _reduction(kind: str) -> Callable[..., Any]:
    def function(x: Any, axis: Any = None, keepdims: bool = False) -> Any:
        return getattr(x if isinstance(x, Symbol) else np.asarray(x), kind)(axis=axis, keepdims=keepdims)

    function.__name__ = kind
    function.__doc__ = f"The {kind} over an axis, several, or all of them (None), as numpy's."
    return function


sum, mean, max, min, prod = (_reduction(kind) for kind in ("sum", "mean", "max", "min", "prod"))
var, std = _reduction("var"), _reduction("std")

_UFUNCS: dict[str, Callable[..., Any]] = {
    **{f.__name__: f for f in (exp, log, tanh, erf, sqrt, sin, cos, floor, ceil, maximum, minimum)},
    "rint": round,
    "absolute": abs,
    "fabs": abs,
    "power": pow,
    "float_power": pow,
    "square": square,
    "sign": sign,
    "log1p": log1p,
    "expm1": expm1,
    "expit": sigmoid,
    "clip": clip,
    "logical_and": logical_and,
    "logical_or": logical_or,
    "logical_not": logical_not,
    "invert": logical_not,
    "bitwise_and": logical_and,
    "bitwise_or": logical_or,
    "logical_xor": lambda x, y: _logic("xor", x, y),
    "positive": lambda x: x,
    **{op: lambda x, y, op=op: _binary(op[:3], x, y) for op in ("add", "subtract")},
    "multiply": lambda x, y: _binary("mul", x, y),
    "divide": lambda x, y: _binary("div", x, y),
    "true_divide": lambda x, y: _binary("div", x, y),
    "fmod": lambda x, y: _binary("fmod", x, y),
    "remainder": _remainder,
    "floor_divide": _floor_divide,
    "negative": lambda x: -x,
    "reciprocal": lambda x: 1 / x,
    "isnan": lambda x: _compare("ne", x, x),
    "less": lambda x, y: _compare("lt", x, y),
    "less_equal": lambda x, y: _compare("le", x, y),
    "greater": lambda x, y: _compare("gt", x, y),
    "greater_equal": lambda x, y: _compare("ge", x, y),
    "equal": lambda x, y: _compare("eq", x, y),
    "not_equal": lambda x, y: _compare("ne", x, y),
}
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    **{f.__name__: f for f in (where, clip, sum, mean, max, min, prod, var, std)},
    "amax": max,
    "amin": min,
    "round": round,
}
