"""Quantised operators of ONNX Runtime's domain give the codes that it gives, but for ties that it rounds elsewhere."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from onnx import helper, numpy_helper
from onnx_support import untyped, value_info

import glulam as gl
from glulam.compiler.errors import UnsupportedError

X_SCALE, Y_SCALE = np.float32(0.031), np.float32(0.047)


def quantised(op, inputs, fed, **attributes):
    """A model of one node; of its inputs (None: left out) those in `fed` are the model's, the others constants."""
    names = ["" if array is None else f"x{place}" for place, array in enumerate(inputs)]
    given = {name: np.asarray(array) for name, array in zip(names, inputs, strict=True) if name}
    feeds = {names[place]: given[names[place]] for place in fed}
    stored = [numpy_helper.from_array(array, name) for name, array in given.items() if name not in feeds]
    node = helper.make_node(op, names, ["y"], "node", domain="com.microsoft", **attributes)
    infos = [value_info(name, array) for name, array in feeds.items()]
    graph = helper.make_graph([node], "g", infos, [untyped("y")], stored)
    imports = [helper.make_opsetid("", 13), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=9).SerializeToString(), feeds


def codes(*shape, dtype=np.uint8, seed=0):
    limits = np.iinfo(dtype)
    return np.random.default_rng(seed).integers(limits.min, limits.max + 1, shape).astype(dtype)


X, Y = codes(2, 5, 7, 3), codes(5, 1, 3, seed=1)
SIGNED, OTHER = codes(2, 5, 7, 3, dtype=np.int8), codes(5, 1, 3, dtype=np.int8, seed=1)
ZERO, ONE_TWENTY, SIGNED_ZERO = np.uint8(3), np.uint8(120), np.int8(-5)
REALS = np.random.default_rng(2).standard_normal((2, 3, 40)).astype(np.float32)
PLAIN = [X, X_SCALE, ONE_TWENTY, Y_SCALE, ZERO]
CASES = {
    "add": ("QLinearAdd", [X, X_SCALE, ONE_TWENTY, Y, Y_SCALE, ZERO, np.float32(0.06), ONE_TWENTY], (0, 3), {}),
    "add of signed codes": (
        "QLinearAdd",
        [SIGNED, X_SCALE, np.int8(9), OTHER, Y_SCALE, np.int8(0), np.float32(0.06), SIGNED_ZERO], (0, 3), {},
    ),
    "multiply": ("QLinearMul", [X, X_SCALE, ONE_TWENTY, Y, Y_SCALE, ZERO, np.float32(0.3), ONE_TWENTY], (0, 3), {}),
    "sigmoid": ("QLinearSigmoid", [X, X_SCALE, ONE_TWENTY, np.float32(1 / 256), np.uint8(0)], (0,), {}),
    "leaky relu": ("QLinearLeakyRelu", [SIGNED, X_SCALE, SIGNED_ZERO, Y_SCALE, np.int8(7)], (0,), {"alpha": 0.3}),
    "softmax": (
        "QLinearSoftmax", [X, X_SCALE, ONE_TWENTY, np.float32(1 / 256), np.uint8(0)], (0,), {"axis": -1, "opset": 13}
    ),
    "softmax of a matrix": (
        "QLinearSoftmax", [X, X_SCALE, ONE_TWENTY, np.float32(1 / 256), np.uint8(0)], (0,), {"axis": 2, "opset": 11}
    ),
    "global average": ("QLinearGlobalAveragePool", PLAIN, (0,), {"channels_last": 0}),
    "average": (
        "QLinearAveragePool", PLAIN, (0,),
        {"kernel_shape": [3, 2], "strides": [2, 1], "pads": [1, 0, 1, 1], "count_include_pad": 1},
    ),
    "concat": (
        "QLinearConcat", [Y_SCALE, ZERO, X, X_SCALE, ONE_TWENTY, X[:, :2], Y_SCALE, ZERO], (2, 5), {"axis": 1}
    ),
    "where": (
        "QLinearWhere",
        [X > 99, X, X_SCALE, ONE_TWENTY, Y, Y_SCALE, ZERO, np.float32(0.06), ONE_TWENTY], (0, 1, 4), {},
    ),
    "gemm": (
        "QGemm",
        [
            codes(3, 300), X_SCALE, ZERO, codes(9, 300, dtype=np.int8), np.linspace(0.01, 0.02, 9, dtype=np.float32),
            np.zeros(9, np.int8), np.arange(-4000, 5000, 1000, dtype=np.int32), np.float32(9), ONE_TWENTY,
        ],
        (0,), {"transB": 1, "alpha": 0.5},
    ),
    "gemm to floats": (
        "QGemm", [codes(3, 300), X_SCALE, ZERO, codes(300, 9), Y_SCALE, ONE_TWENTY, None, None, None], (0,), {}
    ),
    "matmul to floats": (
        "MatMulIntegerToFloat",
        [codes(3, 300), codes(300, 9), X_SCALE, Y_SCALE, ZERO, ONE_TWENTY, np.ones(9, np.float32)], (0,), {},
    ),
    "matmul of floats that are quantised": (
        "DynamicQuantizeMatMul",
        [REALS, codes(40, 9), Y_SCALE, ONE_TWENTY, np.ones(9, np.float32)], (0,), {},
    ),
    "matmul of floats with scales by column": (
        "DynamicQuantizeMatMul",
        [REALS, codes(40, 9, dtype=np.int8), np.linspace(0.01, 0.02, 9, dtype=np.float32), np.zeros(9, np.int8)], (0,),
        {},
    ),
    "matmul of floats without a zero point": ("DynamicQuantizeMatMul", [REALS, codes(40, 9), Y_SCALE], (0,), {}),
    "convolution": (
        "QLinearConv",
        [X, X_SCALE, ONE_TWENTY, codes(4, 5, 3, 3, dtype=np.int8), Y_SCALE, np.int8(0), np.float32(1.5), ONE_TWENTY],
        (0,), {"pads": [1] * 4, "channels_last": 0},
    ),
    "16 bits": ("QuantizeLinear", [codes(3, 7).astype(np.float32), X_SCALE, np.uint16(500)], (0,), {}),
    "16 bits back": ("DequantizeLinear", [codes(3, 7, dtype=np.int16), X_SCALE, np.int16(-9)], (0,), {}),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_codes_are_those_of_onnx_runtime(case):
    op, inputs, fed, attributes = CASES[case]
    proto, feeds = quantised(op, inputs, fed, **attributes)
    (theirs,) = onnxruntime.InferenceSession(proto).run(None, feeds)
    graph = gl.from_onnx(proto)
    with gl.compile(graph) as compiled:
        for ours in (gl.reference(graph, feeds)["y"], compiled.run(feeds)["y"]):
            assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
            apart = np.abs(ours.astype(np.float64) - theirs)
            if theirs.dtype.kind == "f":
                assert apart.max() <= 1e-6 * np.abs(theirs).max()
            else:
                assert apart.max() <= 1
                assert np.mean(apart != 0) < 0.02


@pytest.mark.parametrize("op", ["QLinearGlobalAveragePool", "QLinearAveragePool"])
def test_channels_last_is_refused_by_name(op):
    proto, _ = quantised(op, PLAIN, (0,), channels_last=1)
    with pytest.raises(UnsupportedError, match=f"com.microsoft.{op} 'node': channels_last"):
        gl.from_onnx(proto)
