"""Kernels cut for many threads: more parts, the same bits, and the work of the busiest thread counted right."""

from __future__ import annotations

import math

import numpy as np
import pytest

import glulam as gl
from glulam.benchmarks.balance import balance, iteration_work, share
from glulam.benchmarks.corner_cases import First
from glulam.compiler.driver import lower
from glulam.compiler.graph.graph import Graph
from glulam.compiler.graph.types import f32
from glulam.compiler.kernels.ranges import Parts, Run, runs
from glulam.compiler.loops.ir import Partner
from glulam.compiler.ops.strassen import StrassenLinear
from glulam.compiler.ops.winograd import WinogradConv
from glulam.compiler.options import Options

layers = gl.layers


def network():
    """Every kernel that looks at the threads: pooled, Winograd's, 1x1, depthwise, strided, a single row."""
    return gl.Sequential(
        [
            layers.Input((3, 61, 57)),
            layers.Conv2d(48, 7, stride=2, padding=3),
            layers.ReLU(),
            layers.MaxPool2d(3, 2, padding=1),
            layers.Conv2d(64, 3, padding=1),
            layers.Conv2d(65, 1),
            layers.Conv2d(65, 3, padding=1, groups=65),
            layers.Conv2d(256, 1),
            layers.Conv2d(70, 3, stride=2),
            layers.Conv2d(512, 1),
            layers.Flatten(),
            layers.Linear(333),
        ]
    )


@pytest.mark.parametrize("target", ["native", "x86-64-v3"])
def test_the_bits_do_not_depend_on_the_threads_that_a_model_is_cut_for(target):
    net = network()
    x = np.random.default_rng(1).standard_normal((1, 3, 61, 57), np.float32)
    expected = gl.compile(net, target=target)(x)
    for threads in (2, 5, 16, 64):
        with gl.compile(net, target=target, threads=threads) as model:
            np.testing.assert_array_equal(model(x).view(np.int32), expected.view(np.int32))


@pytest.mark.parametrize("tokens", [2, 9, 18, 61, 64])
@pytest.mark.parametrize(("depth", "outputs"), [(16, 5), (48, 37), (17, 96), (8, 260), (64, 800)])
def test_linear_layers_give_the_same_bits_however_threads_share_the_tokens(tokens, depth, outputs):
    """Columns in groups of several sizes and lanes that are left over, all tiles in an iteration or each by itself."""
    net = gl.Sequential([layers.Input((tokens, depth)), layers.Linear(outputs), layers.GELU(), layers.Linear(depth)])
    x = np.random.default_rng(1).standard_normal((1, tokens, depth), np.float32)
    expected = gl.compile(net)(x)
    np.testing.assert_allclose(expected, next(iter(gl.reference(net, {"input": x}).values())), rtol=1e-3, atol=1e-4)
    for threads in (2, 3):
        with gl.compile(net, threads=threads) as model:
            np.testing.assert_array_equal(model(x).view(np.int32), expected.view(np.int32))


@pytest.mark.parametrize("cell", [layers.LSTM, layers.GRU, layers.RNN])
@pytest.mark.parametrize("hidden", [5, 16, 33, 70])
@pytest.mark.parametrize("batch", [1, 3, 8])
def test_recurrences_give_the_same_bits_however_threads_share_the_batch(cell, hidden, batch):
    net = gl.Sequential(
        [layers.Input((6, 7), batch=batch), cell(hidden, batch_first=True, bidirectional=True), First()]
    )
    x = np.random.default_rng(1).standard_normal((batch, 6, 7), np.float32)
    expected = gl.compile(net)(x)
    for threads in (2, 3, 8):
        with gl.compile(net, threads=threads) as model:
            np.testing.assert_array_equal(model(x).view(np.int32), expected.view(np.int32))


def test_a_model_cut_for_many_threads_divides_better():
    graph = network().graph()
    single = balance(lower(graph), 1)
    whole, cut = lower(graph), lower(graph, Options(threads=64))
    assert share(balance(cut, 64), single) > 1.2 * share(balance(whole, 64), single)
    extents = [(a.kernel.extent, b.kernel.extent) for a, b in zip(whole.steps, cut.steps, strict=True)]
    assert sum(b > a for a, b in extents) >= 4


def test_two_threads_share_a_small_convolution_that_one_does_at_once():
    net = gl.Sequential([layers.Input((128, 14, 14)), layers.Conv2d(32, 3, padding=1)])

    def parts(threads):
        steps = lower(net.graph(), Options(threads=threads)).steps
        (extent,) = [step.kernel.extent for step in steps if "winograd" in step.kernel.name]
        return extent

    assert parts(1) == 1
    assert parts(2) % 2 == 0


@pytest.mark.parametrize(("channels", "outs"), [(144, 288), (112, 224), (160, 320), (64, 96)])
def test_two_threads_share_winograds_channels_evenly_whatever_their_groups(channels, outs):
    """Groups of register tiles do not divide 18 or 14 blocks of channels as the threads do."""
    net = gl.Sequential([layers.Input((channels, 14, 14)), layers.Conv2d(outs, 3, padding=1)])
    (step,) = [s for s in balance(lower(net.graph(), Options(threads=2)), 2) if s.label == "0"]
    assert step.share >= 0.93


TILED = [
    (WinogradConv((1, 1), ((1, 1), (1, 1)), (1, 1), 1, staged=True), (1, 128, 28, 28), (128, 128, 3, 3), ".products"),
    (StrassenLinear(), (1, 197, 768), (768, 768), ""),
]


@pytest.mark.parametrize(("op", "inputs", "weights", "part"), TILED, ids=str)
def test_halves_of_products_are_as_long_though_register_tiles_do_not_divide_them(op, inputs, weights, part):
    graph = Graph()
    w = graph.constant(np.ones(weights, np.float32))
    graph.output("y", graph.apply(op, graph.input("x", f32(*inputs)), w, None, name="layer"))
    program = lower(graph, Options(target="x86-64-v4", threads=2, disable=("own_tiles",)))
    (step,) = [step for step in program.steps if step.label == f"layer{part}"]
    work = iteration_work(step.kernel)
    assert 0.48 < work[: len(work) // 2].sum() / work.sum() < 0.52


@pytest.mark.parametrize(
    ("channels", "kernel", "width", "halves"), [(64, 1, 28, 2), (64, 3, 28, 2), (2048, 1, 10, 1), (384, 3, 14, 1)]
)
@pytest.mark.parametrize("numerics", ["strict", "fast"])
def test_two_threads_take_half_an_image_each_unless_weights_are_many(channels, kernel, width, halves, numerics):
    convolution = layers.Conv2d(channels, kernel, stride=kernel)
    net = gl.Sequential([layers.Input((channels, 18, width)), convolution])

    def halves_of(threads):
        steps = lower(net.graph(), Options(threads=threads, numerics=numerics)).steps
        (section, *_) = max(steps, key=lambda step: step.flops).kernel.sections
        return [var.extent for var in section.vars if var.name.startswith("h")]

    assert math.prod(halves_of(1)) == 1
    assert math.prod(halves_of(2)) == halves
    assert math.prod(halves_of(8)) == 1 or halves == 1, "many threads share channels, or parts of long sums"


def test_runs_of_rows_know_their_partner():
    assert runs(14, 7, together=False) == [Run(0, 2, 7, Partner.BOTH)]
    assert runs(7, 4, together=True) == [Run(0, 1, 4, Partner.FIRST), Run(4, 1, 3, Partner.SECOND)]
    assert runs(7, 7, together=False) == runs(7, 7, together=True) == [Run(0, 1, 7)]
    assert runs(9, 2, together=True) == [Run(0, 4, 2), Run(8, 1, 1)]
    assert runs(5, 2, together=False) == [Run(0, 1, 2), Run(2, 1, 2), Run(4, 1, 1)]


def test_only_two_threads_are_partners():
    net = gl.Sequential([layers.Input((20, 60, 160)), layers.Conv2d(24, 3, padding=1)])
    for threads in (1, 2, 8):
        sections = [s for step in lower(net.graph(), Options(threads=threads)).steps for s in step.kernel.sections]
        assert any(section.partner is not None for section in sections) is (threads == 2)


@pytest.mark.parametrize("parts", [Parts(11), Parts(10, 1, 0.5), Parts(0, 3, 0.25), Parts(6, 6, 0.9)])
def test_one_thread_is_never_busier_than_its_share(parts):
    assert parts.busiest(1) == pytest.approx(1.0)
    assert parts.busiest(2) <= parts.busiest(64)


def test_the_busiest_thread_by_hand():
    assert Parts(11).busiest(2) == pytest.approx(12 / 11)
    assert Parts(3, 1, 0.5).busiest(2) == pytest.approx(4 / 3.5), "the smaller part fills the gap"
    assert Parts(4, 1, 0.5).busiest(2) == pytest.approx(5 / 4.5), "there is no gap"
    assert Parts.of(2, 49, 20) == Parts(4, 2, 9 / 20)
    assert Parts(0).busiest(7) == 1.0
