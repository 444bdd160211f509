"""Accuracy of the float32 expansions over the whole range, against float64, with one rounding in Fma and with two."""

from __future__ import annotations

import math

import numpy as np
import pytest
from native import aligned, run_native

from glulam.compiler.codegen import maths
from glulam.compiler.graph.types import DType
from glulam.compiler.loops import expr as ex
from glulam.compiler.loops.builder import Builder
from glulam.compiler.loops.ir import Access
from glulam.compiler.ops.activation import log1p
from glulam.compiler.targets import runnable_targets

TARGETS = [pytest.param(t, id=t.name) for t in runnable_targets()]
HUGE = float(np.float32(1e38))
TINY = np.finfo(np.float32).tiny


NUMPY = {name: name.replace("a", "arc", 1) for name in ("asin", "acos", "atan", "asinh", "acosh", "atanh")}

FRACTION = ex.exp(-ex.absolute(ex.Param(0)))


def exact(op, x):
    if op == "erf":
        return np.fromiter((math.erf(v) for v in x), np.float64, x.size)
    with np.errstate(all="ignore"):
        return getattr(np, NUMPY.get(op, op))(x.astype(np.float64))


def native(op, x, target):
    return computed(lambda x: ex.unary(op, x), [x], target)


def computed(formula, operands, target):
    """The formula of float32 operands by native code, in vectors."""
    size, rows = operands[0].size, -(-operands[0].size // 64)
    b = Builder("maths")
    sources = [b.param(f"x{i}", (rows, 64)) for i in range(len(operands))]
    result = b.param("y", (rows, 64), Access.WRITE)
    with b.section(i=rows) as (i,), b.vector("v", 64) as v:
        b.store(result[i, v], formula(*(source[i, v] for source in sources)))
    arrays = [*(aligned(np.resize(x, rows * 64)) for x in operands), aligned(np.zeros(rows * 64, np.float32))]
    run_native(b.kernel(), arrays, target)
    return arrays[-1][:size]


def samples():
    every = np.arange(0, 2**32, 16001, dtype=np.uint64).astype(np.uint32).view(np.float32)
    parts = [every[np.isfinite(every)]]
    for low, high in ((-105, 90), (-1.2, 1.2), (0.4, 2.1), (-5, 5), (1.0, 1.02), (0.99, 1.0)):
        parts.append(np.linspace(low, high, 60001).astype(np.float32))
    parts.append(np.float32([88.72283, 88.722839, 88.7229, -87.336540, -87.336548, 0.625, 0.92773, 3.92, 4.0]))
    parts.append(np.float32([89.0, 89.3, 89.4, 89.415985, 89.415993, 89.5, 89.6, -89.415985, 1.3e8, 1.4e8]))
    parts.append(np.float32([3.4028235e38, -3.4028235e38, 1e38, -1e38, 1e-38, 1e-45, -1e-45, 1.1754944e-38]))
    return np.concatenate(parts)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    ("op", "ulps"),
    [
        *(("exp", 1.1), ("log", 1.0), ("tanh", 2.5), ("erf", 1.2)),
        *(("asin", 2.0), ("acos", 1.5), ("atan", 1.5), ("sin", 2.0), ("cos", 2.0), ("tan", 3.5)),
        *(("sinh", 1.8), ("cosh", 1.8), ("asinh", 1.8), ("acosh", 2.1), ("atanh", 2.1)),
    ],
)
def test_error_in_units_of_the_last_place(op, ulps, target):
    x = samples()
    expected, actual = exact(op, x), native(op, x, target)
    with np.errstate(all="ignore"):
        rounded = expected.astype(np.float32)
    regular = np.isfinite(rounded) & (np.abs(expected) >= TINY)
    error = np.abs(actual[regular] - expected[regular]) / np.spacing(np.abs(rounded[regular])).astype(np.float64)
    limit = ulps if target.has_fma else ulps + 1.5
    assert error.max() <= limit, f"{error.max()} ulp at {x[regular][error.argmax()]!r}"
    tiny = np.isfinite(rounded) & ~regular
    assert np.all(np.abs(actual[tiny] - expected[tiny]) <= TINY)  # denormal results may be flushed
    odd = ~np.isfinite(rounded)
    np.testing.assert_array_equal(actual[odd], rounded[odd])


@pytest.mark.parametrize("target", TARGETS)
def test_exponentials_of_what_is_not_above_zero(target):
    x = samples()
    x = np.concatenate([x[x <= 0], np.float32([-np.inf])])
    expected, actual = exact("exp", x), native("exp_negative", x, target)
    regular = expected >= TINY
    error = np.abs(actual[regular] - expected[regular]) / np.spacing(expected[regular].astype(np.float32))
    # what the roundings of ln 2, and of its multiples where there is no Fma, lose is in proportion to x
    assert (error <= 1.2 + np.abs(x[regular]) * (0.05 if target.has_fma else 1.0)).all()
    assert (np.abs(actual[~regular] - expected[~regular]) <= TINY).all()
    np.testing.assert_array_equal(native("exp_negative", np.float32([0.0, -0.0, -1e38]), target), [1.0, 1.0, 0.0])


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    ("op", "expected"),
    [
        ("exp", [1.0, 1.0, np.inf, 0.0, np.nan, np.inf, 0.0]),
        ("log", [-np.inf, -np.inf, np.inf, np.nan, np.nan, 87.49823, np.nan]),
        ("tanh", [0.0, -0.0, 1.0, -1.0, np.nan, 1.0, -1.0]),
        ("erf", [0.0, -0.0, 1.0, -1.0, np.nan, 1.0, -1.0]),
        ("asin", [0.0, -0.0, np.nan, np.nan, np.nan, np.nan, np.nan]),
        ("acos", [np.pi / 2, np.pi / 2, np.nan, np.nan, np.nan, np.nan, np.nan]),
        ("atan", [0.0, -0.0, np.pi / 2, -np.pi / 2, np.nan, np.pi / 2, -np.pi / 2]),
        ("sin", [0.0, -0.0, np.nan, np.nan, np.nan, np.sin(HUGE), -np.sin(HUGE)]),
        ("cos", [1.0, 1.0, np.nan, np.nan, np.nan, np.cos(HUGE), np.cos(HUGE)]),
        ("tan", [0.0, -0.0, np.nan, np.nan, np.nan, np.tan(HUGE), -np.tan(HUGE)]),
        ("sinh", [0.0, -0.0, np.inf, -np.inf, np.nan, np.inf, -np.inf]),
        ("cosh", [1.0, 1.0, np.inf, np.inf, np.nan, np.inf, np.inf]),
        ("asinh", [0.0, -0.0, np.inf, -np.inf, np.nan, np.arcsinh(HUGE), -np.arcsinh(HUGE)]),
        ("acosh", [np.nan, np.nan, np.inf, np.nan, np.nan, np.arccosh(HUGE), np.nan]),
        ("atanh", [0.0, -0.0, np.nan, np.nan, np.nan, np.nan, np.nan]),
    ],
)
def test_special_values(op, expected, target):
    x = np.float32([0.0, -0.0, np.inf, -np.inf, np.nan, 1e38, -1e38])
    actual = native(op, x, target)
    np.testing.assert_array_equal(actual, np.float32(expected))
    np.testing.assert_array_equal(np.signbit(actual[:2]), np.signbit(np.float32(expected[:2])))


@pytest.mark.parametrize("target", TARGETS)
def test_inverse_hyperbolic_functions_at_the_ends_of_their_domains(target):
    below, above = np.nextafter(np.float32(1), np.float32([0, 2]))
    np.testing.assert_array_equal(native("acosh", np.float32([1.0, below, -1.5]), target), [0, np.nan, np.nan])
    ends = np.float32([1.0, -1.0, above, -above])
    np.testing.assert_array_equal(native("atanh", ends, target), [np.inf, -np.inf, np.nan, np.nan])


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("op", ["sinh", "asinh", "atanh"])
def test_the_smallest_numbers_stay_what_they_are(op, target):
    x = np.float32([1e-45, -1e-45, 3e-45, 1e-40, -1e-40, TINY, 1e-30, -1e-10])
    np.testing.assert_array_equal(native(op, x, target), x)


@pytest.mark.parametrize(
    "op",
    [
        *("exp", "log", "tanh", "erf", "asin", "acos", "atan", "sin", "cos", "tan"),
        *("sinh", "cosh", "asinh", "acosh", "atanh"),
    ],
)
def test_nan_with_any_payload_stays_nan(op):
    payloads = np.array([0x7FC00001, 0xFFC001FF, 0x7F800001, 0xFFFFFFFF], np.uint32).view(np.float32)
    assert np.isnan(native(op, payloads, runnable_targets()[0])).all()


FORMS = {
    "as the op has it": lambda x: (x * 0.5) * (ex.erf(x * math.sqrt(0.5)) + 1),
    "as PyTorch exports it": lambda x: x * (ex.erf(x / math.sqrt(2)) + 1) * 0.5,
    "another order": lambda x: 0.5 * (x * (1 + ex.erf(math.sqrt(0.5) * x))),
}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_gelu_is_recognised_and_exact(form, target):
    assert maths.gelu_operand(form(ex.Param(0))) is not None
    b, x = Builder("gelu"), np.linspace(-16, 16, 6400, dtype=np.float32)
    x[:6] = [0, -0.0, np.nan, np.inf, 3e38, -3e38]
    source, result = b.param("x", (100, 64)), b.param("y", (100, 64), Access.WRITE)
    with b.section(i=100) as (i,), b.vector("v", 64) as v:
        b.store(result[i, v], form(source[i, v]))
    arrays = [aligned(x), aligned(np.zeros(6400, np.float32))]
    run_native(b.kernel(), arrays, target)
    y = arrays[1].ravel()[3:]
    expected = np.array([float(v) * 0.5 * math.erfc(-float(v) / math.sqrt(2)) for v in x[3:]])
    assert np.isnan(arrays[1].ravel()[2])
    assert y[0] == np.inf
    error = np.abs(y[1:] - expected[1:]) / np.maximum(np.abs(expected[1:]), 1)
    assert error.max() < 2e-7


def test_what_is_not_gelu_is_left_alone():
    x, y = ex.Param(0), ex.Param(1)
    for other in (
        (x * 0.5) * (ex.erf(y * math.sqrt(0.5)) + 1),
        (x * 0.25) * (ex.erf(x * math.sqrt(0.5)) + 1),
        (x * 0.5) * (ex.erf(x * 0.7) + 1),
        (x * 0.5) * (ex.erf(x * math.sqrt(0.5)) + 2),
        (x * 0.5) * (ex.tanh(x * math.sqrt(0.5)) + 1),
    ):
        assert maths.gelu_operand(other) is None


@pytest.mark.parametrize("target", TARGETS)
def test_exp_plus_one_is_recognised_and_exact(target):
    assert maths.exp_plus_one_operand(ex.exp(ex.Param(0)) + 1) is not None
    assert maths.exp_plus_one_operand(1 + ex.exp(ex.Param(0))) is not None
    x = np.concatenate([np.linspace(-110, 88, 6394, dtype=np.float32), np.float32([89, 3e38, np.inf, np.nan, -3e38])])
    x = np.append(x, np.float32(-np.inf))
    b = Builder("exp_plus_one")
    source, result = b.param("x", (100, 64)), b.param("y", (100, 64), Access.WRITE)
    with b.section(i=100) as (i,), b.vector("v", 64) as v:
        b.store(result[i, v], ex.exp(source[i, v]) + 1)
    arrays = [aligned(x), aligned(np.zeros(6400, np.float32))]
    run_native(b.kernel(), arrays, target)
    y, expected = arrays[1].ravel(), np.exp(x[:6394].astype(np.float64)) + 1
    np.testing.assert_array_equal(y[6394:], [np.inf, np.inf, np.inf, np.nan, 1, 1])
    error = np.abs(y[:6394] - expected) / np.spacing(expected.astype(np.float32))
    # what the roundings of ln 2, and of its multiples where there is no Fma, lose is in proportion to x
    assert (error <= 1.6 + np.maximum(x[:6394], 0) * (0.05 if target.has_fma else 1.0)).all()


def test_what_is_not_exp_plus_one_is_left_alone():
    x, wide = ex.Param(0), ex.Param(0, DType.F64)
    for other in (ex.exp(x) + 2, ex.exp(x) - 1, ex.exp_negative(x) + 1, ex.exp(wide) + 1):
        assert maths.exp_plus_one_operand(other) is None


@pytest.mark.parametrize("target", TARGETS)
def test_log1p_of_a_fraction_is_recognised_and_exact(target):
    assert maths.log1p_operand(log1p(FRACTION)) is not None
    x = np.concatenate([np.linspace(0, 110, 6396, dtype=np.float32), np.float32([np.nan, np.inf, -np.inf, -1e-8])])
    b = Builder("log1p")
    source, result = b.param("x", (100, 64)), b.param("y", (100, 64), Access.WRITE)
    with b.section(i=100) as (i,), b.vector("v", 64) as v:
        b.store(result[i, v], log1p(ex.exp(-ex.absolute(source[i, v]))))
    arrays = [aligned(x), aligned(np.zeros(6400, np.float32))]
    run_native(b.kernel(), arrays, target)
    y, expected = arrays[1].ravel(), np.log1p(np.exp(-np.abs(x.astype(np.float64))))
    assert np.isnan(y[-4])
    np.testing.assert_array_equal(y[-3:-1], 0.0)
    error = np.abs(y - expected)[expected >= TINY] / expected[expected >= TINY]
    assert error.max() < 2.5e-7


def test_what_is_not_log1p_of_a_fraction_is_left_alone():
    x, y = FRACTION, ex.exp(-ex.absolute(ex.Param(1)))
    kahan = ex.log(x + 1) * (x / ((x + 1) - 1))
    for other in (log1p(ex.Param(0)), log1p(ex.exp(-ex.Param(0))), ex.where(ex.equal(y + 1, 1), y, kahan), kahan):
        assert maths.log1p_operand(other) is None


def assert_powers(actual, x, y, ulps):
    """Within `ulps` of the float64 power, denormal results within a unit of theirs, the rest equal, zeros by sign."""
    with np.errstate(all="ignore"):
        # An array of exponents, for numpy takes a single 1/2 for a square root, which knows no infinite power.
        expected = np.power(x.astype(np.float64), np.broadcast_to(y, x.shape).astype(np.float64))
        rounded = expected.astype(np.float32)
    finite = np.isfinite(rounded)
    np.testing.assert_array_equal(actual[~finite], rounded[~finite])
    unit = np.spacing(np.clip(np.abs(rounded[finite]), TINY, np.float32(3e38))).astype(np.float64)
    error = np.abs(actual[finite] - expected[finite]) / unit
    worst = error.argmax()
    assert error[worst] <= ulps, f"{error[worst]} ulp at {x[finite][worst]!r} to {y!r}"
    zero = rounded == 0
    np.testing.assert_array_equal(np.signbit(actual[zero & (actual == 0)]), np.signbit(rounded[zero & (actual == 0)]))


def bits(rng, count):
    return rng.integers(0, 2**32, count, dtype=np.uint64).astype(np.uint32).view(np.float32)


def bases_and_exponents(count=40_000):
    """Pairs of whose powers most are finite, of every size, but also any pairs, and whole exponents."""
    rng = np.random.default_rng(3)
    near = (1 + rng.uniform(-1, 1, count) * 10.0 ** rng.uniform(-7, -1, count)).astype(np.float32)
    bases = [np.abs(bits(rng, count)), rng.uniform(0.5, 2, count).astype(np.float32), near]
    bases = np.concatenate([x[np.isfinite(x) & (x != 1) & (x != 0)] for x in bases])
    fitting = rng.uniform(-151, 129, bases.size) / np.log2(bases.astype(np.float64))
    pairs = [(bases, fitting), (bits(rng, count), bits(rng, count))]
    pairs.append((rng.uniform(-10, 10, count), rng.integers(-40, 40, count)))
    return [np.concatenate([part.astype(np.float32) for part in side]) for side in zip(*pairs, strict=True)]


@pytest.mark.parametrize("target", TARGETS)
def test_powers_of_every_size(target):
    x, y = bases_and_exponents()
    assert_powers(computed(lambda x, y: x**y, [x, y], target), x, y, 2.0)


ODDITIES = np.float32([
    *(0.0, 1.0, 2.0, 3.0, 5.0, 0.5, 1.5, 2.5, 0.1, 1 / 3, np.inf, np.nan, 1e-45, 1e-40, TINY, 3.4028235e38, 1e30),
    *(8388607.5, 8388609.0, 16777215.0, 16777216.0, 4194303.5, 126.0, 127.0, 128.0, 149.0, 150.0, 0.9999999, 1.0000001),
])  # fmt: skip


@pytest.mark.parametrize("target", TARGETS)
def test_the_table_of_powers(target):
    """Zeros, ones, infinities, NaN, the ends of the range and odd, even and broken exponents with one another."""
    payloads = np.array([0x7F800001, 0xFFC001FF, 0xFFFFFFFF], np.uint32).view(np.float32)
    some = np.concatenate([ODDITIES, -ODDITIES, payloads])
    x, y = (side.ravel() for side in np.meshgrid(some, some))
    assert_powers(computed(lambda x, y: x**y, [x, y], target), x, y, 2.0)


@pytest.mark.parametrize("target", TARGETS)
def test_remainders_are_exact(target):
    """Of operands next to multiples of the divisor, up to beyond what float64 holds, and of any bits."""
    rng, count = np.random.default_rng(5), 30_000
    divisors = np.abs(bits(rng, count))
    divisors = np.where(np.isfinite(divisors), divisors, np.float32(1.5))
    with np.errstate(all="ignore"):
        multiples = (np.floor(2.0 ** rng.uniform(0, 31, count)) * divisors).astype(np.float32)
        beside = [np.nextafter(multiples, np.float32(end)) for end in (0, np.inf)]
        table = [side.ravel() for side in np.meshgrid(*[np.concatenate([ODDITIES, -ODDITIES])] * 2)]
        x = np.concatenate([multiples, -beside[0], beside[1], bits(rng, count), table[0]])
        y = np.concatenate([divisors, divisors, -divisors, bits(rng, count), table[1]])
        expected = np.fmod(x, y)
    actual = computed(lambda x, y: ex.binary("fmod", x, y), [x, y], target)
    np.testing.assert_array_equal(actual, expected)
    number = ~np.isnan(expected)
    np.testing.assert_array_equal(np.signbit(actual[number]), np.signbit(expected[number]))


POWERS = {1: 0, 2: 0.5, 3: 1.5, 4: 2.0, 5: 3.0, 6: 3.5, 0.5: 0.5, 1.5: 1.5, -0.5: 1.6, -1: 0.5, -2: 2.0}


def test_all_short_powers_are_measured():
    assert set(POWERS) == ex.POWERS


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("power", [*POWERS, 0, 2.5, -3, 7, 100, 1 / 3, -0.75, math.inf, -math.inf, math.nan])
def test_power_by_a_constant(power, target):
    x = np.concatenate([samples(), ODDITIES, -ODDITIES])
    assert_powers(computed(lambda x: x**power, [x], target), x, np.float32(power), POWERS.get(power, 1.0))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("base", [2, 10, 0.5, 1, 0, -2, -1, -0.0, math.inf, -math.inf, math.nan])
def test_power_of_a_constant(base, target):
    y = np.concatenate([np.linspace(-160, 160, 40001).astype(np.float32), np.arange(-160, 160), ODDITIES, -ODDITIES])
    y = y.astype(np.float32)
    actual = computed(lambda y: ex.binary("pow", ex.Const(base), y), [y], target)
    assert_powers(actual, np.full_like(y, base), y, 0.7)


@pytest.mark.parametrize("power", [*POWERS, 2.5])
def test_powers_of_other_floats_by_a_constant(power):
    for dtype, tolerance in ((DType.F64, 1e-15), (DType.F16, 2.0**-10.9)):
        b = Builder("power")
        x, y = b.param("x", (16,), dtype=dtype), b.param("y", (16,), Access.WRITE, dtype=dtype)
        with b.section(i=1), b.vector("v", 16) as v:
            b.store(y[v], x[v] ** power)
        values = np.array([0.0, 1.0, 2.0, 3.5, 0.1, 4.7, np.inf, np.nan, 1.07, 1.22, 1.56, 1.83, 2.17, 0.7, 0.3, 0.25])
        values = values.astype(dtype.numpy)
        arrays = [aligned(values), aligned(np.zeros(16, dtype.numpy))]
        run_native(b.kernel(), arrays, runnable_targets()[0])
        with np.errstate(all="ignore"):
            expected = np.power(values.astype(np.float64), power).astype(dtype.numpy)
        np.testing.assert_allclose(arrays[1].astype(np.float64), expected.astype(np.float64), rtol=tolerance)
