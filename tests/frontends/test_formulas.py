"""Layers from formulas: native = reference = the function run by numpy; fused as the built-in; clear refusals."""

from __future__ import annotations

import math

import numpy as np
import pytest

import glulam as gl
from glulam.compiler import driver
from glulam.compiler.errors import ShapeError, TraceError
from glulam.compiler.graph.parser import parse
from glulam.compiler.graph.text import constants_of, to_text
from glulam.compiler.ops import OPS_BY_NAME
from glulam.compiler.ops.fused import FusedRegion

L = gl.layers
M = gl.math


@gl.layer
def swish(x, *, beta=1.0):
    return x * M.sigmoid(beta * x)


@gl.layer
def silu(x):
    return x / (np.exp(-x) + 1)


@gl.layer
def scaled(x, *, scale=gl.Weight("channels", init=2.0), shift=gl.Weight()):
    return x * scale + shift


@gl.layer
def softmax(x, *, axis=1):
    e = np.exp(x - np.max(x, axis=axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


@gl.layer
def standardised(x):
    return (x - x.mean((2, 3), keepdims=True)) / (x.std((2, 3), keepdims=True) + 1e-3)


@gl.layer
def everything(x, y):
    a = np.where((x > 0) & ~(y < x), np.tanh(x), M.erf(y))
    b = M.clip(np.floor(x) + np.ceil(y) - np.rint(x), -1, 1) + np.sign(y) * abs(x)
    c = np.sqrt(np.square(x) + 1) ** 1.5 + np.log1p(np.exp(y)) + 2**y - x % 1.5
    d = (x >= y) * 0.5 + np.maximum(x, 0.25) * np.minimum(y, x**3) + np.sin(x) * np.cos(y)
    return a + b * c - d / (1 + y * y)


@gl.layer
def two_results(x):
    low = x.min(axis=-1)
    return x - low.mean(), np.maximum(x, 0)


@gl.layer
def global_scale(x, y):
    return x / (1 + M.mean(abs(y)))


@gl.layer
def remainders(x, y):
    return (x % y) + 3 % y + x % 0.1, x // y, x // 0.1 - 7 // y, M.where((x > 0) ^ True ^ (True ^ (y > 0)), 1.0, 2.0)


@gl.layer
def shares(x, *, weight=gl.Weight((5,), init=3.0)):
    e = np.exp(weight - weight.max())
    return x * weight / weight.sum() + x * (e / e.sum())


def data(*shape, seed=0):
    return np.random.default_rng(seed).uniform(-2, 2, shape).astype(np.float32)


MULTIPLES = np.float32([0, 1, -1, 2, 7, -7, 0.1, -0.1, 0.3, 5.5, -3, 1e5, np.inf, -np.inf, np.nan, 64])
CASES = [
    (swish(beta=1.5), [data(2, 3, 5, 7)]),
    (scaled(), [data(1, 17, 5)]),
    (scaled(scale=data(3, 1, 1), shift=0.5), [data(2, 3, 4, 4)]),
    (softmax(), [data(3, 33)]),
    (softmax(axis=-1), [data(2, 3, 5)]),
    (standardised(), [data(2, 17, 6, 5)]),
    (everything(), [data(3, 17, 7), data(17, 1, seed=1)]),
    (two_results(), [data(3, 5, 7)]),
    (remainders(), [np.tile(MULTIPLES, (1, 16)), np.repeat(MULTIPLES, 16)[None]]),
    (shares(weight=data(5)), [data(2, 3, 5)]),
    (global_scale(), [data(3, 5), data(2, 2, seed=1)]),
]


@pytest.mark.parametrize(("layer", "arrays"), CASES, ids=lambda value: type(value).__name__)
def test_native_is_reference_is_numpy(layer, arrays):
    inputs = [L.Input(a.shape[1:], name=f"x{i}", batch=a.shape[0]) for i, a in enumerate(arrays)]
    made = layer(*inputs)
    outputs = {f"y{i}": y for i, y in enumerate(made if isinstance(made, tuple) else [made])}
    graph = gl.Graph.of(inputs, outputs)
    feeds = {f"x{i}": a for i, a in enumerate(arrays)}
    by_numpy = layer.evaluate(*arrays)
    by_numpy = by_numpy if isinstance(by_numpy, tuple) else (by_numpy,)
    reference = gl.reference(graph, feeds)
    with gl.compile(graph) as model:
        native = model.run(feeds)
    for (name, wanted), expected in zip(reference.items(), by_numpy, strict=True):
        np.testing.assert_allclose(wanted, expected, rtol=2e-5, atol=2e-5)
        np.testing.assert_allclose(native[name], wanted, rtol=2e-5, atol=2e-5)


def test_float64_stays_float64():
    x = L.Input((3,), name="x", dtype="float64")
    graph = gl.Graph.of([x], {"y": swish()(x)})
    feeds = {"x": np.array([[1e-9, 1.0, 2.0]])}
    np.testing.assert_allclose(gl.reference(graph, feeds)["y"], swish().evaluate(feeds["x"]), rtol=1e-14)


def code_after_conv(layer):
    net = gl.Sequential([L.Input((16, 14, 14)), L.Conv2d(32, 3, padding=1), layer])
    optimised, _ = driver.optimise(net.graph(), gl.Options())
    assert any(isinstance(node.op, FusedRegion) and node.op.anchor is not None for node in optimised.nodes)
    return driver.build_artifact(net.graph()).object_code


def test_formulas_join_the_kernel_in_front():
    net = gl.Sequential([L.Input((3, 9, 9)), L.Conv2d(8, 3), swish(beta=2.0), scaled()])
    with gl.compile(net) as model:
        assert "0 + 1 + 2" in [step.label for step in model.manifest.steps]


def test_a_formula_costs_what_the_built_in_of_the_same_formula_costs():
    """The machine code is the same, byte by byte, so there is nothing to measure."""
    assert code_after_conv(silu()) == code_after_conv(L.SiLU())


def test_weights_are_named_trained_state():
    net = gl.Sequential([L.Input((5, 4)), scaled(), scaled(name="last")])
    assert {key: value.shape for key, value in net.state_dict().items()} == {
        "0.scale": (5, 1), "0.shift": (), "last.scale": (5, 1), "last.shift": (),
    }  # fmt: skip
    net.load_state_dict({**net.state_dict(), "last.shift": np.float32(7)})
    x = data(1, 5, 4)
    np.testing.assert_allclose(gl.reference(net, {"input": x})["output"], 4 * x + 7, rtol=1e-6)


def test_text_artifact_and_onnx_keep_the_meaning(tmp_path):
    net = gl.Sequential([L.Input((3, 8, 8)), L.Conv2d(8, 3), swish(beta=0.5), softmax()])
    graph, x = net.graph(), data(1, 3, 8, 8)
    wanted = gl.reference(graph, {"input": x})["output"]
    again = parse(to_text(graph), OPS_BY_NAME, constants_of(graph))
    np.testing.assert_array_equal(gl.reference(again, {"input": x})["output"], wanted)
    with gl.compile(net) as model:
        model.save(tmp_path / "net.glulam")
        with gl.load(tmp_path / "net.glulam") as loaded:
            np.testing.assert_array_equal(loaded(x), model(x))
    foreign = gl.from_onnx(gl.to_onnx(graph))
    np.testing.assert_allclose(gl.reference(foreign, {"input": x})["output"], wanted, rtol=1e-5, atol=1e-6)


def test_onnx_runtime_agrees():
    ort = pytest.importorskip("onnxruntime")
    x, y = L.Input((17, 7), name="x"), L.Input((17, 1), name="y")
    graph = gl.Graph.of([x, y], {"z": everything()(x, y)})
    feeds = {"x": data(1, 17, 7), "y": data(1, 17, 1, seed=1)}
    session = ort.InferenceSession(gl.to_onnx(graph).SerializeToString(), providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(None, feeds)[0], gl.reference(graph, feeds)["z"], rtol=1e-4, atol=1e-5)


def test_a_layer_is_traced_once():
    calls = []

    @gl.layer
    def counted(x):
        calls.append(1)
        return x + 1

    shared = counted()
    gl.Sequential([L.Input((3, 4)), shared, shared]).graph()
    assert len(calls) == 1


# ---- what cannot be traced


def refused(function, match):
    with pytest.raises(TraceError, match=match) as caught:
        gl.Sequential([L.Input((3, 4)), gl.layer(function)()]).graph()
    return str(caught.value)


def test_python_if_names_place_and_remedy():
    def bad(x):
        if x > 0:
            return x
        return -x

    message = refused(bad, "gl.math.where")
    assert __file__ in message
    assert "`if x > 0:`" in message
    assert "'bad'" in message


@pytest.mark.parametrize(
    ("function", "match"),
    [
        (lambda x: math.exp(x), "gl.math"),
        (lambda x: np.arctan2(x, 1.0), "arctan2"),
        (lambda x: np.cumsum(x), "cumsum"),
        (lambda x: np.add.reduce(x), "add.reduce"),
        (lambda x: 0 < x < 1, "chained"),
        (lambda x: x and 1, "chained"),
        (lambda x: x[0], "slice"),
        (lambda x: sum(v for v in x), "iterated"),
        (lambda x: len(x), "shape"),
        (lambda x: x.T, "attribute 'T'"),
        (lambda x: x + np.arange(4), "gl.Weight"),
        (lambda x: x + "a", "operands"),
        (lambda x: x & 1, "conditions"),
        (lambda x: 1.0, "returned float"),
        (lambda x: None, "returned NoneType"),
        (lambda x: x.astype("float64"), "conversions"),
        (lambda x: x.mean(axis=1.5), "axes are integers"),
        (lambda x: x.mean(keepdims="yes"), "keepdims is 'yes'; it must be True or False"),
    ],
)
def test_refused(function, match):
    refused(function, match)


@pytest.mark.parametrize("count", [129, 5000])
def test_a_formula_may_not_nest_without_end(count):
    def deep(x):
        y = x
        for _ in range(count):
            y = y + x
        return y

    message = refused(deep, "more than 128 operations in a row; split it into several layers")
    assert "`y = y + x`" in message


def test_a_formula_may_nest_to_the_limit():
    @gl.layer
    def chain(x):
        y = x
        for _ in range(128):
            y = y + x
        return y

    with gl.compile(gl.Sequential([L.Input((3,)), chain()])) as model:
        np.testing.assert_array_equal(model(np.ones((1, 3), np.float32)), np.full((1, 3), 129.0, np.float32))


def test_values_of_another_trace_are_refused():
    kept = []

    @gl.layer
    def keeper(x):
        kept.append(x)
        return x * 2

    gl.Sequential([L.Input((3,)), keeper()]).graph()
    refused(lambda x: x + kept[0], "another trace")


def test_wrong_use_of_the_layer():
    x = L.Input((3, 4))
    with pytest.raises(TraceError, match=r"swish\(\)\(x\)"):
        swish(x)
    with pytest.raises(TraceError, match="no setting or weight gamma"):
        swish(gamma=1)
    with pytest.raises(ShapeError, match="takes 1 tensors"):
        swish()(x, x)
    with pytest.raises(ShapeError, match="axis 7"):
        softmax(axis=7)(x)
    with pytest.raises(TraceError, match=r"`\*`"):
        gl.layer(lambda x, beta=1.0: x)
    with pytest.raises(TraceError, match="takes no tensor"):
        gl.layer(lambda: 1)
