"""Stand-alone pointwise kernels: broadcasting, layouts, element types, and the number of parallel iterations."""

from __future__ import annotations

import numpy as np
import pytest
from moves import Lowering, blocked, random

from glulam.compiler.graph.layout import PLAIN
from glulam.compiler.graph.op import Case
from glulam.compiler.graph.types import TensorType
from glulam.compiler.ops import (
    ALL_OPS,
    Add,
    And,
    Div,
    Exp,
    Less,
    Mul,
    Not,
    Pointwise,
    PRelu,
    Relu,
    ScaleShift,
    Sub,
    Where,
)
from glulam.compiler.targets import runnable_targets, target

POINTWISE = [op for op in ALL_OPS if issubclass(op, Pointwise)]


def check(op, arrays, layouts=None, constants=(), gaps=False, tolerance=0.0):
    """Reference = interpreter = native, in any layouts; `tolerance` is relative to the largest magnitude."""
    (expected,) = op.reference(*arrays)
    for machine in runnable_targets():
        chosen = layouts(machine.lanes) if layouts else ([PLAIN] * len(arrays), [PLAIN])
        lowering = Lowering(op, arrays, chosen, constants, machine, gaps)
        for (actual,) in (lowering.native(), lowering.interpreted()):
            assert actual.shape == expected.shape
            assert actual.dtype == expected.dtype
            if not tolerance:
                np.testing.assert_array_equal(actual, expected)
            else:
                finite = expected[np.isfinite(expected)]
                scale = max(float(np.abs(finite).max()), 1e-30) if finite.size else 1.0
                np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=tolerance * scale)


@pytest.mark.parametrize("op", POINTWISE, ids=lambda op: op.name)
def test_cases(op):
    """One machine suffices: the operations themselves are tested on each."""
    for case in op.cases():
        arrays = case.arrays()
        (expected,) = case.op.reference(*arrays)
        (actual,) = Lowering(case.op, arrays, ([PLAIN] * len(arrays), [PLAIN]), case.constants).native()
        assert actual.dtype == expected.dtype
        if expected.dtype.kind == "f":
            finite = np.abs(expected[np.isfinite(expected)])
            scale = float(finite.max()) if finite.size else 1.0
            np.testing.assert_allclose(actual, expected, rtol=2e-6, atol=case.op.tolerance * min(scale, 1e3))
        else:
            # An integer power that no integer holds is undefined: saturated here, anything in numpy.
            held = np.abs(expected.astype(float)) < (
                2.0 if expected.dtype == bool else np.iinfo(expected.dtype).max / 2
            )
            np.testing.assert_array_equal(actual[held], expected[held])


SHAPES = [
    ((), ()),
    ((1,), (1, 1)),
    ((7,), ()),
    ((5, 1), (1, 6)),
    ((2, 1, 4, 1), (3, 1, 5)),
    ((2, 17, 3, 5), (17, 1, 1)),
    ((2, 17, 3, 5), (2, 17, 1, 1)),
    ((2, 17, 3, 5), (1, 17, 1, 1)),
    ((2, 17, 3, 5), (2, 1, 3, 5)),
    ((2, 17, 3, 5), (3, 5)),
    ((2, 17, 3, 5), (1, 3, 5)),
    ((2, 17, 3, 5), (5,)),
    ((2, 17, 3, 5), (3, 1)),
    ((2, 17, 3, 5), (1, 1, 1, 1)),
    ((1, 3, 1), (4, 1, 2)),
    ((0, 3), (1, 3)),
    ((2, 0, 3), (1,)),
    ((3, 100), (3, 1)),
    ((300, 2), (2,)),
]


@pytest.mark.parametrize("shapes", SHAPES, ids=str)
@pytest.mark.parametrize("constants", [(), (1,), (0,)])
def test_broadcasting(shapes, constants):
    x, y = (random(shape, seed=i) for i, shape in enumerate(shapes))
    check(Sub(), [x, y], constants=constants)
    check(Sub(), [y, x], constants=[1 - i for i in constants])


IN_BLOCKS = [shapes[1] for shapes in SHAPES if shapes[0] == (2, 17, 3, 5)] + [(), (1,)]


@pytest.mark.parametrize("shape", IN_BLOCKS, ids=str)
@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize(("halo", "gaps"), [(None, False), ((1, 2), True)])
def test_broadcasting_in_blocks(shape, known, halo, gaps):
    x, y = random((2, 17, 3, 5)), random(shape, seed=1)
    whole = len(shape) == 4 and shape[1] > 1
    if not known and len(shape) == 3 and shape[0] > 1:
        pytest.skip("a run-time operand [C,1,1] keeps the kernel plain")
    constants = (1,) if known else ()

    def layouts(lanes):
        second = blocked(4, lanes) if whole and not known else PLAIN
        return [blocked(4, lanes, (1, 1) if gaps else None), second], [blocked(4, lanes, halo, 7.0)]

    check(Sub(), [x, y], layouts, constants, gaps)
    check(Mul(), [x, y], layouts, constants, gaps)


def test_a_single_channel_in_either_layout():
    x, y = random((2, 17, 3, 5)), random((2, 1, 3, 5), seed=1)
    check(Add(), [x, y], lambda lanes: ([blocked(4, lanes), blocked(4, lanes)], [blocked(4, lanes)]))
    check(Add(), [x, y], lambda lanes: ([blocked(4, lanes), PLAIN], [blocked(4, lanes)]))


@pytest.mark.parametrize("shape", [(1, 5, 9), (2, 18, 2, 3, 4), (1, 3, 200)])
def test_other_ranks_in_blocks(shape):
    x, y = random(shape), random(shape, seed=1)
    rank = len(shape)
    check(Add(), [x, y], lambda lanes: ([blocked(rank, lanes)] * 2, [blocked(rank, lanes)]))
    check(Add(), [x, y], lambda lanes: ([blocked(rank, lanes)] * 2, [blocked(rank, lanes, (0, 1))]))


def test_lanes_beyond_the_channels_stay_zero():
    """Though 0 + 3, exp(0) and 0 / 0 are not zero."""
    x = random((1, 5, 2, 3))
    three = np.float32([3.0])
    for op in (Add(), Sub()):
        check(op, [x, three], lambda lanes: ([blocked(4, lanes), PLAIN], [blocked(4, lanes)]))
    check(Exp(), [x], lambda lanes: ([blocked(4, lanes)], [blocked(4, lanes)]), tolerance=1e-6)
    check(Div(), [x, x], lambda lanes: ([blocked(4, lanes)] * 2, [blocked(4, lanes)]))
    check(
        ScaleShift(),
        [x, np.float32(2), np.float32(1)],
        lambda lanes: ([blocked(4, lanes), PLAIN, PLAIN], [blocked(4, lanes)]),
    )


def test_three_operands():
    condition = random((2, 1, 5), "?")
    for shapes in (((2, 3, 5), ()), ((3, 1), (5,)), ((1,), (2, 3, 5))):
        check(Where(), [condition, *(random(shape, seed=i) for i, shape in enumerate(shapes))])


# What a free formula takes is its own affair, and bits go only to types of their size.
TYPED = [op for op in POINTWISE if isinstance(op.arity, int) and op.name != "bit_cast"]


@pytest.mark.parametrize("op", TYPED, ids=lambda op: op.name)
def test_types(op):
    """Every element type that the op accepts, over more than one vector."""
    case = op.cases()[0]
    for dtype in sorted(case.op.accepts, key=lambda d: d.value):
        if op is Where:
            arrays = [random((45,), "?"), random((45,), dtype.numpy, 1), random((45,), dtype.numpy, 2)]
        else:
            types = [TensorType(dtype, (45,))] * case.op.arity
            arrays = list(Case(case.op, tuple(types), low=1.0, high=3.0).arrays())
        exact = dtype.value not in ("f32", "f64", "f16")
        check(case.op, arrays, tolerance=0.0 if exact and op.name != "pow" else 2e-6)


def test_bools():
    x, y = random((3, 70), "?"), random((70,), "?", 1)
    check(And(), [x, y])
    check(Not(), [x])
    check(Less(), [random((3, 70)), random((3, 1), seed=1)])


@pytest.mark.parametrize("length", [1, 3, 16, 17, 64, 65, 1000, 100_003])
def test_lengths(length):
    x = random((length,))
    (expected,) = Relu().reference(x)
    lowering = Lowering(Relu(), [x], ([PLAIN], [PLAIN]))
    np.testing.assert_array_equal(lowering.native()[0], expected)


def test_an_output_may_lie_where_an_input_does():
    """Each element is computed once, after it was read."""
    for shape in ((3, 45), (1, 20, 3, 7)):
        x = random(shape)
        for layout in (PLAIN, blocked(len(shape), 16)) if len(shape) > 2 else (PLAIN,):
            lowering = Lowering(Add(), [x, random(shape, seed=1)], ([layout] * 2, [layout]), machine=target("native"))
            expected = lowering.native()[0].copy()
            memory, outputs = lowering.memory()
            names = {
                arg: b.name
                for b, arg in zip(lowering.kernel.params, lowering.lowered.args, strict=True)
                if isinstance(arg, tuple)
            }
            outputs[0] = memory[names["output", 0]] = memory[names["input", 0]]
            lowering.function(memory)(0, lowering.kernel.extent)
            np.testing.assert_array_equal(lowering.logical(outputs)[0], expected)


@pytest.mark.parametrize(
    ("shape", "block"),
    [((1, 64, 56, 56), 16), ((1, 64, 56, 56), 1), ((200_000,), 1), ((20_000, 10), 1), ((1, 16, 224, 224), 16)],
)
def test_a_sensible_number_of_iterations(shape, block):
    x = np.zeros(shape, np.float32)
    layout = PLAIN if block == 1 else blocked(len(shape), block)
    assert 16 <= Lowering(Add(), [x, x], ([layout] * 2, [layout])).kernel.extent <= 150
    small = np.zeros((1, 8, 4, 4), np.float32)
    assert Lowering(PRelu(), [small, small], ([PLAIN] * 2, [PLAIN])).kernel.extent == 1
