"""Every op written as ONNX: ONNX Runtime agrees with the reference, and the way back gives the same graph's meaning."""

from __future__ import annotations

import math

import numpy as np
import onnx
import pytest
from onnx_support import assert_close, exported, run_ort

from glulam.compiler import ops
from glulam.compiler.errors import UnsupportedError
from glulam.compiler.graph.evaluate import evaluate
from glulam.compiler.graph.graph import Graph
from glulam.compiler.graph.op import Op
from glulam.compiler.graph.types import DType, TensorType, f32
from glulam.frontends import layers as L
from glulam.frontends.onnx import from_onnx, to_onnx
from glulam.frontends.onnx.exporter import EXPORTS

RNG = np.random.default_rng(11)
P = ((1, 1), (0, 2))
NO = ((0, 0), (0, 0))


def f(*shape, low=-2.0, high=2.0):
    return RNG.uniform(low, high, shape).astype(np.float32)


def i(*shape):
    return RNG.integers(0, 8, shape)


def b(*shape):
    return RNG.uniform(0, 1, shape) > 0.5


X = (2, 4, 6, 5)

CASES: list[tuple[Op, list]] = [
    (ops.Conv((2, 1), P, (1, 2), 2), [f(*X), f(6, 2, 3, 2), f(6)]),
    (ops.Conv((1,), ((2, 0),), (1,)), [f(1, 3, 7), f(5, 3, 3)]),
    (ops.Conv((1, 1, 1), ((1, 1),) * 3, (1, 1, 1)), [f(1, 2, 4, 5, 3), f(3, 2, 3, 3, 3)]),
    (ops.ConvTranspose((2, 2), P, (1, 1), (1, 0), 2), [f(*X), f(4, 3, 3, 4), f(6)]),
    (ops.MatMul(), [f(2, 3, 4), f(4, 5)]),
    (ops.Linear(), [f(3, 4), f(5, 4), f(5)]),
    (ops.Linear(), [f(2, 3, 4), f(5, 4), f(5)]),
    (ops.Linear(), [f(4), f(5, 4)]),
    (ops.MaxPool((3, 3), (2, 2), P, (1, 1), True), [f(*X)]),
    (ops.MaxPool((2, 2), (1, 1), ((2, 1), (0, 0)), (1, 1)), [f(*X)]),
    (ops.MaxPool((2, 2), (1, 1), ((2, 2), (2, 2)), (1, 1)), [RNG.integers(0, 256, (1, 3, 5, 5), np.uint8)]),
    (ops.AveragePool((3, 3), (2, 1), ((1, 1), (1, 1)), (1, 1), False, True), [f(*X)]),
    (ops.AveragePool((3, 3), (2, 2), ((1, 1), (1, 1)), (1, 1)), [f(*X)]),
    (ops.BatchNorm(1e-3), [f(*X), f(4), f(4), f(4), f(4, low=0.1)]),
    (ops.LayerNorm(2, 1e-3), [f(*X), f(6, 5), f(6, 5)]),
    (ops.LayerNorm(3), [f(*X)]),
    (ops.Softmax(1), [f(*X)]),
    (ops.LogSoftmax(3), [f(*X)]),
    *((ops.Reduce(kind, (1, 3), False), [f(*X, low=0.1)]) for kind in
      ("sum", "mean", "max", "min", "prod", "l1", "l2", "sum_square", "log_sum", "log_sum_exp")),
    *((ops.Reduce(kind, ()), [f(*X, low=0.1)]) for kind in
      ("sum", "mean", "max", "min", "prod", "l1", "l2", "sum_square", "log_sum", "log_sum_exp")),
    (ops.ArgReduce("max", 1), [f(*X)]),
    (ops.ArgReduce("min", 3, False, True), [f(*X)]),
    (ops.Identity(), [f(*X)]),
    (ops.Dropout(0.3), [f(*X)]),
    (ops.Reshape((8, 30)), [f(*X)]),
    (ops.Reshape((3, 0)), [f(0, 3)]),
    (ops.Shape(), [f(*X)]),
    (ops.Transpose((0, 2, 3, 1)), [f(*X)]),
    (ops.Slice((1, 3, 0, 4), (1, -1, 2, -2), (1, 4, 3, 3)), [f(*X)]),
    (ops.Slice((0, 0, 5, 0), (1, 1, -3, 1), (2, 0, 2, 5)), [f(*X)]),
    (ops.Pad(((0, 0), (1, 0), (2, -1), (0, 3)), "constant", 1.5), [f(*X)]),
    (ops.Pad(((0, 0), (0, 0), (2, 1), (-1, 3)), "reflect"), [f(*X)]),
    (ops.Pad(((0, 0), (0, 0), (2, 1), (1, 1)), "edge"), [f(*X)]),
    (ops.Expand((2, 3, 4)), [f(3, 1)]),
    (ops.Tile((2, 1, 3)), [f(2, 3, 2)]),
    (ops.Concat(1), [f(2, 3), f(2, 1), f(2, 2)]),
    (ops.Split(1, (1, 3)), [f(*X)]),
    (ops.Gather(1), [f(*X), np.array([[0, -1], [2, 2]])]),
    (ops.Resize((2, 4, 12, 10), (1.0, 1.0, 2.0, 2.0)), [f(*X)]),
    (ops.Resize((2, 4, 9, 3), (1.0, 1.0, 1.5, 0.6), "linear", "asymmetric"), [f(*X)]),
    (ops.Resize((2, 4, 10, 9), (1.0, 1.0, 1.7, 1.9), "linear", "half_pixel"), [f(*X)]),
    (ops.Resize((2, 4, 12, 10), (1.0, 1.0, 2.0, 2.0), "cubic", "align_corners", cubic_coeff=-0.5), [f(*X)]),
    *((op(), [f(3, 7)]) for op in (
        ops.Relu, ops.LeakyRelu, ops.ThresholdedRelu, ops.Elu, ops.Celu, ops.Selu, ops.Sigmoid, ops.HardSigmoid,
        ops.Tanh, ops.Silu, ops.HardSwish, ops.Mish, ops.Gelu, ops.Softplus, ops.Softsign, ops.Shrink, ops.Neg,
        ops.Abs, ops.Sign, ops.Exp, ops.Reciprocal, ops.Floor, ops.Ceil, ops.Round, ops.Erf, ops.Sin, ops.Cos)),
    (ops.LeakyRelu(0.3), [f(9)]),
    (ops.Gelu("tanh"), [f(9)]),
    (ops.Softplus(2.0, 1.0), [f(9)]),
    (ops.Clip(-1.0, 0.5), [f(9)]),
    (ops.Clip(-math.inf, 0.5), [f(9)]),
    (ops.Log(), [f(9, low=0.1)]),
    (ops.Sqrt(), [f(9, low=0.1)]),
    (ops.PRelu(), [f(2, 3, 4), f(3, 1)]),
    (ops.PRelu(), [f(3, 1), f(2, 3, 4)]),
    (ops.Cast(DType.I64), [f(9, high=50)]),
    *((op(), [f(2, 1, 4), f(3, 1, low=0.1)]) for op in (
        ops.Add, ops.Sub, ops.Mul, ops.Div, ops.Maximum, ops.Minimum, ops.Equal, ops.Less, ops.LessOrEqual,
        ops.Greater, ops.GreaterOrEqual, ops.Mod)),
    (ops.Mod(True), [f(9), f(9, low=0.1)]),
    (ops.Mod(), [np.array([7, -7, 7]), np.array([3, 3, -3])]),
    (ops.Pow(), [f(9, low=0.1), f(9)]),
    (ops.Pow(), [np.array([2, 3, 4]), np.array([3, 2, 0])]),
    (ops.ScaleShift(), [f(2, 3, 4), f(3, 1), f(3, 1)]),
    (ops.Not(), [b(5)]),
    *((op(), [b(4, 3), b(3)]) for op in (ops.And, ops.Or, ops.Xor)),
    (ops.Where(), [b(3, 1), f(1, 4), f(3, 4)]),
    *((op(), [f(3, 7, low=-0.9, high=0.9)]) for op in (
        ops.Tan, ops.Asin, ops.Acos, ops.Atan, ops.Sinh, ops.Cosh, ops.Asinh, ops.Atanh)),
    (ops.Acosh(), [f(9, low=1.1)]),
    *((op(), [i(3, 5), i(5)]) for op in (ops.BitwiseAnd, ops.BitwiseOr, ops.BitwiseXor)),
    (ops.BitwiseNot(), [i(5)]),
    (ops.BitShift("left"), [i(3, 5).astype(np.uint8), i(5).astype(np.uint8)]),
    (ops.GroupNorm(2, 1e-3), [f(*X), f(4), f(4)]),
    (ops.GroupNorm(4), [f(*X)]),
    (ops.GroupNorm(2), [f(3, 4), None, f(4)]),
    (ops.RMSNorm(2, 1e-3), [f(*X), f(6, 5)]),
    (ops.RMSNorm(3), [f(*X)]),
    *((ops.LpNormalize(1, p), [f(*X)]) for p in (1.0, 2.0, 3.0, math.inf)),
    (ops.LocalResponseNorm(1, 2, 0.5), [f(*X)]),
    (ops.LocalResponseNorm(2, 1, 0.5), [f(*X)]),
    (ops.LocalResponseNorm(1, 1, 0.5), [f(3, 5)]),
    (ops.GatherElements(1), [f(3, 5), i(3, 2) % 5]),
    (ops.GatherND(1), [f(2, 5, 3), i(2, 4, 1) % 5]),
    (ops.ScatterElements(0), [f(4, 3), np.array([[0, 1, 2], [3, 2, -4]]), f(2, 3)]),
    (ops.ScatterElements(1, "add"), [f(2, 5), i(2, 7) % 5, f(2, 7)]),
    (ops.ScatterND(), [f(4, 3), np.array([[0], [-1]]), f(2, 3)]),
    (ops.ScatterND("mul"), [f(4, 3), np.array([[0], [0]]), f(2, 3)]),
    (ops.TopK(3, 1), [f(2, 7)]),
    (ops.TopK(2, 0, False), [f(5, 3)]),
    (ops.GridSample("linear", "border"), [f(*X), f(2, 3, 7, 2)]),
    (ops.GridSample("cubic", "zeros", True), [f(*X), f(2, 3, 7, 2)]),
    (ops.GridSample("nearest", "reflection"), [f(*X), f(2, 3, 7, 2)]),
    (ops.Det(), [f(2, 4, 4)]),
    (ops.RoiAlign((3, 2), (2, 2), 0.5), [f(*X), f(3, 4, low=0, high=5), i(3) % 2]),
    (ops.MaxRoiPool((3, 2), 0.5), [f(*X), np.abs(f(3, 5)) * np.float32([0, 4, 4, 9, 9])]),
    (ops.RoiAlign((2, 2), (1, 1), 1.0, False), [f(*X), f(3, 4, low=0, high=5), i(3) % 2]),
    (ops.Cumulative("sum", 1, True, True), [f(2, 7)]),
    (ops.Dropout(0.3), [i(5)]),
    (ops.Dropout(1.0), [f(5)]),
    (ops.Transpose(()), [np.array(2.5, np.float32)]),
    (ops.Mod(), [np.float32([1.5, -1.5, 1.5, -4, 0, 3]), np.float32([np.inf, -np.inf, -2, 2, np.inf, 0])]),
    (ops.Mod(), [np.float32([1e8, -1e8]), np.float32([0.7, 0.7])]),
    (ops.GatherND(1), [f(2, 5, 3), (i(2, 4, 1) % 5).astype(np.int32)]),
    (ops.ScatterND(), [f(4, 3), np.array([[0], [-1]], np.int32), f(2, 3)]),
]  # fmt: skip
SINCE = {"bitwise_and": 18, "bitwise_or": 18, "bitwise_xor": 18, "bitwise_not": 18}
"""Ops that ONNX got after the oldest opset that is tried here."""


def graph_of(op, arrays, constants=()):
    graph = Graph("sample")
    inputs = [
        None
        if array is None
        else graph.constant(array)
        if i in constants
        else graph.input(f"x{i}", TensorType.of(array))
        for i, array in enumerate(arrays)
    ]
    for i, value in enumerate(graph.add(op, *inputs)):
        graph.output(f"y{i}", value)
    return graph, {f"x{i}": array for i, array in enumerate(arrays) if i not in constants and array is not None}


@pytest.mark.parametrize("opset", [17, 21])
@pytest.mark.parametrize(("op", "arrays"), CASES, ids=lambda v: v.name if isinstance(v, Op) else "")
def test_op(op, arrays, opset):
    for constants in {(), tuple(range(1, len(arrays)))}:
        graph, feeds = graph_of(op, arrays, constants)
        if opset < SINCE.get(op.name, 0):
            with pytest.raises(UnsupportedError, match=f"opset={SINCE[op.name]}"):
                to_onnx(graph, opset=opset)
            continue
        expected = evaluate(graph, feeds)
        model = to_onnx(graph, opset=opset)
        onnx.checker.check_model(model, full_check=True)
        assert_close(run_ort(model, feeds), expected)
        assert_close(evaluate(from_onnx(model), feeds), expected, 1e-6)


@pytest.mark.parametrize("opset", [13, 18, 20])
@pytest.mark.parametrize(
    "name",
    [
        "layer_norm",
        "reduce",
        "mish",
        "gelu",
        "hard_swish",
        "average_pool",
        "rms_norm",
        "lp_normalize",
        "group_norm",
        "reshape",
    ],
)
def test_other_opsets(name, opset):
    for op, arrays in CASES:
        if op.name == name and not (opset < 14 and op == ops.Reshape((3, 0))):
            graph, feeds = graph_of(op, arrays)
            model = to_onnx(graph, opset=opset)
            onnx.checker.check_model(model, full_check=True)
            assert_close(evaluate(from_onnx(model), feeds), evaluate(graph, feeds), 1e-5)


def test_every_op_of_the_catalogue_is_exported_and_sampled():
    missing = {op.name for op in ops.ALL_OPS} - {op.name for op in EXPORTS}
    assert missing == {"bit_cast", "external"}, "ONNX has the one from opset 26 on, and cannot have the other"
    assert {op.name for op, _ in CASES} <= {op.name for op in EXPORTS}


def network():
    graph = Graph("net")
    x = graph.input("image", f32(1, 3, 8, 8))
    y = graph.apply(ops.Conv((1, 1), ((1, 1), (1, 1)), (1, 1)), x, graph.constant(f(4, 3, 3, 3)), None, name="stem")
    z = graph.apply(ops.Relu(), y)
    z = graph.apply(ops.Add(), z, y)
    graph.output("sum", z)
    graph.output("again", z)
    graph.output("passed", x)
    graph.output("stored", graph.constant(f(3)))
    return graph


def test_outputs_given_twice_passed_through_or_constant(tmp_path):
    graph = network()
    feeds = {"image": f(1, 3, 8, 8)}
    expected = evaluate(graph, feeds)
    to_onnx(graph, tmp_path / "net.onnx")
    assert_close(run_ort(str(tmp_path / "net.onnx"), feeds), expected)
    back = from_onnx(tmp_path / "net.onnx")
    assert list(back.inputs) == ["image"]
    assert_close(evaluate(back, feeds), expected, 1e-6)


def test_names_never_collide():
    """Trap 10: an intermediate may have the name of an output."""
    graph = Graph("names")
    x = graph.input("x", f32(3))
    hidden = graph.apply(ops.Relu(), x, name="y")
    graph.output("y", graph.apply(ops.Neg(), hidden, name="z"))
    graph.output("const", graph.apply(ops.Clip(0.0, 1.0), hidden))
    feeds = {"x": f(3)}
    assert_close(exported(graph, feeds), evaluate(graph, feeds))


def test_what_onnx_cannot_say_is_listed_at_once():
    graph = Graph("refused")
    x = graph.input("x", f32(1, 1, 4, 4))
    y = graph.apply(ops.Pad(((0, 0), (0, 0), (1, 1), (1, 1)), "wrap"), x, name="first")
    graph.output("y", graph.apply(ops.AveragePool((2, 2), (1, 1), NO, (2, 2)), y, name="second"))
    with pytest.raises(UnsupportedError) as caught:
        to_onnx(graph)
    assert len(caught.value.items) == 2
    assert "'first'" in caught.value.items[0]
    assert "opset=19" in caught.value.items[1]
    assert to_onnx(graph, opset=19)
    with pytest.raises(UnsupportedError, match="opset 9"):
        to_onnx(graph, opset=9)


@pytest.mark.parametrize(
    ("op", "arrays", "opset", "needed"),
    [
        (ops.Relu(), [i(5)], 13, "opset=14"),
        (ops.Add(), [i(5).astype(np.uint8), i(5).astype(np.uint8)], 13, "opset=14"),
        (ops.Celu(), [f(5).astype(np.float64)], 21, "ONNX can say"),
        (ops.Cumulative("sum", 0), [i(5).astype(np.uint8)], 21, "ONNX can say"),
    ],
)
def test_element_types_that_an_operator_does_not_take(op, arrays, opset, needed):
    graph, feeds = graph_of(op, arrays)
    with pytest.raises(UnsupportedError, match=needed):
        to_onnx(graph, opset=opset)
    if needed == "opset=14":
        model = to_onnx(graph, opset=14)
        onnx.checker.check_model(model, full_check=True)
        assert_close(evaluate(from_onnx(model), feeds), evaluate(graph, feeds))


def test_large_weights_lie_beside_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr("glulam.frontends.onnx.exporter.INLINE_LIMIT", 1000)
    graph, feeds = graph_of(ops.Linear(), [f(2, 40), f(30, 40), f(30)], (1, 2))
    to_onnx(graph, tmp_path / "big.onnx")
    to_onnx(graph, tmp_path / "big.onnx")
    assert (tmp_path / "big.onnx.data").stat().st_size >= 4800
    expected = evaluate(graph, feeds)
    assert_close(run_ort(str(tmp_path / "big.onnx"), feeds), expected)
    assert_close(evaluate(from_onnx(tmp_path / "big.onnx"), feeds), expected, 1e-6)


def test_weights_are_stored_once():
    graph = Graph("g")
    x = graph.input("x", f32(2, 5, 30))
    graph.output("y", graph.apply(ops.Linear(), x, graph.constant(f(40, 30)), graph.constant(f(40))))
    stored = [tuple(tensor.dims) for tensor in to_onnx(graph).graph.initializer]
    assert sorted(stored) == [(30, 40), (40,)]


@pytest.mark.parametrize("layer", [L.Upsample, L.Resize])
def test_corners_are_aligned_to_whole_extents(layer):
    """So PyTorch has it for any factor, and so the file says it."""
    x = L.Input((1, 5), "x")
    graph = Graph.of(x, {"y": layer(scale_factor=1.5, mode="linear", align_corners=True)(x)})
    line = f(5)
    feeds = {"x": line.reshape(1, 1, 5)}
    expected = {"y": np.interp(np.linspace(0, 4, 7), np.arange(5), line).astype(np.float32).reshape(1, 1, 7)}
    assert_close(evaluate(graph, feeds), expected)
    assert_close(exported(graph, feeds), expected)
