"""What kernels do, counted in the loop IR, and the least time it takes."""

from __future__ import annotations

import numpy as np
import pytest

import glulam as gl
from glulam.benchmarks.roofline import Roofline, Work, footprint, operations, work_by_step
from glulam.compiler.driver import lower
from glulam.compiler.loops.builder import Builder
from glulam.compiler.loops.expr import Fma
from glulam.compiler.loops.ir import Access
from glulam.compiler.options import Options
from glulam.compiler.targets import target

MACHINE = target("x86-64-v4")


def test_operations_are_those_of_all_iterations_in_whole_vectors():
    b = Builder("k")
    x, y = b.param("x", (5, 3, 12)), b.param("y", (5, 12), Access.WRITE)
    with b.section(n=5) as (n,), b.vector("v", 12) as v:
        acc = b.tile("acc", 1)
        b.store(acc[0], 0.0)
        with b.serial("i", 3) as i:
            b.store(acc[0], Fma(x[n, i, v], x[n, 0, v], acc[0]))
        shared = acc[0] + 1.0
        b.store(y[n, v], shared * shared)
    assert operations(b.kernel(), lanes=16) == 5 * 16 * (3 + 2)
    assert operations(b.kernel(), lanes=8) == 5 * 16 * (3 + 2)
    assert operations(b.kernel(), lanes=4) == 5 * 12 * (3 + 2)


def test_the_slower_of_arithmetic_and_transfer_counts():
    roof = Roofline(peak=100.0, memory=10.0, cache=50.0)
    assert roof.seconds(Work(operations=500, weights=10, tensors=100)) == 10.0
    assert roof.bound(Work(operations=500, weights=10, tensors=100)) == "arithmetic"
    assert roof.seconds(Work(operations=5, weights=10, tensors=100)) == 3.0
    assert roof.bound(Work(operations=5, weights=10, tensors=100)) == "memory"


@pytest.mark.parametrize(("numerics", "multiplications"), [("strict", 9 * 94 / 96), ("fast", 36 / 16)])
def test_a_network_is_held_against_what_its_algorithm_does(numerics, multiplications):
    """Winograd's algorithm multiplies less, and has more weights; what else it computes is little."""
    net = gl.Sequential([gl.layers.Input((64, 32, 32)), gl.layers.Conv2d(64, 3, padding=1)])
    program = lower(net.graph(), Options(numerics=numerics, target=MACHINE.name))
    done = sum(work_by_step(program, MACHINE).values(), Work())
    definition = 64 * 64 * 32 * 32
    assert definition * multiplications <= done.operations < definition * multiplications * 1.5
    assert done.weights == pytest.approx(program.weights.nbytes, rel=0.01)
    assert done.tensors >= 2 * 64 * 32 * 32 * 4
    assert footprint(program) == program.weights.nbytes + program.arena_bytes + 2 * np.prod([64, 32, 32]) * 4


@pytest.mark.usefixtures("choices_of_zen4")
@pytest.mark.parametrize(("stride", "dilation", "pad"), [(1, 1, 1), (2, 1, 1), (1, 2, 2), (1, 3, 7)])
def test_rows_of_taps_in_the_padding_are_no_operations(stride, dilation, pad):
    """A convolution of 16 channels: of 3 rows of taps, those that meet some of the 7 rows of the input."""
    geometry = gl.layers.Conv2d(16, 3, stride=stride, padding=pad, dilation=dilation, bias=False)
    program = lower(gl.Sequential([gl.layers.Input((16, 7, 7)), geometry]).graph(), Options(numerics="strict"))
    (step,) = [step for step in program.steps if step.label == "0"]
    outputs = (7 + 2 * pad - 2 * dilation - 1) // stride + 1
    rows = sum(0 <= o * stride + k * dilation - pad < 7 for o in range(outputs) for k in range(3))
    columns = rows if dilation > 1 else 3 * outputs  # few columns are told apart only where taps are
    assert operations(step.kernel, lanes=1) == pytest.approx(rows * columns * 16 * 16, rel=1e-9)
