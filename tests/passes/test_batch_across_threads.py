"""Samples of a batch for each thread: which layers, whose memory, and the same bits whatever the number of threads."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from batches import residual
from executors import agree, interpreted, native, reference
from machines import TINY
from rewrites import graph_of
from strategies import feeds_for

import glulam as gl
from glulam.compiler import driver
from glulam.compiler.graph.evaluate import evaluate
from glulam.compiler.graph.graph import Graph
from glulam.compiler.graph.types import TensorType
from glulam.compiler.graph.verify import verify
from glulam.compiler.ops import Add, Linear
from glulam.compiler.ops.batch_map import BatchMap, bodies, for_part
from glulam.compiler.options import Options
from glulam.compiler.passes import split_batch
from glulam.compiler.passes.batch_across_threads import BatchAcrossThreads
from glulam.compiler.passes.split_batch import SplitBatch
from glulam.compiler.targets import target


@pytest.fixture
def tiny(monkeypatch):
    """Caches so small, and calls so cheap, that the early layers take a few samples at a time."""
    monkeypatch.setattr(split_batch, "_CALL", 0.0)
    monkeypatch.setattr(driver, "target", lambda name="native": replace(target(name), **TINY))


def across(graph, threads):
    work = graph.copy()
    report = BatchAcrossThreads(target(), threads).run(work)
    verify(work)
    return work, report


@pytest.mark.parametrize(("batch", "threads"), [(2, 2), (6, 2), (6, 3), (8, 8)])
def test_the_samples_are_divided_and_mean_the_same(batch, threads):
    graph, feeds = residual(batch)
    work, report = across(graph, threads)
    (node,) = (node for node in work.nodes if isinstance(node.op, BatchMap))
    assert node.op.parallel
    assert node.op.parts(node) == threads
    assert report.decisions[0].taken
    before, after = evaluate(graph, feeds), evaluate(work, feeds)
    for name, wanted in before.items():
        np.testing.assert_allclose(after[name], wanted, 1e-5, 1e-5)


@pytest.mark.parametrize(("batch", "threads"), [(1, 2), (5, 2), (2, 4), (4, 1)])
def test_batches_that_threads_cannot_divide_are_shared_layer_by_layer(batch, threads):
    work, report = across(residual(batch)[0], threads)
    assert not bodies(work)
    assert not any(decision.taken for decision in report.decisions)


def test_layers_that_wait_for_their_weights_are_shared():
    rng = np.random.default_rng(0)
    graph = Graph("g")
    x = graph.input("x", TensorType.of(np.zeros((4, 2048), np.float32)))
    for i in range(2):
        x = graph.apply(Linear(), x, graph.constant(rng.standard_normal((2048, 2048), np.float32)), None, name=f"fc{i}")
    graph.output("y", x)
    work, report = across(graph, 2)
    assert not bodies(work)
    assert "weights" in report.decisions[0].reason


def test_inputs_of_other_extents_are_shared():
    graph = Graph("g")
    x = graph.input("x", TensorType.of(np.zeros((4, 9), np.float32)))
    y = graph.input("y", TensorType.of(np.zeros((1, 9), np.float32)))
    graph.output("z", graph.apply(Add(), x, y))
    assert not bodies(across(graph, 2)[0])


@pytest.mark.parametrize("size", [1, 2, 4])
def test_a_batch_map_takes_fewer_samples(size):
    """Whether its own parts hold more of them or fewer."""
    graph, feeds = residual(4)
    SplitBatch(replace(target(), **TINY)).run(graph)
    (node,) = (node for node in graph.nodes if isinstance(node.op, BatchMap))
    op = for_part(node, set(graph.inputs.values()), size)
    assert op is not None
    whole = node.op.reference(feeds["x"])
    part = op.reference(feeds["x"][:size])
    for ours, theirs in zip(part, whole, strict=True):
        np.testing.assert_allclose(ours, theirs[:size], 1e-5, 1e-5)


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize(("batch", "threads"), [(6, 2), (4, 4), (6, 3)])
@pytest.mark.parametrize("fuse", [True, False])
def test_every_executor_agrees(batch, threads, fuse):
    graph, feeds = residual(batch)
    expected = reference(graph, feeds)
    options = Options(fuse=fuse, threads=threads)
    program = driver.lower(graph, options)
    assert any(step.parts == threads for step in program.steps)
    assert bool(program.repeats) is (batch > threads)
    agree(interpreted(graph, feeds, options), expected, 1e-4, "interpreter")
    agree(native(graph, feeds, options), expected, 1e-4, "native")


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize(("batch", "threads", "rounds"), [(8, 2, 2), (8, 4, 1), (8, 8, 1), (6, 2, 3), (10, 2, 5)])
def test_samples_that_go_two_at_a_time_within_a_thread(batch, threads, rounds, monkeypatch):
    """One at a time where a thread has an odd number of them."""
    monkeypatch.setattr(split_batch, "_sizes", lambda batch: [2])
    graph, feeds = residual(batch)
    options = Options(threads=threads)
    program = driver.lower(graph, options)
    assert [repeat.rounds for repeat in program.repeats] == [rounds] * (rounds > 1)
    assert {step.parts for step in program.steps} <= {1, threads}
    agree(interpreted(graph, feeds, options), reference(graph, feeds), 1e-4, "interpreter")
    with driver.compile_graph(graph) as one, driver.compile_graph(graph, options) as many:
        wanted = one.run(feeds)
        for name, array in many.run(feeds).items():
            np.testing.assert_array_equal(array, wanted[name])


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("numerics", ["fast", "strict"])
def test_the_same_bits_for_any_number_of_threads(numerics, tmp_path):
    graph, feeds = residual(6, channels=17, side=13)
    with driver.compile_graph(graph, Options(numerics=numerics)) as one:
        wanted = one.run(feeds)
        flops = sum(step.flops for step in one.manifest.steps)
    for threads in (2, 3, 6):
        file = tmp_path / f"{threads}.glulam"
        with driver.compile_graph(graph, Options(numerics=numerics, threads=threads)) as many:
            many.save(file)
            profile = many.profile(feeds, repeat=2)
            assert profile.flops >= 0.9 * flops
            assert len({step.label for step in profile.steps}) == len(profile.steps)
        for loaded in (1, 2, threads):
            with gl.load(file, threads=loaded) as model:
                for _ in range(3):
                    for name, array in model.run(feeds).items():
                        np.testing.assert_array_equal(array, wanted[name])


@pytest.mark.parametrize("pointwise", [False, True])
def test_what_adds_up_in_the_layout_that_it_finds_is_not_left_behind(pointwise):
    """It would find channel blocks without a batch map, and plain tensors behind one."""
    graph = graph_of(f"""input %x: f32[8,16,20,16]
const %w: f32[64,16,1,1] = random
%c = conv(%x, %w, none) {{strides=(1, 1), pads=((0, 0), (0, 0)), dilations=(1, 1), groups=1}}
%s = slice(%c) {{starts=(1, 0, 0, 0), steps=(1, 1, 1, 1), sizes=(7, 64, 20, 16)}}
%p = relu({"%s" if pointwise else "%c"})
%m = reduce({"%p" if pointwise else "%s"}) {{kind='mean', axes=(2, 3), keepdims=True}}
output m = %m
output p = %p""")
    feeds = feeds_for(graph)
    one, many = (native(graph, feeds, Options(threads=threads)) for threads in (1, 2))
    for name, array in many.items():
        np.testing.assert_array_equal(array, one[name])


def test_factors_go_into_weights_whether_or_not_threads_share_the_reader_of_the_product():
    """A layer with many weights ends the batch map between a product and the convolution that reads it."""
    graph = graph_of("""input %i: f32[2,48,20,20]
const %w: f32[6,48,1,1] = random
const %d: f32[2048,48] = random
const %e: f32[2048,2048] = random
%x = silu(%i)
%m = reduce(%x) {kind='mean', axes=(2, 3), keepdims=True}
%s = sigmoid(%m)
%p = mul(%x, %s)
%f = reshape(%m) {shape=(2, 48)}
%g = linear(%f, %d, none)
%h = linear(%g, %e, none)
%y = conv(%p, %w, none) {strides=(1, 1), pads=((0, 0), (0, 0)), dilations=(1, 1), groups=1}
output y = %y
output h = %h""")
    feeds = feeds_for(graph)
    work = driver.optimise(graph, Options(threads=2))[0]
    assert bodies(work)
    assert "dynamic_conv" in [node.op.name for node in work.nodes]
    one, many = (native(graph, feeds, Options(threads=threads)) for threads in (1, 2))
    for name, array in many.items():
        np.testing.assert_array_equal(array, one[name])
