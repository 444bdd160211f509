"""The simulation of cache lines that move between threads agrees with counts done by hand."""

from itertools import pairwise

import numpy as np
import pytest

import glulam as gl
from glulam.benchmarks.sharing import footprint, shares, simulate
from glulam.compiler.driver import lower
from glulam.compiler.loops.builder import Builder
from glulam.compiler.loops.ir import Access
from glulam.compiler.options import Options

layers = gl.layers


def copying(rows, columns):
    """y[r, c] = x[c, r], a row an iteration."""
    b = Builder("turn")
    x, y = b.param("x", (columns, rows)), b.param("y", (rows, columns), Access.WRITE)
    with b.section(r=rows) as (r,), b.serial("c", columns) as c:
        b.store(y[r, c], x[c, r])
    return b.kernel()


def test_footprint_of_a_transpose():
    kernel = copying(32, 48)  # rows of x are two lines, those of y three
    half = footprint(kernel, 0, 16)
    np.testing.assert_array_equal(half["y", True], np.arange(16 * 3))
    np.testing.assert_array_equal(half["x", False], np.arange(48) * 2)
    whole = footprint(kernel, 0, 32)
    np.testing.assert_array_equal(whole["x", False], np.arange(48 * 2))
    assert footprint(kernel, 5, 5) == {}


def chain(*more):
    return lower(gl.Sequential([layers.Input((32, 28, 28)), *more]).graph(), Options(threads=2, numerics="strict"))


def test_one_thread_moves_nothing():
    assert all(step.moved == 0 for step in simulate(chain(layers.Conv2d(64, 1), layers.Conv2d(32, 3)), 1))


def test_every_iteration_is_in_one_share():
    for step in chain(layers.Conv2d(70, 1), layers.Conv2d(32, 3, padding=1)).steps:
        found = list(shares(step, 3))
        assert (found[0][2], found[-1][3]) == (0, step.kernel.extent)
        assert all(end == begin for (*_, end), (_, _, begin, _) in pairwise(found))


def test_samples_of_a_batch_move_between_no_threads():
    net = [
        layers.Conv2d(64, 3, padding=1),
        layers.ReLU(),
        layers.Conv2d(70, 1),
        layers.MaxPool2d(2),
        layers.Conv2d(32, 3),
    ]
    together = gl.Sequential([layers.Input((32, 28, 28), batch=6), *net]).graph()
    steps = simulate(lower(together, Options(threads=2)), 2)
    assert sum(step.met for step in steps) > 0
    assert sum(step.moved for step in steps) == 0
    shared = simulate(lower(together, Options(threads=2, disable=("batch_across_threads",))), 2)
    assert sum(step.moved for step in shared) > 0


@pytest.mark.parametrize(
    "block",
    [
        [layers.Conv2d(96, 1), layers.Conv2d(96, 3, padding=1, groups=96), layers.Conv2d(32, 1)],
        [layers.Conv2d(112, 1), layers.Conv2d(32, 1)],
        [layers.Conv2d(48, 3, padding=1), layers.SiLU(), layers.Conv2d(64, 1)],
        [layers.ConvTranspose2d(40, 2, stride=2), layers.Conv2d(32, 1)],
        [layers.Conv2d(48, 1), layers.Conv2d(48, 3, padding=1, groups=4), layers.Conv2d(32, 1)],
    ],
    ids=["depthwise", "groups of several sizes", "halo", "phases", "classes of groups"],
)
def test_two_threads_find_what_they_wrote(block):
    """Only rows beside the middle of the image come from the other thread."""
    steps = simulate(chain(layers.Conv2d(32, 1), *block), 2)[2:-1]  # between the caller's plain tensors
    assert sum(step.read for step in steps) < 0.05 * sum(step.met for step in steps)


@pytest.mark.parametrize("height", [60, 75])
def test_two_threads_find_the_rows_they_wrote_in_any_section(height):
    """Kernels that go over an image several times: for each operand, and for blocks of tiles side by side."""
    x = layers.Input((20, height, 96))
    left, right = layers.Conv2d(20, 1)(x), layers.Conv2d(44, 3, padding=1)(x)
    joined = layers.Conv2d(24, 3, padding=1)(layers.Concat()(left, right))
    plain = layers.Concat()(joined[:, :3, :-1:2, ::2], joined[:, 3:6, 1::2, ::2])
    program = lower(gl.Graph.of([x], {"y": layers.Conv2d(64, 1)(plain)}), Options(threads=2))
    steps = simulate(program, 2)
    assert any("winograd" in step.kernel.name for step in program.steps)
    assert sum(step.read for step in steps) < 0.07 * sum(step.met for step in steps)


def test_an_odd_number_of_rows_is_shared_by_rows_too():
    wide = layers.Conv2d(480, 3, padding=1, groups=480)
    net = gl.Sequential([layers.Input((32, 15, 20)), layers.Conv2d(480, 1), wide, layers.Conv2d(32, 1)])
    steps = simulate(lower(net.graph(), Options(threads=2)), 2)[1:-1]
    assert sum(step.read for step in steps) < 0.12 * sum(step.met for step in steps)


@pytest.mark.usefixtures("choices_of_zen4")
@pytest.mark.parametrize(
    ("tokens", "numerics"), [((197,), "fast"), ((197,), "strict"), ((196,), "fast"), ((14, 28), "strict")], ids=str
)
def test_two_threads_find_the_tokens_they_wrote(tokens, numerics):
    """Only tiles and pairs of tokens across the middle come from the other thread."""
    mlp = [layers.LayerNorm(256), layers.Linear(512), layers.GELU(), layers.Linear(256)]
    net = gl.Sequential([layers.Input((*tokens, 256)), layers.Linear(256), *mlp, *mlp])
    program = lower(net.graph(), Options(threads=2, numerics=numerics))
    assert any("strassen" in step.kernel.name for step in program.steps) is (numerics == "fast")
    steps = simulate(program, 2)
    assert sum(step.read for step in steps) < 0.07 * sum(step.met for step in steps)


def test_memory_stays_with_the_thread_that_wrote_it():
    """A long chain of images of different sizes in the same memory."""

    def block(stride):
        wide = layers.Conv2d(96, 3, stride=stride, padding=1, groups=96)
        return [layers.Conv2d(96, 1), wide, layers.Conv2d(32 * stride, 1)]

    steps = simulate(chain(layers.Conv2d(48, 1), *block(1), *block(2), *block(1), layers.Conv2d(128, 1)), 2)[2:-1]
    assert sum(step.written for step in steps) < 0.08 * sum(step.met for step in steps)


def test_a_reduction_finds_whole_channels():
    program = chain(layers.Conv2d(64, 1), layers.Conv2d(64, 3, padding=1, groups=64), layers.AdaptiveAvgPool2d(1))
    pooled = simulate(program, 2)[-1]
    assert pooled.met
    assert pooled.read < 0.12 * pooled.met
