"""Half precision: computed in float32 and rounded after each operation, once, as numpy does.

Processors without conversion instructions get the conversions as operations on bits.
"""

from __future__ import annotations

from functools import cache

from glulam.compiler.graph.types import DType
from glulam.compiler.loops import expr as ex
from glulam.compiler.loops.expr import Bitcast, Cast, Const, Expr, Param


def expand(e: Expr, has_conversions: bool) -> Expr | None:
    """The expansion of an operation over its children as parameters, or None if it does not concern halves."""
    match e:
        case Cast(x, dtype) if DType.F16 in (x.dtype, dtype) and x.dtype is not dtype:
            return _cast(x.dtype, dtype, has_conversions)
        case ex.Unary(op) if e.dtype is DType.F16:
            return Cast(ex.Unary(op, _wide(0)), DType.F16)
        case ex.Binary(op) if e.dtype is DType.F16:
            return Cast(ex.Binary(op, _wide(0), _wide(1)), DType.F16)
        case ex.Fma() if e.dtype is DType.F16:
            return Cast(ex.Fma(_wide(0), _wide(1), _wide(2)), DType.F16)
        case ex.Compare(op, x) if x.dtype is DType.F16:
            return ex.Compare(op, _wide(0), _wide(1))
    return None


def _wide(index: int) -> Expr:
    return Cast(Param(index, DType.F16), DType.F32)


def _cast(source: DType, target: DType, has_conversions: bool) -> Expr | None:
    if source is DType.F16 and target is DType.F32:
        return None if has_conversions else _to_single()
    if source is DType.F32 and target is DType.F16:
        return None if has_conversions else _to_half()
    if source is DType.F64 and target is DType.F16:
        return Cast(_to_odd_single(), DType.F16)
    return Cast(Cast(Param(0, source), DType.F32), target)


def _int(value: int) -> Expr:
    return Const(value, DType.I32)


@cache
def _to_single() -> Expr:
    bits = Cast(Bitcast(Param(0, DType.F16), DType.I16), DType.I32)
    magnitude = bits & _int(0x7FFF)
    moved = ex.binary("shl", magnitude, 13)
    finite = Bitcast(Bitcast(moved, DType.F32) * 2.0**112, DType.I32)
    special = moved | _int(0x7F800000)
    sign = ex.binary("shl", bits & _int(0x8000), 16)
    return Bitcast(ex.where(magnitude < 0x7C00, finite, special) | sign, DType.F32)


@cache
def _to_odd_single() -> Expr:
    """A float64 between two float32 becomes the one with the odd last bit: rounded on, it is as if rounded once.

    Boldo, Melquiond: "Emulation of a FMA and correctly rounded sums: proved algorithms using rounding to odd", 2008.
    """
    x = Param(0, DType.F64)
    single = Cast(x, DType.F32)
    back = Cast(single, DType.F64)
    bits = Bitcast(single, DType.I32)
    even = _int(1) - (bits & _int(1))
    between = ex.where(ex.absolute(x) < ex.absolute(back), bits - even, bits + even)
    return Bitcast(ex.where(ex.not_equal(back, x), between, bits), DType.F32)


@cache
def _to_half() -> Expr:
    """Rounds to even. Results below the smallest normal half are rounded by adding 1/2, whose last bit is theirs."""
    x = Param(0)
    magnitude = ex.absolute(x)
    bits = Bitcast(magnitude, DType.I32)
    subnormal = Bitcast(magnitude + 0.5, DType.I32) - 0x3F000000
    odd = (bits / 0x2000) & _int(1)
    normal = (bits + 0xFFF + odd) / 0x2000 - (112 << 10)
    result = ex.where(magnitude < 2.0**-14, subnormal, normal)
    result = ex.where(magnitude < 65520.0, result, 0x7C00)
    result = ex.where(ex.not_equal(x, x), 0x7E00, result)
    sign = ex.where(Bitcast(x, DType.I32) < 0, _int(-0x8000), _int(0))
    return Bitcast(Cast(result | sign, DType.I16), DType.F16)
