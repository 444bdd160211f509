"""The type rules of expressions: which operation takes which element types."""

from __future__ import annotations

from glulam.compiler.graph.types import DType
from glulam.compiler.loops import expr as ex
from glulam.compiler.loops.expr import LOOKED_UP, Expr
from glulam.compiler.loops.ir import ByteDot, LanePick, LaneReduce, LaneShuffle

_FOLDS = ("add", "mul", "maximum", "minimum")


def type_error(e: Expr) -> str | None:
    """What is wrong with the types of this node's operands, None if nothing is."""
    children = e.children()
    match e:
        case ex.Unary(op):
            legal = _unary(op, e.dtype)
        case ex.Binary(op, x, y):
            legal = x.dtype is y.dtype and _binary(op, x.dtype)
        case ex.Compare(x=x, y=y) | LaneShuffle(x=x, y=y):
            legal = x.dtype is y.dtype
        case ex.Select(condition, yes, no):
            legal = condition.dtype is DType.BOOL and yes.dtype is no.dtype
        case ex.Fma():
            legal = e.dtype.is_float and all(child.dtype is e.dtype for child in children)
        case ex.Bitcast(x, dtype):
            legal = x.dtype.size == dtype.size and DType.BOOL not in (x.dtype, dtype)
        case ex.Lookup(x, table):
            legal = x.dtype is DType.U8 and len(table) == LOOKED_UP
        case LaneReduce(op):
            legal = op in _FOLDS and _binary(op, e.dtype)
        case ByteDot():
            legal = all(child.dtype is DType.I32 for child in children)
        case LanePick(_, lane):
            legal = lane.dtype is DType.I32
        case _:
            legal = True
    if legal:
        return None
    what = getattr(e, "op", type(e).__name__.lower())
    return f"{what} of {', '.join(child.dtype.value for child in children)}"


def _unary(op: str, dtype: DType) -> bool:
    if op == "not":
        return dtype is DType.BOOL
    if op in ("neg", "abs"):
        return dtype is not DType.BOOL
    return dtype.is_float


def _binary(op: str, dtype: DType) -> bool:
    if op in ("maximum", "minimum"):
        return True
    if op in ("and", "or", "xor"):
        return not dtype.is_float
    if op in ("shl", "shr"):
        return not dtype.is_float and dtype is not DType.BOOL
    if op == "pow":
        return dtype.is_float
    return dtype is not DType.BOOL
