"""Vectorised elementary functions in float32, as expressions over the operations every CPU has.

Each expansion takes its operand as `Param(0)`. Those not listed here go to LLVM's intrinsics or the C library.
"""

from __future__ import annotations

from functools import cache

from glulam.compiler.graph.types import DType
from glulam.compiler.loops import expr as ex
from glulam.compiler.loops.expr import Const, Expr, Fma, Param

_X = Param(0)


def expand(e: Expr) -> Expr | None:
    """The expansion of an operation over its children as parameters, or None if it is primitive."""
    if isinstance(e, ex.Unary) and e.dtype is DType.F32 and e.op in _EXPANSIONS:
        return _expansion(e.op)
    return None


@cache
def _expansion(op: str) -> Expr:
    return _EXPANSIONS[op]()


def polynomial(x: Expr, coefficients: list[float]) -> Expr:
    """Horner's scheme; the highest power comes first."""
    total: Expr = Const(coefficients[0])
    for coefficient in coefficients[1:]:
        total = Fma(total, x, Const(coefficient))
    return total


# 1.5 * 2**23: adding it rounds a float of moderate size to an integer that then stands in the low bits.
_ROUNDER = 12582912.0
_EXP_LOW, _EXP_HIGH = -87.33654, 88.72284


def _exp() -> Expr:
    """exp(x) = 2**n * exp(r), r = x - n ln 2 in [-ln2/2, ln2/2]; Taylor-like polynomial after Cephes' expf.

    Below the smallest normal result the value is 0; above the largest it is inf; NaN stays NaN.
    """
    clamped = ex.minimum(ex.maximum(_X, _EXP_LOW), _EXP_HIGH + 0.01)
    shifted = Fma(clamped, Const(1.4426950408889634), Const(_ROUNDER))
    n = shifted - _ROUNDER
    r = Fma(n, Const(-0.693359375), clamped)
    r = Fma(n, Const(2.12194440e-4), r)
    p = polynomial(
        r, [1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1]
    )
    p = Fma(p, r * r, r) + 1.0
    bits = ex.Bitcast(shifted, DType.I32)
    # 2**(n - 1) is a normal number for every n that is left; doubling it afterwards reaches inf where it must.
    half_scale = ex.Bitcast(ex.binary("shl", bits, 23) + (126 << 23), DType.F32)
    result = p * half_scale * 2.0
    return ex.where(ex.compare("lt", _X, _EXP_LOW), 0.0, result)


_EXPANSIONS = {"exp": _exp}
