"""Every operation on every element type: native code on each target against the interpreter."""

from __future__ import annotations

import numpy as np
import pytest
from native import aligned, assert_ulps, run_native

from glulam.compiler.graph.types import DType
from glulam.compiler.loops import expr as ex
from glulam.compiler.loops.builder import Builder
from glulam.compiler.loops.expr import Bitcast, Cast, Fma
from glulam.compiler.loops.interpreter import interpret
from glulam.compiler.loops.ir import Access
from glulam.compiler.loops.rules import type_error
from glulam.compiler.loops.verify import verify_kernel
from glulam.compiler.targets import runnable_targets

TARGETS = [pytest.param(t, id=t.name) for t in runnable_targets()]
LANES = (1, 3, 16, 33)
# Neither the expansions nor the C library round correctly in every case.
SHIFTS = ("shl", "shr")
ULPS = {"exp": 2, "log": 2, "tanh": 2, "erf": 2, "sin": 2, "cos": 2, "pow": 2}
ULPS |= {"exp_negative": 100}  # measured in test_maths
ULPS |= dict.fromkeys(("tan", "asin", "acos", "atan", "sinh", "cosh", "asinh", "acosh", "atanh"), 4)

SPECIAL = [0.0, -0.0, np.inf, -np.inf, np.nan, 1.0, -1.0, 0.5, -0.5, 1.5, 2.5, -2.5, 65504.0, 1e-7, -3.75, 88.0, -104.0]


def values(dtype, seed, count=33):
    """Inputs of a type, the special ones first."""
    rng = np.random.default_rng(seed)
    if dtype is DType.BOOL:
        return rng.random(count) < 0.5
    if dtype.is_float:
        mixed = np.concatenate([SPECIAL, rng.normal(size=count) * 10.0 ** rng.integers(-3, 4, count)])
        with np.errstate(over="ignore"):
            return rng.permutation(mixed)[:count].astype(dtype.numpy)
    info = np.iinfo(dtype.numpy)
    low, high = int(info.min), int(info.max)
    mixed = [0, 0, 1, 2, low, high, low + 1, high - 1, *([-1, -1, -3, 3] if low else [])]
    rest = rng.integers(-100 if info.min else 0, 100, count)
    numbers = [*mixed, *(int(number) for number in rest)][:count]
    return rng.permutation(np.array(numbers, dtype.numpy))


def check(cases, target):
    """Each case (build, input types, ulps) as one buffer of results, for all lane counts, in one kernel."""
    b = Builder("ops")
    arrays, expected = {}, []
    for c, (build, dtypes, ulps) in enumerate(cases):
        inputs = [b.param(f"x{c}_{i}", (33,), dtype=dtype) for i, dtype in enumerate(dtypes)]
        for i, dtype in enumerate(dtypes):
            arrays[f"x{c}_{i}"] = values(dtype, 7 * c + i)
        for lanes in LANES:
            probe = build(*(x[0] for x in inputs))
            name = f"y{c}_{lanes}"
            y = b.param(name, (lanes,), Access.WRITE, dtype=probe.dtype)
            arrays[name] = np.zeros(lanes, probe.dtype.numpy)
            with b.section(once=1), b.vector("v", lanes) as v:
                b.store(y[v], build(*(x[v] for x in inputs)))
            expected.append((name, ulps))
        name = f"y{c}_scalar"
        y = b.param(name, (33,), Access.WRITE, dtype=probe.dtype)
        arrays[name] = np.zeros(33, probe.dtype.numpy)
        with b.section(i=33) as (i,):
            b.store(y[i], build(*(x[i] for x in inputs)))
        expected.append((name, ulps))
    kernel = b.kernel()
    verify_kernel(kernel)
    slow = {name: a.copy() for name, a in arrays.items()}
    fast = {name: aligned(a) for name, a in arrays.items()}
    interpret(kernel, slow)
    run_native(kernel, [fast[p.name] for p in kernel.params], target)
    for name, ulps in expected:
        if ulps and slow[name].dtype.kind == "f":
            assert_ulps(fast[name], slow[name], ulps)
        else:
            np.testing.assert_array_equal(fast[name], slow[name], err_msg=name)


def legal(build, *dtypes):
    params = [ex.Param(i, d) for i, d in enumerate(dtypes)]
    return type_error(build(*params)) is None


def in_domain(op, x):
    """x, or minus its magnitude where the operation is defined for nothing above 0, and its result a normal number."""
    return ex.maximum(-ex.absolute(x), -87.0) if op == "exp_negative" else x


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dtype", DType, ids=lambda d: d.value)
def test_unary(dtype, target):
    cases = [
        (lambda x, op=op: ex.Unary(op, in_domain(op, x)), (dtype,), ULPS.get(op, 0))
        for op in ex.UNARY
        if legal(lambda x, op=op: ex.Unary(op, x), dtype)
    ]
    check(cases, target)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dtype", DType, ids=lambda d: d.value)
def test_binary(dtype, target):
    cases = [
        (lambda x, y, op=op: ex.Binary(op, x, y), (dtype, dtype), ULPS.get(op, 0))
        for op in ex.BINARY
        if op not in SHIFTS and legal(lambda x, y, op=op: ex.Binary(op, x, y), dtype, dtype)
    ]
    # By more than the type has bits they are undefined.
    shifts = [lambda x, op=op: ex.binary(op, x, 3) for op in SHIFTS]
    cases += [(shift, (dtype,), 0) for shift in shifts if legal(shift, dtype)]
    check(cases, target)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dtype", DType, ids=lambda d: d.value)
def test_with_constants(dtype, target):
    numbers = (True, False) if dtype is DType.BOOL else (0, 1, 2, 3, 7) if not dtype.is_signed else (0, -1, 2, 3, -7)
    cases = [
        (lambda x, op=op, k=k: ex.Binary(op, x, ex.Const(k, dtype)), (dtype,), ULPS.get(op, 0))
        for op in ("maximum", "minimum", "div", "fmod", "pow", "add")
        for k in numbers
        if legal(lambda x, y, op=op: ex.Binary(op, x, y), dtype, dtype)
    ]
    check(cases, target)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dtype", DType, ids=lambda d: d.value)
def test_compare_and_select(dtype, target):
    cases = [(lambda x, y, op=op: ex.Compare(op, x, y), (dtype, dtype), 0) for op in ex.COMPARE]
    cases.append((ex.Select, (DType.BOOL, dtype, dtype), 0))
    check(cases, target)


def in_range(source, target):
    """A cast whose operand is first brought into the range in which the result is defined."""

    def build(x):
        if source.is_float and not target.is_float and target is not DType.BOOL:
            x = ex.where(x < 100.0, x, 3.75)
            x = ex.where(x > (-100.0 if target.is_signed else 0.0), x, 2.5)
        return Cast(x, target)

    return build


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("source", DType, ids=lambda d: d.value)
def test_cast(source, target):
    check([(in_range(source, t), (source,), 0) for t in DType], target)


@pytest.mark.parametrize("target", TARGETS)
def test_a_float64_is_rounded_to_a_half_once(target):
    """Beside the middle between two halves, nearer to it than any float32; and numbers that float32 has not."""
    halves = np.arange(0x7BFF, dtype=np.uint16).view(np.float16).astype(np.float64)
    middles = (halves + np.append(halves[1:], 65504.0)) / 2
    beside = [
        middles,
        middles * (1 + 1e-12),
        middles * (1 - 1e-12),
        halves * (1 + 1e-12),
        np.array([65520.0, 65519.9999]),
    ]
    some = np.concatenate([*beside, [1e-300, 1e-46, 1e39, 1e300, 65504.0, np.inf, np.nan, 0.0]])
    padded = np.zeros((2 * some.size // 16 + 1, 16))
    padded.flat[: 2 * some.size] = np.concatenate([some, -some])
    rows = len(padded)
    b = Builder("rounded")
    x, y = b.param("x", (rows, 16), dtype=DType.F64), b.param("y", (rows, 16), Access.WRITE, dtype=DType.F16)
    with b.section(i=rows) as (i,), b.vector("v", 16) as v:
        b.store(y[i, v], Cast(x[i, v], DType.F16))
    arrays = [aligned(padded.reshape(-1)), aligned(np.zeros(padded.size, np.float16))]
    run_native(b.kernel(), arrays, target)
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(arrays[1], padded.reshape(-1).astype(np.float16))


@pytest.mark.parametrize("target", TARGETS)
def test_bitcast(target):
    pairs = [(DType.F32, DType.I32), (DType.F64, DType.I64), (DType.F16, DType.I16), (DType.I8, DType.U8)]
    # NaN payloads survive because nothing computes with them.
    cases = [(lambda x, b=b: Bitcast(x, b), (a,), 0) for pair in pairs for a, b in (pair, pair[::-1])]
    check(cases, target)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dtype", [DType.F32, DType.F64, DType.F16], ids=lambda d: d.value)
def test_multiply_add(dtype, target):
    # The product is at least as large as the sum, so one more rounding of it costs half a unit.
    check(
        [(lambda x, y: Fma(x, x, ex.absolute(y)), (dtype, dtype), 0 if target.has_fma and dtype is DType.F32 else 1)],
        target,
    )


@pytest.mark.parametrize("target", TARGETS)
def test_half_conversion_of_every_half(target):
    everything = np.arange(65536, dtype=np.uint16).view(np.float16)
    b = Builder("halves")
    x, y = b.param("x", (4096, 16), dtype=DType.F16), b.param("y", (4096, 16), Access.WRITE)
    z = b.param("z", (4096, 16), Access.WRITE, dtype=DType.F16)
    with b.section(i=4096) as (i,), b.vector("v", 16) as v:
        b.store(y[i, v], Cast(x[i, v], DType.F32))
        b.store(z[i, v], Cast(Cast(x[i, v], DType.F32) * 1.0003, DType.F16))
    arrays = [aligned(everything), aligned(np.zeros(65536, np.float32)), aligned(np.zeros(65536, np.float16))]
    run_native(b.kernel(), arrays, target)
    with np.errstate(all="ignore"):
        single = everything.astype(np.float32)
        np.testing.assert_array_equal(arrays[1], single)
        np.testing.assert_array_equal(arrays[2], (single * np.float32(1.0003)).astype(np.float16))
