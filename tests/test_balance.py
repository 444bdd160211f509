"""The simulation of shared steps: every chunk is done once, and what it says agrees with sums done by hand."""

import numpy as np
import pytest

import glulam as gl
from glulam.benchmarks.balance import assign, balance, chunk_work, iteration_work, share
from glulam.benchmarks.cases import open_case
from glulam.compiler.driver import lower
from glulam.compiler.loops.builder import Builder
from glulam.compiler.loops.ir import Access
from glulam.compiler.loops.program import Program, Ref, Step
from glulam.compiler.options import Options


@pytest.mark.parametrize("threads", [1, 2, 3, 8, 16, 64])
@pytest.mark.parametrize("chunks", [0, 1, 7, 64, 257])
def test_all_work_is_done_once(chunks, threads):
    work = [float(1 + i % 5) for i in range(chunks)]
    loads = assign(work, threads)
    assert len(loads) == threads
    assert sum(loads) == sum(work)
    assert max(loads) >= sum(work) / threads


def test_known_divisions():
    assert assign([1.0] * 8, 4) == [2.0] * 4
    assert max(assign([1.0] * 9, 4)) == 3.0
    assert assign([1.0] * 16, 2, claim=4) == [8.0, 8.0]
    assert assign([1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0], 2, claim=2) == [2.0, 2.0], "half of what is left, then less"
    assert max(assign([5.0, 1.0, 1.0, 1.0, 1.0, 1.0], 2)) == 5.0, "who is free takes what is left of the others' share"


def test_a_model():
    layers = gl.layers
    net = gl.Sequential(
        [layers.Input((16, 32, 32)), layers.Conv2d(32, 3, padding=1), layers.ReLU(), layers.Conv2d(16, 1)]
    )
    program = lower(net.graph())
    for step in program.steps:
        assert len(iteration_work(step.kernel)) == step.kernel.extent
        assert sum(chunk_work(step)) == pytest.approx(iteration_work(step.kernel).sum())
    assert share(balance(program, 1)) == pytest.approx(1.0)
    shares = [share(balance(program, threads)) for threads in (1, 2, 8, 64)]
    assert shares == sorted(shares, reverse=True)
    weighed = balance(program, 2, [1.0] * len(program.steps))
    assert [step.work for step in weighed] == pytest.approx([1.0] * len(program.steps))


def test_who_waits_for_what():
    b = Builder("copy")
    x, y = b.param("x", (1,)), b.param("y", (1,), Access.WRITE)
    with b.section(i=1) as (i,):
        b.store(y[i], x[i])
    stem, left, right, join = (
        Step(b.kernel(), (Ref("arena", 0, source), Ref("arena", 0, target)), 1, "", 0, 4)
        for source, target in ((0, 4), (4, 8), (4, 12), (12, 16))
    )
    program = Program((stem, left, right, join), np.zeros(0, np.uint8), 20, {}, {})
    found = balance(program, 2, [1.0, 3.0, 1.0, 1.0])
    assert [step.lost for step in found] == [1.0, 1.0, 0.0, 0.0], "the stem, then the end, for the left branch"
    assert share(found) == 6 / 8
    assert share(balance(program, 1, [1.0, 3.0, 1.0, 1.0])) == 1.0


@pytest.mark.parametrize(("name", "threads"), [("mobilenet_v2", 4), ("mobilenet_v2", 64), ("resnet50", 64)])
def test_networks_keep_four_fifths_of_the_work_balanced(name, threads):
    program = lower(open_case(name).graph, Options(threads=threads))
    assert share(balance(program, threads)) >= 0.8
