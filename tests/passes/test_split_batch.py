"""A batch in parts: which ops take samples one by one, where networks are split, and that all executors agree."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from batches import residual
from executors import agree, interpreted, native, reference
from machines import TINY
from rewrites import rewrite

import glulam as gl
from glulam.compiler import driver
from glulam.compiler.errors import ShapeError
from glulam.compiler.graph.evaluate import evaluate
from glulam.compiler.graph.graph import Graph
from glulam.compiler.graph.text import constants_of, parse, to_text
from glulam.compiler.graph.types import TensorType
from glulam.compiler.graph.verify import verify
from glulam.compiler.ops import ALL_OPS, OPS_BY_NAME, Add
from glulam.compiler.ops.batch_map import BatchMap, bodies, for_part
from glulam.compiler.options import Options
from glulam.compiler.passes import split_batch
from glulam.compiler.passes.split_batch import SplitBatch
from glulam.compiler.targets import target


@pytest.fixture(autouse=True)
def calls_cost_nothing(monkeypatch):
    """Else only networks that take long in the interpreter would be split."""
    monkeypatch.setattr(split_batch, "_CALL", 0.0)


@pytest.fixture
def tiny(monkeypatch):
    """Caches so small that small networks are worth splitting."""
    monkeypatch.setattr(driver, "target", lambda name="native": replace(target(name), **TINY))


def samples_of(case, times):
    """A graph of the case whose inputs have `times` its samples, and the feeds; None if the op does not take them."""
    graph, feeds, operands = Graph("g"), {}, []
    for i, array in enumerate(case.arrays(seed=times)):
        if array is None:
            operands.append(None)
        elif i in case.constants:
            operands.append(graph.constant(array))
        elif array.ndim == 0:
            return None
        else:
            feeds[f"x{i}"] = np.concatenate([np.roll(array, k) for k in range(times)])
            operands.append(graph.input(f"x{i}", TensorType.of(feeds[f"x{i}"])))
    try:
        graph.add(case.op, *operands)
    except ShapeError:  # the attributes say how many samples there are
        return None
    return graph, feeds


@pytest.mark.parametrize("op", [op for op in ALL_OPS if op.cases()], ids=lambda op: op.name)
@pytest.mark.parametrize("times", [1, 3])
def test_an_op_for_one_sample_gives_that_sample_of_the_whole(op, times):
    with np.errstate(all="ignore"):
        for case in op.cases():
            made = samples_of(case, times)
            if made is None:
                continue
            graph, feeds = made
            (node,) = graph.nodes
            alone = for_part(node, set(graph.inputs.values()), 1)
            if alone is None or not feeds:
                continue
            table = {v: feeds[name] for name, v in graph.inputs.items()}
            whole = op_results(case.op, node, table)
            for i in range(len(next(iter(feeds.values())))):
                part = op_results(alone, node, {v: array[i : i + 1] for v, array in table.items()})
                for one, all_ in zip(part, whole, strict=True):
                    np.testing.assert_allclose(one, all_[i : i + 1], 1e-6, 1e-7, err_msg=str(case))


def op_results(op, node, table):
    return op.reference(*(None if v is None else v.data if v.is_constant else table[v] for v in node.inputs))


@pytest.mark.parametrize("name", ["conv", "max_pool", "add", "softmax", "reduce", "linear", "resize", "slice"])
def test_common_ops_take_samples_one_by_one(name):
    """Otherwise the test above would look at nothing."""
    found = [made for case in OPS_BY_NAME[name].cases() if (made := samples_of(case, 1)) is not None]
    assert any(for_part(graph.nodes[0], set(graph.inputs.values()), 1) is not None for graph, _ in found)


@pytest.mark.parametrize(
    "text",
    [
        "input %x: f32[4,3,5]\n%y = softmax(%x) {axis=0}",
        "input %x: f32[4,3]\n%y = transpose(%x) {perm=(1, 0)}",
        "input %x: f32[4,4]\n%y = reduce(%x) {kind='sum', axes=(0,), keepdims=True}",
        "input %x: f32[4,3]\n%y = concat(%x, %x) {axis=0}",
        "input %x: f32[4,3]\nconst %c: f32[4,3] = random\n%y = add(%x, %c)",
        "input %x: f32[4,6]\n%y = reshape(%x) {shape=(6, 4)}",
        "input %x: f32[4,3,7]\n%y = slice(%x) {starts=(0, 0, 0), steps=(1, 1, 1), sizes=(2, 3, 7)}",
        "input %x: f32[4,3,7]\n%y = pad(%x) {pads=((0, 1), (0, 0), (0, 0)), mode='constant', value=0.0}",
        "input %x: f32[4,4]\n%y = matmul(%x, %x)",
        "input %x: f32[4,3]\n%y = cumulative(%x) {kind='sum', axis=0, exclusive=False, reverse=False}",
    ],
)
def test_ops_that_mix_samples_stay_whole(text):
    machine = replace(target(), l1_bytes=1, l2_bytes=1, l3_bytes=1)
    result = rewrite(text + "\noutput z = %y", SplitBatch(machine))
    assert "batch_map" not in result.ops


def split(graph, **caches):
    machine = replace(target(), **(TINY | caches))
    work = graph.copy()
    report = SplitBatch(machine).run(work)
    verify(work)
    return work, report


@pytest.mark.parametrize("batch", [2, 4, 6, 7])
def test_the_early_layers_are_split_and_mean_the_same(batch):
    graph, feeds = residual(batch)
    work, report = split(graph)
    assert [node.op.name for node in work.nodes].count("batch_map") == 1
    assert report.patches == 1
    assert "at a time" in report.decisions[0].reason
    before, after = evaluate(graph, feeds), evaluate(work, feeds)
    for name, wanted in before.items():
        np.testing.assert_allclose(after[name], wanted, 1e-5, 1e-5)


def test_layers_with_many_weights_stay_whole():
    graph, _ = residual(4, channels=16, side=8)
    work, _ = split(graph, l2_bytes=32 << 10, l3_bytes=64 << 10)
    (body,) = bodies(work)
    assert {node.name for node in body.nodes} & {"a", "b"}
    assert "d" not in {node.name for node in body.nodes}


def test_a_batch_that_fits_stays_whole():
    graph, _ = residual(4)
    work, report = split(graph, l2_bytes=64 << 20, l3_bytes=256 << 20)
    assert not bodies(work)
    assert report.decisions[0].taken is False


@pytest.mark.parametrize("batch", [1, 3])
def test_inputs_of_other_extents_or_single_samples_stay_whole(batch):
    graph = Graph("g")
    x = graph.input("x", TensorType.of(np.zeros((batch, 4, 9, 9), np.float32)))
    y = graph.input("y", TensorType.of(np.zeros((1, 4, 9, 9), np.float32)))
    graph.output("z", graph.apply(Add(), x, y))
    assert not bodies(split(graph)[0])


def test_text_and_copies_keep_the_body():
    graph, feeds = residual(4)
    work, _ = split(graph)
    again = parse(to_text(work), OPS_BY_NAME | {"batch_map": BatchMap}, constants_of(work))
    for name, wanted in evaluate(work, feeds).items():
        np.testing.assert_array_equal(evaluate(again, feeds)[name], wanted)
    twin = work.copy()
    bodies(twin)[0].nodes.clear()
    assert bodies(work)[0].nodes


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("batch", [2, 6, 7])
@pytest.mark.parametrize("fuse", [True, False])
def test_every_executor_agrees(batch, fuse):
    graph, feeds = residual(batch)
    expected = reference(graph, feeds)
    options = Options(fuse=fuse)
    assert driver.lower(graph, options).repeats
    agree(interpreted(graph, feeds, options), expected, 1e-4, "interpreter")
    agree(native(graph, feeds, options), expected, 1e-4, "native")


@pytest.mark.usefixtures("tiny")
def test_the_same_bits_on_two_threads_in_a_profile_and_after_loading(tmp_path):
    graph, feeds = residual(6)
    with driver.compile_graph(graph) as one, driver.compile_graph(graph, Options(threads=2)) as two:
        wanted = one.run(feeds)
        assert one.arena_bytes < driver.lower(graph, Options(disable=("split_batch",))).arena_bytes
        for model in (one, two):
            for _ in range(3):
                profile = model.profile(feeds, repeat=2)
                for name, array in model.run(feeds).items():
                    np.testing.assert_array_equal(array, wanted[name])
            labels = [step.label for step in profile.steps]
            assert len(set(labels)) == len(labels)
            assert profile.flops == sum(step.flops for step in model.manifest.steps)
        one.save(tmp_path / "net.glulam")
    from glulam.runtime.model import load

    with load(tmp_path / "net.glulam") as loaded:
        for name, array in loaded.run(feeds).items():
            np.testing.assert_array_equal(array, wanted[name])


@pytest.mark.usefixtures("tiny")
def test_a_layer_of_the_body_can_be_tuned(tmp_path, monkeypatch):
    monkeypatch.setenv("GLULAM_CACHE_DIR", str(tmp_path))
    graph, feeds = residual(4, channels=32, side=16)
    names = {name for layer in driver.tuned(graph, Options()) for name in layer.nodes}
    assert {"a", "b"} <= names
    agree(native(graph, feeds, Options(tune=True)), reference(graph, feeds), 1e-3, "tuned")


@pytest.mark.usefixtures("tiny")
def test_code_does_not_grow_with_the_number_of_parts():
    sizes = []
    for batch in (4, 28):
        graph, _ = residual(batch)
        sizes.append(len(driver.build_artifact(graph, Options()).object_code))
    assert sizes[1] < 1.1 * sizes[0]


@pytest.mark.usefixtures("tiny")
def test_a_network_of_the_python_api_in_a_batch():
    net = gl.Sequential(
        [
            gl.layers.Input((3, 17, 13), batch=6),
            gl.layers.Conv2d(17, 3, stride=2, padding=1),
            gl.layers.BatchNorm2d(),
            gl.layers.ReLU(),
            gl.layers.Conv2d(17, 3, padding=1, groups=17),
            gl.layers.Conv2d(33, 1),
            gl.layers.MaxPool2d(2),
            gl.layers.Flatten(),
            gl.layers.Linear(5),
            gl.layers.Softmax(),
        ]
    )
    x = np.random.default_rng(1).standard_normal((6, 3, 17, 13), dtype=np.float32)
    model = gl.compile(net)
    feeds = dict.fromkeys(model.inputs, x)
    assert len(model.manifest.steps) > 6
    agree(model.run(feeds), gl.reference(net, feeds), 1e-4, "native")
