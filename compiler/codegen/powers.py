"""Powers: by a few multiplications, roots and divisions for some exponents, else in float32 by logarithms."""

from __future__ import annotations

import math
from functools import cache

from glulam.compiler.codegen.maths import SMALLEST, bits, parts, polynomial
from glulam.compiler.graph.types import DType
from glulam.compiler.loops import expr as ex
from glulam.compiler.loops.expr import Bitcast, Cast, Const, Expr, Fma, Param

_X, _Y = Param(0), Param(1)
_INF = math.inf


def expand(e: Expr) -> Expr | None:
    """The expansion of a power over its children as parameters, or None if it is another operation or has none."""
    match e:
        case ex.Binary("pow", _, Const(value)) if e.dtype is DType.F16 and value in ex.POWERS:
            return Cast(ex.Binary("pow", Cast(Param(0, DType.F16), DType.F32), Const(value)), DType.F16)
        case ex.Binary("pow", _, Const(value)) if e.dtype.is_float and value in ex.POWERS:
            return _by_constant(value, e.dtype)
        case ex.Binary("pow") if e.dtype is DType.F32:
            return _by_logarithm()
    return None


def _by_constant(exponent: float, dtype: DType) -> Expr:
    """The power by one of `ex.POWERS`: an infinite base has what roots of it have not, and -0 loses its sign."""
    x = Param(0, dtype)
    square = x * x
    root = ex.where(ex.equal(x, -_INF), _INF, ex.sqrt(x + 0.0))
    match exponent:
        case 1:
            return x
        case 2:
            return square
        case 3:
            return square * x
        case 4:
            return square * square
        case 5:
            return square * square * x
        case 6:
            return square * square * square
        case 0.5:
            return root
        case 1.5:
            return ex.absolute(x) * root
        case -0.5:
            return 1.0 / root
        case -1:
            return 1.0 / x
    inverse = 1.0 / x
    return inverse * inverse


_LOG2_TOP = [
    -0.08636244729286587,
    0.15488568380549073,
    -0.15699091093589518,
    0.1589973316185174,
    -0.17904503325470958,
    0.20609642879306864,
    -0.24050429663082548,
    0.2885406424056906,
]
_LOG2 = [-0.36067279774167704, 0.48089832070228966, -0.7213475252302501, 1.4426950409394412]
"""log2(1 + f) / f for f in [sqrt(1/2) - 1, sqrt(2) - 1], a minimax polynomial; the upper coefficients apart."""

_EXP2 = [
    0.00015345789143285144,
    0.0013399958511782356,
    0.009618489251502039,
    0.05550328709624052,
    0.24022646885941448,
    0.6931472057681378,
    1.0000000005550789,
]
"""2**r for r in [-1/2, 1/2], a minimax polynomial."""

_ROUNDER = 1.5 * 2.0**52 + 1023
"""Adding it rounds a float64 of moderate size to an integer n; the low bits are then the exponent of 2**n."""


@cache
def _by_logarithm() -> Expr:
    """x**y as 2**(y log2 |x|), in float64 until the end, and then its sign and what has no logarithm.

    log2 |x| = e + log2(m), m = 1 + f in [sqrt(1/2), sqrt(2)). y times it reaches 150, so it has to have 32 bits. Those
    terms that are below 2**-8 of it are summed in float32.
    """
    magnitude = ex.absolute(_X)
    tiny = magnitude < SMALLEST
    e_bits, m = parts(ex.where(tiny, magnitude * 33554432.0, magnitude))
    e: Expr = Fma(Cast(e_bits, DType.F32), Const(2.0**-23), ex.where(tiny, -25.0, 0.0))
    e = ex.where(magnitude < _INF, e, magnitude)  # inf and NaN stay
    e = ex.where(ex.equal(magnitude, 0.0), -_INF, e)
    f = m - 1.0
    top, wide = Cast(_in_two(f, f * f, _LOG2_TOP), DType.F64), Cast(f, DType.F64)
    square = wide * wide
    log2 = Fma(Fma(top, square * square, _in_two(wide, square, _LOG2)), wide, Cast(e, DType.F64))
    power: Expr = Cast(_exp2(log2 * Cast(_Y, DType.F64)), DType.F32)
    power = ex.where(ex.equal(magnitude, 1.0) | ex.equal(_Y, 0.0), 1.0, power)  # whatever the other one is
    half = _Y * 0.5
    whole = ex.equal(ex.unary("floor", _Y), _Y)
    odd = whole & ex.not_equal(ex.unary("floor", half), half)
    sign = ex.where(odd, bits(_X) & Const(-(1 << 31), DType.I32), 0)
    rootless = (_X < 0.0) & (Const(-_INF) < _X) & ~whole
    return ex.where(rootless, math.nan, Bitcast(bits(power) | sign, DType.F32))


def _exp2(x: Expr) -> Expr:
    """2**x = 2**n * 2**r, r = x - n in [-1/2, 1/2], in float64. Beyond 200 float32 has no such numbers."""
    x = ex.maximum(ex.minimum(x, 200.0), -200.0)
    shifted = x + _ROUNDER
    r = x - (shifted - _ROUNDER)
    return _in_two(r, r * r, _EXP2) * Bitcast(ex.binary("shl", Bitcast(shifted, DType.I64), 52), DType.F64)


def _in_two(x: Expr, square: Expr, coefficients: list[float]) -> Expr:
    """A polynomial as its odd and its even part, which need not wait for each other."""
    odd, even = coefficients[-2::-2][::-1], coefficients[-1::-2][::-1]
    return Fma(polynomial(square, odd), x, polynomial(square, even))
