"""Elementary functions in float32 as expressions over the operations every processor has.

Each expansion takes its operands as `Param`s. What is listed neither here nor in `powers` goes to LLVM's intrinsics or
the C library. Inputs for which a polynomial has no meaning are let through it and replaced by selects afterwards:
nothing here traps.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

from glulam.compiler.graph.types import DType
from glulam.compiler.loops import expr as ex
from glulam.compiler.loops.expr import Bitcast, Cast, Const, Expr, Fma, Param

_X = Param(0)
_INF = math.inf


def expand(e: Expr) -> Expr | None:
    """The expansion of an operation over its children as parameters, or None if it is primitive."""
    match e:
        case ex.Unary(op) if e.dtype is DType.F32 and op in _EXPANSIONS:
            return _expansion(op)
    return None


def recognised(e: Expr) -> Expr | None:
    """The expansion of an expression that is a known function of one of its parts; None if it is none."""
    for operand_of, function in ((gelu_operand, gelu), (log1p_operand, log1p), (exp_plus_one_operand, exp_plus_one)):
        if (operand := operand_of(e)) is not None:
            return ex.substitute(function(), [operand])
    return None


@cache
def _expansion(op: str) -> Expr:
    return _EXPANSIONS[op]()


def polynomial(x: Expr, coefficients: list[float]) -> Expr:
    """Horner's scheme in x's type; the highest power comes first."""
    total: Expr = Const(coefficients[0], x.dtype)
    for coefficient in coefficients[1:]:
        total = Fma(total, x, Const(coefficient, x.dtype))
    return total


def bits(x: Expr) -> Expr:
    return Bitcast(x, DType.I32)


def _signed(magnitude: Expr, sign: Expr) -> Expr:
    """The magnitude, which is not negative, with the sign bit of `sign`."""
    return Bitcast(bits(magnitude) | (bits(sign) & Const(-(1 << 31), DType.I32)), DType.F32)


# 1.5 * 2**23: adding it rounds a float of moderate size to an integer that then stands in the low bits.
_ROUNDER = 12582912.0
_EXP_LOW = -87.33654022216797  # results below the smallest normal number are 0
_EXP_HIGH = 88.72283172607422  # the largest float with a finite result
# (exp(r) - 1 - r) / r**2 for r in [-ln2/2, ln2/2], a minimax polynomial, the highest power first.
_EXP_REST = [0.001382073387503624, 0.008368677459657192, 0.04166826605796814, 0.1666652113199234, 0.4999999403953552]


def _exp_of(x: Expr) -> Expr:
    """exp(x) = 2**n * exp(r), r = x - n ln 2 in [-ln2/2, ln2/2]."""
    shifted = Fma(x, Const(1.4426950408889634), Const(_ROUNDER))
    n = shifted - _ROUNDER
    r = Fma(n, Const(-0.693359375), x)
    r = Fma(n, Const(2.12194440e-4), r)
    p = Fma(polynomial(r, _EXP_REST), r * r, r) + 1.0
    # n is added to p's exponent; the sum is a normal number for every x between the limits.
    scaled: Expr = Bitcast(bits(p) + ex.binary("shl", bits(shifted), 23), DType.F32)
    scaled = ex.where(x < _EXP_LOW, 0.0, scaled)
    return ex.where(x <= _EXP_HIGH, scaled, x + _INF)


def _exp() -> Expr:
    return _exp_of(_X)


# exp(r) for r in [-ln2/2, ln2/2], a minimax polynomial that is 1 at 0, the highest power first.
_EXP = [
    0.0013843653723597527,
    0.00837415549904108,
    0.04166800156235695,
    0.16666431725025177,
    0.4999999403953552,
    1.0,
    1.0,
]


def _reduced(x: Expr, rounder: float) -> tuple[Expr, Expr]:
    """n + rounder, and r = x - n ln 2 in [-ln2/2, ln2/2] with ln 2 as one float32."""
    shifted = Fma(x, Const(1.4426950408889634), Const(rounder))
    return shifted, Fma(shifted - rounder, Const(-0.6931471805599453), x)


def _exp_negative() -> Expr:
    """exp(x) = 2**n * exp(r), r = x - n ln 2 in [-ln2/2, ln2/2]."""
    shifted, r = _reduced(_X, _ROUNDER)
    p = polynomial(r, _EXP)
    power = Bitcast(bits(p) + ex.binary("shl", bits(shifted), 23), DType.F32)
    return ex.where(_X < _EXP_LOW, 0.0, power)


def parts(x: Expr) -> tuple[Expr, Expr]:
    """The bits of e, which are e times 2**23, and m in [sqrt(1/2), sqrt(2)) for a normal number x = 2**e * m."""
    e_bits = (bits(x) - 0x3F3504F3) & Const(-(1 << 23), DType.I32)
    return e_bits, Bitcast(bits(x) - e_bits, DType.F32)


def _log_of(e: Expr, f: Expr) -> Expr:
    """e ln 2 + log(1 + f) for f in [sqrt(1/2) - 1, sqrt(2) - 1] and e times 2**23; coefficients of Cephes' logf."""
    p = polynomial(
        f,
        [
            7.0376836292e-2,
            -1.1514610310e-1,
            1.1676998740e-1,
            -1.2420140846e-1,
            1.4249322787e-1,
            -1.6668057665e-1,
            2.0000714765e-1,
            -2.4999993993e-1,
            3.3333331174e-1,
            -0.5,
        ],
    )
    tail = Fma(f * f, p, e * (-2.12194440e-4 * 2.0**-23))
    return Fma(e, Const(0.693359375 * 2.0**-23), f + tail)


SMALLEST = 1.1754943508222875e-38  # of the normal numbers


def _log() -> Expr:
    """log(x) = e ln 2 + log(m), m in [sqrt(1/2), sqrt(2))."""
    tiny = _X < SMALLEST
    e_bits, m = parts(ex.where(tiny, _X * 33554432.0, _X))
    result = _log_of(Cast(e_bits, DType.F32) - ex.where(tiny, 25.0 * 2**23, 0.0), m - 1.0)
    result = ex.where(_X < _INF, result, _X)  # inf and NaN stay
    result = ex.where(ex.equal(_X, 0.0), -_INF, result)
    return ex.where(_X < 0.0, math.nan, result)


def _log1p_of(x: Expr, doublings: Expr | float = 0.0) -> Expr:
    """log(1 + x) + d ln 2 for x from 0 to 2**126, and d times 2**23; NaN and infinity stay.

    With e from 1 + x as it is rounded, 1 + x = 2**e * (1 + f) for f = 2**-e * x + (2**-e - 1), which is rounded once;
    near 0 it is x.
    """
    e_bits, _ = parts(x + 1.0)
    power = Bitcast(Const(0x3F800000, DType.I32) - e_bits, DType.F32)
    result = _log_of(Cast(e_bits, DType.F32) + doublings, Fma(x, power, power - 1.0))
    return ex.where(x < _INF, result, x)


def _log1p_or_twice(x: Expr, magnitude: Expr) -> Expr:
    """log(1 + x), but log(2 magnitude) where that is the same and x may be infinite."""
    large = Const(2.0**27) < magnitude
    return _log1p_of(ex.where(large, magnitude * 0.125, x), ex.where(large, 4.0 * 2**23, 0.0))


def _asinh() -> Expr:
    """log(1 + u) with u = t + t**2 / (1 + sqrt(t**2 + 1)), t = |x|, and the operand's sign."""
    magnitude = ex.absolute(_X)
    u = magnitude + magnitude * magnitude / (ex.sqrt(Fma(magnitude, magnitude, Const(1.0))) + 1.0)
    return _signed(_log1p_or_twice(u, magnitude), _X)


def _acosh() -> Expr:
    """log(1 + u) with u = d + sqrt(d**2 + 2 d), d = x - 1, which is exact near 1."""
    d = _X - 1.0
    u = d + ex.sqrt(Fma(d, d, d + d))
    return _log1p_or_twice(ex.where(_X < 1.0, math.nan, u), _X)


def _atanh() -> Expr:
    """log(1 + u) / 2 with u = 2 t / (1 - t), t = |x|, and the operand's sign."""
    magnitude = ex.absolute(_X)
    u = (magnitude + magnitude) / (1.0 - magnitude)
    return _signed(_log1p_of(ex.where(Const(1.0) < magnitude, math.nan, u)) * 0.5, _X)


def _tanh() -> Expr:
    """e / (e + 1) for e = (exp(2x) - 1) / 2.

    e = 2**n * u + (2**n - 1) / 2 with u = (exp(2s) - 1) / 2, s = x - n (ln 2) / 2 in [-(ln 2) / 4, (ln 2) / 4], by the
    polynomial of `_exp_of`. So e keeps its relative precision near 0, where n is 0; elsewhere the result does not feel
    that ln 2 is rounded. The operand is not needed again at the end: a kernel that ends with this keeps a tile of them
    in registers. To add 0 makes -0 of a product that is not negative; so e has the sign of x if it is 0.
    """
    x = ex.maximum(ex.minimum(_X, 9.1), -9.1)  # where the result is -1 and 1
    shifted = Fma(x, Const(2 * 1.4426950408889634), Const(_ROUNDER))
    s = Fma(shifted - _ROUNDER, Const(-0.6931471805599453 / 2), x)
    rest = [c * 2.0**power for c, power in zip(_EXP_REST, range(5, 0, -1), strict=True)]
    u = Fma(polynomial(s, [*rest, 0.0]), s, s)
    half = Bitcast(ex.binary("shl", bits(shifted), 23) + 0x3F000000, DType.F32)
    e = Fma(u, half + half, -(0.5 - half))
    return e / (e + 1.0)


def _halves(magnitude: Expr) -> tuple[Expr, Expr, Expr, Expr]:
    """(2**n + 2**-n) / 4, (2**n - 2**-n) / 4, 2 (cosh(r) - 1) and 2 sinh(r) for x = n ln 2 + r, r in [-ln2/2, ln2/2].

    Minimax polynomials. x is not negative, and 89.5 for all that is larger: the results are infinite.
    """
    x = ex.minimum(magnitude, 89.5)
    shifted = Fma(x, Const(1.4426950408889634), Const(_ROUNDER + 125))
    n = shifted - (_ROUNDER + 125)
    r = Fma(n, Const(-0.693359375), x)
    r = Fma(n, Const(2.12194440e-4), r)
    # n + 125 is the exponent of 2**(n - 2). What it lacks to 254 is that of the reciprocal, and for the largest n 0.
    moved = ex.binary("shl", bits(shifted), 23)
    power, rest = Bitcast(moved, DType.F32), Bitcast(Const(0x7F000000, DType.I32) - moved, DType.F32)
    total, difference = Fma(rest, Const(0.0625), power), Fma(rest, Const(-0.0625), power)
    square, twice = r * r, r + r
    cosine = square * polynomial(square, [2 * 0.0013937471667304635, 2 * 0.04166644066572189, 1.0])
    sine = square * polynomial(square, [0.00019969632558058947, 0.008333179168403149, 0.1666666716337204])
    return total, difference, cosine, Fma(sine, twice, twice)


def _sinh() -> Expr:
    """sinh(n ln 2) cosh(r) + cosh(n ln 2) sinh(r), where n is 0 near 0; with the operand's sign.

    The largest term, which is exact, is added last. Its double may overflow where the sum does not.
    """
    total, difference, cosine, sine = _halves(ex.absolute(_X))
    return _signed(difference + (difference + Fma(difference, cosine, total * sine)), _X)


def _cosh() -> Expr:
    """cosh(n ln 2) cosh(r) + sinh(n ln 2) sinh(r), like `_sinh`."""
    total, difference, cosine, sine = _halves(ex.absolute(_X))
    return total + (total + Fma(total, cosine, difference * sine))


def _erf() -> Expr:
    """Below 0.9277 an odd polynomial, above it 1 - exp(-q(|x|)) with the operand's sign; after N. Juffa's erff."""
    magnitude = ex.absolute(_X)
    z = _X * _X
    p = polynomial(z, [-5.96761703e-4, 4.99119423e-3, -2.67681349e-2, 1.12819925e-1, -3.76125336e-1, 1.28379166e-1])
    small = Fma(p, _X, _X)
    t = ex.minimum(magnitude, 4.0)  # erf is 1 from 3.92 on
    high = Fma(Const(-1.72853470e-5), t, Const(3.83197126e-4))
    low = Fma(Const(-3.88396438e-3), t, Const(2.42546219e-2))
    q = Fma(high, t * t, low)
    for coefficient in (-1.06777877e-1, -6.34846687e-1, -1.28717512e-1):
        q = Fma(q, t, Const(coefficient))
    q = Fma(q, t, -t)
    return ex.where(magnitude < 0.927734375, small, _signed(1.0 - _exp_of(q), _X))


_HALF_PI = 1.5707963267948966
_HALF_PI_REST = -4.371139000186241e-08  # what the float32 next to pi/2 lacks


def _half_pi_minus(x: Expr, times: float) -> Expr:
    """pi/2 - times * x."""
    return Fma(x, Const(-times), Const(_HALF_PI)) + _HALF_PI_REST


def _arc_sine() -> tuple[Expr, Expr]:
    """Whether |x| is above 1/2, and asin of |x| if it is not, else of sqrt((1 - |x|) / 2), which is at most 1/2.

    asin(s) = s + s**3 P(s**2), P a minimax polynomial. Beyond 1 the root is NaN.
    """
    magnitude = ex.absolute(_X)
    far = Const(0.5) < magnitude
    square = ex.where(far, Fma(magnitude, Const(-0.5), Const(0.5)), magnitude * magnitude)
    s = ex.where(far, ex.sqrt(square), magnitude)
    p = polynomial(
        square,
        [0.042166318744421005, 0.024179508909583092, 0.04547037556767464, 0.07495297491550446, 0.16666752099990845],
    )
    return far, Fma(p * square, s, s)


def _asin() -> Expr:
    """Above 1/2 asin(x) = pi/2 - 2 asin(sqrt((1 - x) / 2))."""
    far, angle = _arc_sine()
    return _signed(ex.where(far, _half_pi_minus(angle, 2.0), angle), _X)


def _acos() -> Expr:
    """Above 1/2 acos(x) = 2 asin(sqrt((1 - x) / 2)), below -1/2 pi less that of -x, between them pi/2 - asin(x)."""
    far, angle = _arc_sine()
    twice = angle + angle
    outside = ex.where(_X < 0.0, _half_pi_minus(angle, 2.0) + _HALF_PI, twice)
    return ex.where(far, outside, _half_pi_minus(_signed(angle, _X), 1.0))


def _atan() -> Expr:
    """t + t**3 Q(t**2), Q a minimax polynomial on [0, 1]; above 1 atan(x) = pi/2 - atan(1 / x)."""
    magnitude = ex.absolute(_X)
    far = Const(1.0) < magnitude
    t = ex.where(far, 1.0 / magnitude, magnitude)
    p = polynomial(
        t * t,
        [
            -0.0017936219228431582,
            0.010914606973528862,
            -0.03117784857749939,
            0.05795759707689285,
            -0.0840345025062561,
            0.10952185839414597,
            -0.14264242351055145,
            0.19998548924922943,
            -0.33333298563957214,
        ],
    )
    angle = Fma(p * (t * t), t, t)
    return _signed(ex.where(far, _half_pi_minus(angle, 1.0), angle), _X)


def gelu_operand(e: Expr) -> Expr | None:
    """x if the expression is the product of x, 1/2 and 1 + erf(x / sqrt(2)), in whatever order; None if it is not."""
    if not isinstance(e, ex.Binary) or e.op != "mul" or e.dtype is not DType.F32:
        return None
    numbers, others = 1.0, list[Expr]()
    for factor in _factors(e):
        if isinstance(factor, Const):
            numbers *= factor.value
        else:
            others.append(factor)
    if numbers != 0.5 or len(others) != 2:
        return None
    for x, other in (others, reversed(others)):
        if _is_one_plus_erf(other, x):
            return x
    return None


def _factors(e: Expr) -> list[Expr]:
    """The factors of a product of up to three, one of which may be a product itself."""
    assert isinstance(e, ex.Binary)
    found: list[Expr] = []
    for side in (e.x, e.y):
        found += [side.x, side.y] if isinstance(side, ex.Binary) and side.op == "mul" else [side]
    return found


def _is_one_plus_erf(e: Expr, x: Expr) -> bool:
    match e:
        case ex.Binary("add", ex.Unary("erf", scaled), Const(1)) | ex.Binary("add", Const(1), ex.Unary("erf", scaled)):
            match scaled:
                case ex.Binary("mul", y, Const(factor)) | ex.Binary("mul", Const(factor), y):
                    return y is x and abs(factor - math.sqrt(0.5)) < 1e-7
                case ex.Binary("div", y, Const(divisor)):
                    return y is x and abs(divisor - math.sqrt(2)) < 2e-7
    return False


def log1p_operand(e: Expr) -> Expr | None:
    """x if the expression is Kahan's log(1 + x) and x = exp(-|y|), so that it lies in [0, 1]; None if it is not."""
    match e:
        case ex.Select(ex.Compare("eq", total, Const(1)), x, ex.Binary("mul", ex.Unary("log", y), ratio)):
            return x if y is total and e.dtype is DType.F32 and _is_kahan(x, total, ratio) and _is_fraction(x) else None
    return None


def _is_kahan(x: Expr, total: Expr, ratio: Expr) -> bool:
    """Whether the total is x + 1 and the ratio x / (total - 1)."""
    match total, ratio:
        case ex.Binary("add", a, Const(1)), ex.Binary("div", b, ex.Binary("sub", c, Const(1))):
            return a is x and b is x and c is total
    return False


def _is_fraction(e: Expr) -> bool:
    match e:
        case ex.Unary("exp", ex.Unary("neg", ex.Unary("abs"))):
            return True
    return False


def exp_plus_one_operand(e: Expr) -> Expr | None:
    """x if the expression is exp(x) + 1, as in the logistic function; None if it is not."""
    match e:
        case ex.Binary("add", ex.Unary("exp", x), Const(1)) | ex.Binary("add", Const(1), ex.Unary("exp", x)):
            return x if e.dtype is DType.F32 else None
    return None


NEAR = 8192.0
"""Up to this magnitude sines, cosines and tangents are expanded; beyond it multiples of pi/2 would not be exact."""

# pi/2 in four parts. The first three have 11 bits, so their products with the multiples up to NEAR are exact.
_HALF_PI_PARTS = (1.5703125, 0.0004837512969970703, 7.549533620476723e-08, 2.5633440682570896e-12)


def expand_in_part(e: Expr) -> tuple[Expr, Expr] | None:
    """An expansion over the children as parameters, and before it where it holds; None if there is none like that."""
    match e:
        case ex.Unary("sin" | "cos" | "tan" as op) if e.dtype is DType.F32:
            return ex.absolute(_X) <= NEAR, _turned(op)
        case ex.Binary("fmod") if e.dtype is DType.F32:
            return _remainder()
    return None


@cache
def _remainder() -> tuple[Expr, Expr]:
    """|x| - floor(|x / y|) |y| in float64, with the sign of x, where the quotient is below 2**29.

    It is no nearer to a whole number than 2**-24 unless it is one, so rounding it leaves the one below it the same.
    That one has 29 bits, and its product with y 53: the remainder is exact.
    """
    x, y = (Cast(ex.absolute(Param(i)), DType.F64) for i in range(2))
    quotient = x / y
    rest = x - ex.unary("floor", quotient) * y
    return (quotient < 2.0**29) & (y < _INF), _signed(Cast(rest, DType.F32), _X)


@cache
def _turned(op: str) -> Expr:
    """The function of x = n pi/2 + r, r in [-pi/4, pi/4], from sin(r), cos(r) and n modulo 4.

    The polynomials are those of Cephes' sinf and cosf.
    """
    shifted = Fma(_X, Const(2 / math.pi), Const(_ROUNDER))
    n = shifted - _ROUNDER
    r = Fma(n, Const(-_HALF_PI_PARTS[0]), _X)
    for part in _HALF_PI_PARTS[1:]:
        r = Fma(n, Const(-part), r)
    square, magnitude = r * r, ex.absolute(r)
    rest = polynomial(square, [-1.9515295891e-4, 8.3321608736e-3, -1.6666654611e-1])
    sine = _signed(Fma(rest, square * magnitude, magnitude), r)
    rest = polynomial(square, [2.443315711809948e-5, -1.388731625493765e-3, 4.166664568298827e-2])
    cosine = Fma(rest, square * square, Fma(square, Const(-0.5), Const(1.0)))
    turns = bits(shifted) + 1 if op == "cos" else bits(shifted)
    odd = ex.not_equal(turns & Const(1, DType.I32), 0)
    if op == "tan":
        return ex.where(odd, -cosine, sine) / ex.where(odd, sine, cosine)
    sign = ex.binary("shl", turns & Const(2, DType.I32), 30)
    return Bitcast(bits(ex.where(odd, cosine, sine)) ^ sign, DType.F32)


@cache
def log1p() -> Expr:
    """log(1 + x) for x in [0, 1], by a minimax polynomial for (log(1 + x) / x - 1) / x."""
    p = polynomial(
        _X,
        [
            -0.0032910797744989395,
            0.020088469609618187,
            -0.0574604868888855,
            0.10661371052265167,
            -0.15344977378845215,
            0.1969212144613266,
            -0.24958020448684692,
            0.33330464363098145,
            -0.4999993145465851,
        ],
    )
    return Fma(p * _X, _X, _X)


@cache
def exp_plus_one() -> Expr:
    """exp(x) + 1 = 2 * 2**(n - 1) * exp(r) + 1, r = x - n ln 2 in [-ln2/2, ln2/2].

    2**(n - 1) exp(r) is a normal number between the limits; beyond them the whole is 1 and infinite. That ln 2 is
    rounded adds 1/20 of a unit in the last place for each unit of x, where x is above 0.
    """
    shifted, r = _reduced(ex.maximum(ex.minimum(_X, 88.9), -64.0), _ROUNDER - 1)
    half = Bitcast(bits(polynomial(r, _EXP)) + ex.binary("shl", bits(shifted), 23), DType.F32)
    return Fma(half, Const(2.0), Const(1.0))


@cache
def gelu() -> Expr:
    """x Phi(x) = max(x, 0) - |x| Phi(-|x|), Phi(-t) = 2**q(t).

    q is a polynomial fitted on [0, 9], weighted so that the error of the whole is even; beyond 9 the second term is
    nothing. -inf gives NaN, as the definition does.
    """
    magnitude = ex.absolute(_X)
    t = ex.minimum(magnitude, 9.0)
    q = polynomial(
        t,
        [
            -6.137836976449762e-07,
            1.1362700206518639e-05,
            -4.5476921513909474e-05,
            -0.0004983219550922513,
            0.00756995240226388,
            -0.052877504378557205,
            -0.45906853675842285,
            -1.1511237621307373,
            -1.0,
        ],
    )
    shifted = q + _ROUNDER
    r = q - (shifted - _ROUNDER)
    power = polynomial(
        r,
        [
            0.001326472731307149,
            0.009671512991189957,
            0.05550733581185341,
            0.24022242426872253,
            0.6931470036506653,
            1.0,
        ],
    )
    tail = Bitcast(bits(power) + ex.binary("shl", bits(shifted), 23), DType.F32)
    return Fma(-t, tail, Fma(_X, Const(0.5), magnitude * 0.5))


_EXPANSIONS: dict[str, Callable[[], Expr]] = {
    "exp": _exp,
    "exp_negative": _exp_negative,
    "log": _log,
    "tanh": _tanh,
    "erf": _erf,
    "asin": _asin,
    "acos": _acos,
    "atan": _atan,
    "sinh": _sinh,
    "cosh": _cosh,
    "asinh": _asinh,
    "acosh": _acosh,
    "atanh": _atanh,
}
