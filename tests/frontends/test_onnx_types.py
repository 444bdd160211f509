"""Element types in ONNX: halves and bfloat16 are storage, computed in float32; integers where graphs use any."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import pytest
from executors import native
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx_support import model, run_ort, single, value_info

from glulam.compiler.graph.evaluate import evaluate
from glulam.compiler.graph.graph import Graph
from glulam.compiler.graph.types import DType, f32
from glulam.compiler.ops import Cast, Greater, MatMul, RoundBfloat16, Where
from glulam.frontends.onnx import backend, from_onnx


def network(dtype):
    """Convolution, norm, activation, residual, pool and a linear layer, with everything in `dtype`."""
    rng = np.random.default_rng(0)
    shapes = {"w": (8, 3, 3, 3), "s": (8,), "b": (8,), "m": (8,), "v": (8,), "w2": (8, 8, 1, 1), "f": (8, 5), "g": (5,)}
    weights = {k: rng.uniform(0.1, 0.5, shape).astype(dtype) for k, shape in shapes.items()}
    x = rng.uniform(-1, 1, (1, 3, 8, 8)).astype(dtype)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["c", "s", "b", "m", "v"], ["n"]),
        helper.make_node("HardSwish", ["n"], ["r"]),
        helper.make_node("Conv", ["r", "w2"], ["d"]),
        helper.make_node("Add", ["d", "r"], ["e"]),
        helper.make_node("GlobalAveragePool", ["e"], ["p"]),
        helper.make_node("Flatten", ["p"], ["q"]),
        helper.make_node("Gemm", ["q", "f", "g"], ["y"]),
    ]
    return nodes, weights, x


def test_halves_are_computed_in_float32_from_end_to_end():
    nodes, weights, x = network(np.float16)
    graph = from_onnx(model(nodes, [value_info("x", x)], constants=weights))
    got = native(graph, {"x": x})["y"]
    assert got.dtype == np.float16
    wide = {k: w.astype(np.float32) for k, w in weights.items()}
    exact = model(nodes, [value_info("x", x.astype(np.float32))], constants=wide)
    wanted = run_ort(exact, {"x": x.astype(np.float32)})["y"]
    np.testing.assert_array_equal(evaluate(graph, {"x": x})["y"], wanted.astype(np.float16))
    np.testing.assert_allclose(got, wanted, rtol=2e-3)
    depends = {node for node in graph.nodes if any(v is not None and not v.is_constant for v in node.inputs)}
    casts = [node for node in depends if node.op.name == "cast" and not all(v.is_constant for v in node.inputs)]
    assert sum(node.inputs[0] in graph.inputs.values() or node.output in graph.outputs.values() for node in casts) == 2


def test_small_constants_survive_half_precision():
    x = np.array([[0.001, 0.002, 0.003]], np.float16)
    scale = np.ones(3, np.float16)
    proto, feeds = single("LayerNormalization", [x, scale], constant=[1], epsilon=1e-12)
    wide = x.astype(np.float64)
    wanted = (wide - wide.mean()) / np.sqrt(wide.var() + 1e-12)
    np.testing.assert_allclose(native(from_onnx(proto), feeds)["y"], wanted, rtol=2e-3)


@pytest.mark.parametrize("value", [2**53 + 1, 2**63 - 1])
def test_padding_with_integers_that_are_no_doubles(value):
    proto, feeds = single("Pad", [np.array([3]), np.array([0, 1]), np.array(value)], constant=[1, 2])
    graph = from_onnx(proto)
    for got in (evaluate(graph, feeds), native(graph, feeds)):
        assert got["y"].tolist() == [3, value]


@pytest.mark.parametrize("factors", [{}, {"alpha": 0.5}, {"beta": 0.5}, {"alpha": -1.5, "beta": 2.5}, {"beta": 0.0}])
@pytest.mark.parametrize("c", [None, [5, -3]])
@pytest.mark.parametrize("dtype", [np.int64, np.int32])
def test_integer_gemm_rounds_once(factors, c, dtype):
    given = [np.array(v, dtype) for v in ([[2, 2], [-3, 1]], [[2, 1], [3, 4]], *([] if c is None else [c]))]
    proto, feeds = single("Gemm", given, **factors)
    (wanted,) = ReferenceEvaluator(proto).run(None, feeds)
    graph = from_onnx(proto)
    for got in (evaluate(graph, feeds), native(graph, feeds)):
        assert got["y"].dtype == dtype
        np.testing.assert_array_equal(got["y"], wanted)


def test_integer_gemm_without_factors_is_exact():
    proto, feeds = single("Gemm", [np.array([[2**53 + 1]]), np.array([[1]]), np.array([2])])
    assert evaluate(from_onnx(proto), feeds)["y"].tolist() == [[2**53 + 3]]


@pytest.mark.parametrize(
    ("base", "exponent", "wanted"),
    [
        (np.array([16777217, -3, 2]), np.array([1.0, 3.0, -1.0], np.float32), [16777217, -27, 0]),
        (np.array([16777217, 9], np.int32), np.array([1.0, 0.5], np.float16), [16777217, 3]),
        (np.array([2, -1], np.int32), np.array([-(2**32), 2**32 + 1]), [0, -1]),
    ],
)
def test_powers_of_integers_are_computed_in_float64(base, exponent, wanted):
    proto, feeds = single("Pow", [base, exponent])
    graph = from_onnx(proto)
    for got in (evaluate(graph, feeds), native(graph, feeds)):
        assert got["y"].dtype == base.dtype
        assert got["y"].tolist() == wanted


def test_explicit_casts_still_round():
    x = np.array([1.0 + 2.0**-12, 70000.0, 3.3], np.float32)
    nodes = [
        helper.make_node("Cast", ["x"], ["h"], to=TensorProto.FLOAT16),
        helper.make_node("Cast", ["h"], ["y"], to=TensorProto.FLOAT),
    ]
    got = native(from_onnx(model(nodes, [value_info("x", x)])), {"x": x})["y"]
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(got, x.astype(np.float16).astype(np.float32))


@pytest.mark.parametrize("raw", [True, False])
def test_bfloat16_weights_are_float32_at_import(raw):
    weights = np.random.default_rng(1).standard_normal((4, 5)).astype(ml_dtypes.bfloat16)
    tensor = numpy_helper.from_array(weights, "w")
    if not raw:
        words = weights.view(np.uint16).ravel().tolist()
        tensor = onnx.TensorProto(name="w", data_type=TensorProto.BFLOAT16, dims=weights.shape, int32_data=words)
    x = helper.make_tensor_value_info("x", TensorProto.BFLOAT16, (3, 4))
    y = helper.make_tensor_value_info("y", TensorProto.BFLOAT16, (3, 5))
    proto = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", [x], [y], [tensor])
    proto = helper.make_model(proto, opset_imports=[helper.make_opsetid("", 17)])
    array = np.random.default_rng(2).standard_normal((3, 4)).astype(ml_dtypes.bfloat16)
    wanted = array.astype(np.float32) @ weights.astype(np.float32)
    graph = from_onnx(proto)
    assert graph.inputs["x"].type == f32(3, 4)
    np.testing.assert_allclose(native(graph, {"x": array})["y"], wanted, rtol=1e-5)
    (shown,) = backend.run_model(proto, [array])
    np.testing.assert_array_equal(shown, wanted.astype(ml_dtypes.bfloat16))


def test_rounding_to_bfloat16_is_ml_dtypes():
    bits = np.random.default_rng(3).integers(0, 2**32, 4096, dtype=np.uint64).astype(np.uint32)
    special = np.array([0, -0.0, np.inf, -np.inf, np.nan, 3.4e38, -3.4e38, 1e-45, 1.00390625, 1.01171875], np.float32)
    x = np.concatenate([bits.view(np.float32), special])
    with np.errstate(all="ignore"):
        wanted = x.astype(ml_dtypes.bfloat16).astype(np.float32)
    graph = Graph("g")
    graph.output("y", graph.apply(RoundBfloat16(), graph.input("x", f32(x.size))))
    for got in (evaluate(graph, {"x": x})["y"], native(graph, {"x": x})["y"]):
        np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
@pytest.mark.parametrize("op", ["ReduceMean", "ReduceL2", "ReduceSum", "ReduceMax"])
def test_reductions_of_integers(op, dtype):
    x = np.random.default_rng(4).integers(-9, 9, (3, 4, 5)).astype(dtype)
    proto, feeds = single(op, [x], opset=12, axes=[1])
    np.testing.assert_array_equal(native(from_onnx(proto), feeds)["y"], run_ort(proto, feeds)["y"])


@pytest.mark.parametrize("op", ["ReduceMax", "ReduceMin"])
def test_reductions_of_bools(op):
    x = np.random.default_rng(5).random((3, 4)) < 0.6
    proto, feeds = single(op, [x, np.array([1], np.int64)], opset=20, constant=[1], keepdims=0)
    wanted = x.any(1) if op == "ReduceMax" else x.all(1)
    np.testing.assert_array_equal(native(from_onnx(proto), feeds)["y"], wanted)


def test_gemm_of_integers():
    rng = np.random.default_rng(6)
    a, b, c = (rng.integers(-5, 5, shape).astype(np.int64) for shape in ((3, 4), (5, 4), (5,)))
    proto, feeds = single("Gemm", [a, b, c], constant=[1], transB=1)
    np.testing.assert_array_equal(native(from_onnx(proto), feeds)["y"], a @ b.T + c)


@pytest.mark.parametrize("dtype", [DType.F16, DType.F64, DType.I32, DType.BOOL])
def test_a_fused_product_that_ends_in_another_type(dtype):
    graph = Graph("g")
    x, w = graph.input("x", f32(4, 8)), graph.constant(np.eye(8, dtype=np.float32) * 3, "w")
    product = graph.apply(MatMul(), x, w)
    above = graph.apply(Greater(), product, graph.constant(np.float32(0.2)))
    chosen = graph.apply(Where(), above, product, graph.constant(np.float32(1)))
    graph.output("y", graph.apply(Cast(dtype), chosen))
    feeds = {"x": np.random.default_rng(7).standard_normal((4, 8)).astype(np.float32)}
    np.testing.assert_array_equal(native(graph, feeds)["y"], evaluate(graph, feeds)["y"])


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_statistics_of_a_layer_norm_are_float32(dtype):
    x, scale = np.random.default_rng(8).standard_normal((2, 3, 7)).astype(dtype), np.ones(7, dtype)
    proto, feeds = single("LayerNormalization", [x, scale], outputs=3)
    found, wanted = native(from_onnx(proto), feeds), run_ort(proto, feeds)
    for name, array in wanted.items():
        assert found[name].dtype == array.dtype == (dtype if name == "y0" else np.float32)
        np.testing.assert_allclose(found[name], array, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("scale_shape", [(7,), (1, 7)])
@pytest.mark.parametrize(
    ("own", "other"), [(np.float16, np.float32), (np.float32, np.float16), (np.float64, np.float32)]
)
def test_a_norm_has_the_type_of_its_input_whatever_its_scale_is(own, other, scale_shape):
    """So ONNX's shape inference and reference have it, though the text gives the output the scale's type."""
    rng = np.random.default_rng(0)
    feeds = {"x": rng.standard_normal((3, 7)).astype(own), "s": rng.uniform(0.5, 1.5, scale_shape).astype(other)}
    proto = model(
        [helper.make_node("RMSNormalization", ["x", "s"], ["y"])],
        [value_info(*item) for item in feeds.items()],
        opset=23,
    )
    (wanted,) = ReferenceEvaluator(proto).run(None, feeds)
    graph = from_onnx(proto)
    for got in (evaluate(graph, feeds)["y"], native(graph, feeds)["y"]):
        assert got.dtype == wanted.dtype == own
        np.testing.assert_allclose(got, wanted, rtol=2e-3 if own is np.float16 else 1e-5)
