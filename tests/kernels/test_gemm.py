"""MatMul and Linear: reference = loop interpreter = native code."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from fusing import with_relu
from harness import run_op

from glulam.compiler.ops.activation import Gelu
from glulam.compiler.ops.fixed_point import FixedPointLinear
from glulam.compiler.ops.matmul import Linear, MatMul
from glulam.compiler.targets import runnable_targets, target

TARGETS = [t.name for t in runnable_targets()]
RNG = np.random.default_rng(5)


def floats(*shape, dtype=np.float32):
    return RNG.uniform(-1, 1, shape).astype(dtype)


def check(op, arrays, constants, target, native, **options):
    (result,) = run_op(op, arrays, constants, target, native, **options)
    (wanted,) = op.reference(*arrays)
    assert result.dtype == wanted.dtype
    if wanted.dtype.kind == "f":
        np.testing.assert_allclose(result, wanted, rtol=1e-4, atol=2e-5)
    else:
        np.testing.assert_array_equal(result, wanted)


LINEAR = [
    ((7,), 5, True), ((1, 33), 10, True), ((1, 40), 150, False), ((5, 19), 37, True),
    ((2, 3, 16), 64, True),
    ((30, 8), 16, True), ((4, 9), 1, True), ((1, 17), 1, False),
    ((3, 0), 4, True), ((0, 4), 4, True), ((2, 1), 3, True),
]  # fmt: skip


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize("constant", [False, True])
def test_linear(target, native, constant):
    for shape, columns, has_bias in LINEAR:
        arrays = [floats(*shape), floats(columns, shape[-1]), floats(columns) if has_bias else None]
        check(Linear(), arrays, (1, 2) if constant else (), target, native)


@pytest.mark.parametrize("target", TARGETS)
def test_linear_with_bias_given_at_run_time(target):
    arrays = [floats(3, 20), floats(40, 20), floats(40)]
    check(Linear(), arrays, (1,), target, True)


MATMUL = [
    ((3, 4), (4, 5)), ((17, 20), (20, 35)), ((4,), (4,)), ((4,), (4, 6)), ((3, 4), (4,)), ((2, 3, 4), (4,)),
    ((4,), (2, 4, 3)), ((2, 3, 4), (2, 4, 5)), ((2, 1, 3, 4), (5, 4, 6)), ((1, 3, 4), (7, 4, 2)),
    ((2, 3, 4), (1, 1, 4, 5)),
    ((1, 20), (20, 70)), ((2, 40, 9), (9, 18)), ((3, 0), (0, 4)), ((0, 3), (3, 2)), ((5, 3), (3, 1)),
    ((2, 2, 3), (1, 3, 4)),
]  # fmt: skip


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize("constants", [(), (0,), (1,)])
def test_matmul(target, native, constants):
    for a, b in MATMUL:
        check(MatMul(), [floats(*a), floats(*b)], constants, target, native)


@pytest.mark.parametrize("dtype", ["float64", "int64", "int32", "int16", "int8", "uint8"])
@pytest.mark.parametrize("native", [False, True])
def test_matmul_of_other_types(dtype, native):
    a, b = (RNG.integers(0, 9, shape).astype(dtype) for shape in ((3, 21), (21, 19)))
    check(MatMul(), [a, b], (), "native", native)
    check(MatMul(), [a, b[:, 0]], (1,), "native", native)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("x", "w", "extra"), [
    ((2, 3, 8), (20, 8), (2, 3, 20)), ((2, 3, 8), (20, 8), (20,)), ((2, 3, 8), (20, 8), (3, 1)), ((5, 8), (33, 8), ()),
    ((8,), (20, 8), (20,)),
])  # fmt: skip
def test_epilogue_reads_what_broadcasts(target, x, w, extra):
    """relu(x @ w.T) * extra."""
    x, w, extra = floats(*x), floats(*w), floats(*extra)
    for op, right in ((Linear(), w), (MatMul(), np.ascontiguousarray(w.T))):
        wanted = np.maximum(op.reference(x, right)[0], 0) * extra
        for constants in ((), (1,)):
            region, given = with_relu(op, [x, right], extra)
            (result,) = run_op(region, given, constants, target)
            np.testing.assert_allclose(result, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("shape", [(50, 21, 40), (3, 8, 300), (1, 300, 33), (2, 17, 16, 64)])
def test_long_epilogue_runs_over_the_finished_tile(target, shape):
    *rows, depth, columns = shape
    arrays = [floats(*rows, depth), floats(columns, depth), floats(columns)]
    region, given = with_relu(Linear(), arrays, floats(*rows, columns), activation=Gelu())
    (wanted,) = region.reference(*given)
    for native in (True, False) if shape[0] < 10 else (True,):
        (result,) = run_op(region, given, (1, 2), target, native)
        np.testing.assert_allclose(result, wanted, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("rows", [2, 20, 75])
def test_weights_fetched_ahead(rows):
    """As many as do not stay in a cache."""
    check(Linear(), [floats(rows, 518), floats(560, 518), floats(560)], (1, 2), "native", True)


@pytest.mark.parametrize("room", [1, 1 << 20])
def test_weights_that_fill_all_caches_are_asked_for_where_hardware_is_late(room, prefetched):
    arrays = [floats(1, 64), floats(80, 64)]
    machine = replace(target("native"), l3_rate=64.0, l2_bytes=1 << 10, l3_bytes=room, asks_ahead=True)
    (result,) = run_op(Linear(), arrays, (1,), machine, native=True)
    assert prefetched == ({"w"} if room == 1 else set())
    np.testing.assert_allclose(result, arrays[0] @ arrays[1].T, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("op", [Linear(), FixedPointLinear()])
@pytest.mark.parametrize(("rows", "depth", "columns"), [(1, 133, 167), (3, 64, 49), (1, 7, 300), (1, 3, 400)])
def test_weights_that_a_slow_cache_sends_once_are_asked_for_some_rows_ahead(op, rows, depth, columns, name, prefetched):
    """With the same bits, also where the last rows ask for places behind their own."""
    arrays, machine = [floats(rows, depth), floats(columns, depth), floats(columns)], target(name)
    (slow,) = run_op(op, arrays, (1, 2), replace(machine, l3_rate=1.0, l2_bytes=1 << 10), native=True)
    assert prefetched == ({"w"} if depth >= 4 else set())
    (fast,) = run_op(op, arrays, (1, 2), replace(machine, l3_rate=64.0, l2_bytes=1 << 10), native=True)
    np.testing.assert_array_equal(slow, fast)
    np.testing.assert_allclose(slow, arrays[0] @ arrays[1].T + arrays[2], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("target", TARGETS)
def test_bits_of_a_row_do_not_depend_on_the_rows_around_it(target):
    x, w = floats(23, 50), floats(45, 50)
    (whole,) = run_op(Linear(), [x, w], (1,), target)
    for i in (0, 11, 22):
        (alone,) = run_op(Linear(), [x[i : i + 1], w], (1,), target)
        np.testing.assert_array_equal(alone[0], whole[i])


@pytest.mark.parametrize("target", TARGETS)
def test_nan_and_infinity_stay_in_their_row(target):
    x, w = floats(4, 10), floats(19, 10)
    x[1, 3], x[2, 5] = np.nan, np.inf
    (result,) = run_op(Linear(), [x, w], (1,), target)
    assert np.isnan(result[1]).all()
    np.testing.assert_array_equal(result[2], np.sign(w[:, 5]) * np.inf)
    assert np.isfinite(result[[0, 3]]).all()
