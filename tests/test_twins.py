"""Nodes that differ in the values of constants only: lowered once, with the program of lowering each by itself."""

from __future__ import annotations

import numpy as np
import pytest
from executors import TARGETS, agree, native, reference

from glulam.compiler import lowering
from glulam.compiler.driver import lower
from glulam.compiler.graph.graph import Graph
from glulam.compiler.graph.types import TensorType, f32
from glulam.compiler.kernels.operand import Operand
from glulam.compiler.loops.printer import show_kernel
from glulam.compiler.ops import ALL_OPS, Add, Conv, Linear, Relu
from glulam.compiler.ops.strassen import StrassenConv
from glulam.compiler.ops.winograd import WinogradConv
from glulam.compiler.options import Options
from glulam.compiler.twins import twin_key

ONES = (1, 1)


def conv(graph, x, w, b=None):
    pads = tuple((k // 2, k // 2) for k in w.shape[2:])
    inputs = [x, graph.constant(w, "w"), *([graph.constant(b, "b")] if b is not None else [])]
    return graph.apply(Conv(ONES, pads, ONES), *inputs, name="conv")


def random(rng, *shape):
    return rng.uniform(-1, 1, shape).astype(np.float32)


def with_constants(op):
    return [case for case in op.cases() if case.constants]


def both_programs(graph, options, monkeypatch):
    """With twins and without."""
    shared = lower(graph, options)
    monkeypatch.setattr(lowering, "twin_key", lambda *_: None)
    alone = lower(graph, options)
    monkeypatch.undo()
    return shared, alone


def same(shared, alone):
    assert [show_kernel(s.kernel) for s in shared.steps] == [show_kernel(s.kernel) for s in alone.steps]
    assert [(s.refs, s.grain, s.claim, s.label) for s in shared.steps] == [
        (s.refs, s.grain, s.claim, s.label) for s in alone.steps
    ]
    np.testing.assert_array_equal(shared.weights, alone.weights)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("op", [op for op in ALL_OPS if with_constants(op)], ids=lambda op: op.name)
def test_every_case_twice_with_other_constants(op, target, monkeypatch):
    graph = Graph(op.name)
    for i, case in enumerate(with_constants(op)):
        for again in (0, 1):
            inputs = []
            for j, array in enumerate(case.arrays(seed=2 * i + again)):
                name = f"c{i}_{again}_{j}"
                if array is None:
                    inputs.append(None)
                elif j in case.constants:
                    inputs.append(graph.constant(array, name))
                else:
                    inputs.append(graph.input(name, TensorType.of(array)))
            for k, value in enumerate(graph.add(case.op, *inputs, name=f"c{i}_{again}")):
                graph.output(f"c{i}_{again}_y{k}", value)
    for threads in (1, 2):
        same(*both_programs(graph, Options(target=target, threads=threads), monkeypatch))


@pytest.mark.parametrize("channels", [3, 17, 32, 64])
@pytest.mark.parametrize("taps", [1, 3])
@pytest.mark.parametrize("bias", [True, False])
def test_a_chain_of_equal_convolutions(channels, taps, bias, monkeypatch):
    """Narrow ones, direct ones and Winograd's, with an epilogue that reads another tensor."""
    rng = np.random.default_rng(channels)
    graph = Graph("chain")
    x = graph.input("x", f32(1, channels, 14, 13))
    y = x
    for _ in range(4):
        w, b = random(rng, channels, channels, taps, taps), random(rng, channels) if bias else None
        y = graph.apply(Relu(), graph.apply(Add(), conv(graph, y, w, b), y))
    graph.output("y", y)
    shared, alone = both_programs(graph, Options(), monkeypatch)
    same(shared, alone)
    feeds = {"x": random(rng, 1, channels, 14, 13)}
    agree(native(graph, feeds, Options()), reference(graph, feeds), 1e-4, "native")


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("channels", [32, 64])
@pytest.mark.parametrize("algorithm", ["strassen_products", "winograd_products"])
def test_a_chain_of_convolutions_in_stages(algorithm, channels, bias, monkeypatch):
    rng = np.random.default_rng(channels)
    strassen = algorithm == "strassen_products"
    taps, pads = (1, ((0, 0), (0, 0))) if strassen else (3, ((1, 1), (1, 1)))
    op = StrassenConv(ONES, pads, ONES) if strassen else WinogradConv(ONES, pads, ONES, staged=True)
    graph = Graph("stages")
    y = graph.input("x", f32(1, channels, 14, 14))
    for _ in range(3):
        parameters = [random(rng, channels, channels, taps, taps), *([random(rng, channels)] if bias else [])]
        y = graph.apply(Relu(), graph.apply(op, y, *map(graph.constant, parameters)))
    graph.output("y", y)
    shared, alone = both_programs(graph, Options(), monkeypatch)
    same(shared, alone)
    products = [step.kernel.name for step in shared.steps if algorithm in step.kernel.name]
    assert len(products) == 3
    assert len(set(products)) < 3
    assert len(lowered_afresh(graph, monkeypatch)) < len(shared.steps)


def lowered_afresh(graph, monkeypatch):
    """The nodes that kernels were built for."""
    fresh = []
    shared = lowering._shared
    monkeypatch.setattr(
        lowering, "_shared", lambda kernel, node, known: (fresh.append(node), shared(kernel, node, known))[1]
    )
    lower(graph)
    monkeypatch.undo()
    return fresh


def test_equal_layers_are_lowered_once(monkeypatch):
    rng = np.random.default_rng(0)
    graph = Graph("linear")
    y = graph.input("x", f32(6, 32))
    for _ in range(5):
        w, b = graph.constant(random(rng, 32, 32)), graph.constant(random(rng, 32))
        y = graph.apply(Relu(), graph.apply(Linear(), y, w, b))
    graph.output("y", y)
    assert len(lowered_afresh(graph, monkeypatch)) == 1


def test_constants_of_one_element_belong_to_the_kernel(monkeypatch):
    """They are written into the code."""
    graph = Graph("scalars")
    x = graph.input("x", f32(2, 5))
    graph.output("a", graph.apply(Add(), x, graph.constant(np.float32(1))))
    graph.output("b", graph.apply(Add(), x, graph.constant(np.float32(2))))
    graph.output("c", graph.apply(Add(), x, graph.constant(np.float32([1, 2, 3, 4, 5]))))
    graph.output("d", graph.apply(Add(), x, graph.constant(np.float32([5, 4, 3, 2, 1]))))
    assert len(lowered_afresh(graph, monkeypatch)) == 3
    feeds = {"x": np.ones((2, 5), np.float32)}
    agree(native(graph, feeds, Options()), reference(graph, feeds), 0, "native")


def test_two_inputs_in_one_array_are_not_told_apart_by_their_place(monkeypatch):
    """The first node adds one array twice, the second one two different ones."""
    one, other = np.float32([1, 2, 3]), np.float32([10, 20, 30])
    graph = Graph("twice")
    x = graph.input("x", f32(3))
    same_array = graph.constant(one, "one"), graph.constant(one, "one again")
    for name, (a, b) in {"first": same_array, "second": (graph.constant(one), graph.constant(other))}.items():
        graph.output(name, graph.apply(Add(), graph.apply(Add(), x, a), b))
    feeds = {"x": np.zeros(3, np.float32)}
    options = Options(disable=("common_subexpressions", "fold_normalisation"))
    agree(native(graph, feeds, options), reference(graph, feeds), 0, "native")


def test_an_op_that_looks_at_values_has_no_key_unless_all_is_computed():
    op = next(op for op in ALL_OPS if op.name == "gather")
    case = op.cases()[0]
    types = [TensorType.of(a) for a in case.arrays()]
    outputs = [Operand(t) for t in case.op.infer(*types)]
    constant = [Operand(t, data=a) for t, a in zip(types, case.arrays(), strict=True)]
    assert twin_key(case.op, constant, outputs) is None
    assert twin_key(case.op, [Operand(t) for t in types], outputs) is not None
