"""Quantised operators: convolutions give the integers of their definition; scales that are found at run time."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import glulam as gl
from glulam.compiler.errors import ModelFileError, UnsupportedError

SHAPES = [(17, 8, 3, 8), (40, 32, 3, 9), (256, 128, 1, 14), (3, 16, 7, 23)]
"""(input channels, output channels, taps, extent): 40 channels of 3x3 add up to more than 2**24."""


def model(op, names, constants, shape, taps, result):
    node = helper.make_node(op, names, ["y"], pads=[taps // 2] * 4)
    given = [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()]
    inputs = [helper.make_tensor_value_info("x", TensorProto.UINT8, shape)]
    outputs = [helper.make_tensor_value_info("y", result, None)]
    graph = helper.make_graph([node], "g", inputs, outputs, given)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=9).SerializeToString()


def results(onnx_bytes, x, **options):
    """By ONNX Runtime, by the reference, and natively."""
    graph = gl.from_onnx(onnx_bytes)
    (theirs,) = onnxruntime.InferenceSession(onnx_bytes).run(None, {"x": x})
    with gl.compile(graph, **options) as compiled:
        return theirs, gl.reference(graph, {"x": x})["y"], compiled(x)


@pytest.mark.parametrize("numerics", ["fast", "strict"])
@pytest.mark.parametrize(("channels", "outs", "taps", "extent"), SHAPES)
def test_conv_integer_is_exact(channels, outs, taps, extent, numerics):
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (1, channels, extent, extent)).astype(np.uint8)
    constants = {
        "w": rng.integers(0, 256, (outs, channels, taps, taps)).astype(np.uint8),
        "x_zero": np.uint8(3),
        "w_zero": np.uint8(128),
    }
    made = model("ConvInteger", ["x", *constants], constants, x.shape, taps, TensorProto.INT32)
    theirs, reference, native = results(made, x, numerics=numerics)
    np.testing.assert_array_equal(reference, theirs)
    np.testing.assert_array_equal(native, theirs)


@pytest.mark.parametrize(("channels", "outs", "taps", "extent"), SHAPES)
def test_qlinear_conv_rounds_exact_sums(channels, outs, taps, extent):
    rng = np.random.default_rng(1)
    x = rng.integers(0, 256, (1, channels, extent, extent)).astype(np.uint8)
    constants = {
        "x_scale": np.float32(0.02),
        "x_zero": np.uint8(100),
        "w": rng.integers(-127, 128, (outs, channels, taps, taps)).astype(np.int8),
        "w_scale": rng.uniform(0.005, 0.01, outs).astype(np.float32),
        "w_zero": np.zeros(outs, np.int8),
        "y_scale": np.float32(0.02 * taps * np.sqrt(channels)),
        "y_zero": np.uint8(120),
        "bias": rng.integers(-1000, 1000, outs).astype(np.int32),
    }
    made = model("QLinearConv", ["x", *constants], constants, x.shape, taps, TensorProto.UINT8)
    theirs, reference, native = results(made, x)
    np.testing.assert_array_equal(native, reference)
    assert np.abs(native.astype(int) - theirs).max() <= 1  # ties: ONNX Runtime multiplies by one scale
    assert (native != theirs).mean() < 1e-3


@pytest.mark.parametrize(
    "values", [[0.0, -0.0, 0.0], [-2.0, -2.0, -1.0], [0.5, 3.0, 7.25], [-1.0, 0.25, 4.0], [1e-38] * 3]
)
def test_dynamic_scales_are_onnx_runtimes_those_of_zeros_too(values):
    x = np.array([values], np.float32)
    node = helper.make_node("DynamicQuantizeLinear", ["x"], ["y", "scale", "zero"])
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)]
    kinds = {"y": TensorProto.UINT8, "scale": TensorProto.FLOAT, "zero": TensorProto.UINT8}
    outputs = [helper.make_tensor_value_info(name, kind, None) for name, kind in kinds.items()]
    graph = helper.make_graph([node], "g", inputs, outputs)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=9).SerializeToString()
    theirs = onnxruntime.InferenceSession(made).run(None, {"x": x})
    ours = gl.from_onnx(made)
    with gl.compile(ours) as compiled:
        for found in (gl.reference(ours, {"x": x}), compiled.run({"x": x})):
            for expected, name in zip(theirs, kinds, strict=True):
                np.testing.assert_array_equal(found[name], expected)


# ---- the way back


def written_again(made, x):
    """The operators of the imported graph's file, which gives what the first one does."""
    (theirs,) = onnxruntime.InferenceSession(made).run(None, {"x": x})
    back = gl.to_onnx(gl.from_onnx(made))
    onnx.checker.check_model(back, full_check=True)
    (again,) = onnxruntime.InferenceSession(back.SerializeToString()).run(None, {"x": x})
    np.testing.assert_array_equal(again, theirs)
    np.testing.assert_array_equal(gl.reference(gl.from_onnx(back), {"x": x})["y"], theirs)
    return [node.op_type for node in back.graph.node]


@pytest.mark.parametrize(("channels", "outs", "taps", "extent"), SHAPES[:2])
@pytest.mark.parametrize("zeros", [{}, {"x_zero": np.uint8(3)}, {"x_zero": np.uint8(3), "w_zero": np.uint8(128)}])
def test_conv_integer_is_written_again(channels, outs, taps, extent, zeros):
    rng = np.random.default_rng(2)
    x = rng.integers(0, 256, (1, channels, extent, extent)).astype(np.uint8)
    constants = {"w": rng.integers(0, 256, (outs, channels, taps, taps)).astype(np.uint8), **zeros}
    made = model("ConvInteger", ["x", *constants], constants, x.shape, taps, TensorProto.INT32)
    assert written_again(made, x) == ["ConvInteger"]


def test_sums_that_int32_may_not_hold_stay_float64():
    graph = gl.from_onnx(
        model(
            "ConvInteger",
            ["x", "w"],
            {"w": np.ones((1, 40000, 1, 1), np.uint8)},
            (1, 40000, 1, 1),
            1,
            TensorProto.INT32,
        )
    )
    assert [node.op_type for node in gl.to_onnx(graph).graph.node if "Conv" in node.op_type] == ["Conv"]


def test_qlinear_conv_is_written_by_its_sums():
    rng = np.random.default_rng(3)
    x = rng.integers(0, 256, (1, 6, 5, 5)).astype(np.uint8)
    constants = {
        "x_scale": np.float32(0.02),
        "x_zero": np.uint8(100),
        "w": rng.integers(-127, 128, (4, 6, 3, 3)).astype(np.int8),
        "w_scale": np.float32(0.25),
        "w_zero": np.int8(0),
        "y_scale": np.float32(0.5),
        "y_zero": np.uint8(120),
        "bias": rng.integers(-1000, 1000, 4).astype(np.int32),
    }
    made = model("QLinearConv", ["x", *constants], constants, x.shape, 3, TensorProto.UINT8)
    kinds = written_again(made, x)
    assert kinds[0] == "ConvInteger"
    assert "Conv" not in kinds


@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
def test_matmul_integer_is_written_again(dtype):
    x = np.random.default_rng(4).integers(0, 256, (3, 40)).astype(np.uint8)
    codes = np.random.default_rng(5).integers(np.iinfo(dtype).min, np.iinfo(dtype).max + 1, (40, 7)).astype(dtype)
    constants = {"w": codes, "x_zero": np.uint8(7), "w_zero": dtype(5)}
    node = helper.make_node("MatMulInteger", ["x", *constants], ["y"])
    given = [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()]
    inputs = [helper.make_tensor_value_info("x", TensorProto.UINT8, x.shape)]
    graph = helper.make_graph([node], "g", inputs, [helper.make_tensor_value_info("y", TensorProto.INT32, None)], given)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=9).SerializeToString()
    assert written_again(made, x) == ["MatMulInteger"]


# ---- codes of 4 bits


def half_byte_model(kind, raw, domain=""):
    """A model that adds w, 3x5 codes of 4 bits with a scale and a zero point per row, to its input."""
    low = -8 if kind == TensorProto.INT4 else 0
    values = (np.arange(15) % 16 + low).tolist()
    if raw:
        pairs = np.array([*values, 0]) & 15
        stored = helper.make_tensor("w", kind, (3, 5), bytes((pairs[::2] | pairs[1::2] << 4).tolist()), raw=True)
    else:
        stored = helper.make_tensor("w", kind, (3, 5), values)
    given = [
        stored,
        numpy_helper.from_array(np.array([0.5, 1.0, 2.0], np.float32), "scale"),
        helper.make_tensor("zero", kind, (3,), [low + 3, low + 7, low]),
    ]
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "scale", "zero"], ["real"], axis=0, domain=domain),
        helper.make_node("Add", ["x", "real"], ["y"]),
    ]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, (3, 5))]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    graph = helper.make_graph(nodes, "g", inputs, outputs, given)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


@pytest.mark.parametrize("domain", ["", "com.microsoft"])
@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize("kind", [TensorProto.INT4, TensorProto.UINT4])
def test_codes_of_4_bits_are_dequantised(kind, raw, domain):
    made = half_byte_model(kind, raw, domain=domain)
    x = np.zeros((3, 5), np.float32)
    (theirs,) = onnxruntime.InferenceSession(made.SerializeToString()).run(None, {"x": x})
    np.testing.assert_array_equal(gl.reference(gl.from_onnx(made), {"x": x})["y"], theirs)
    made.graph.initializer[0].dims[0] = 7
    with pytest.raises(ModelFileError, match="data for shape"):
        gl.from_onnx(made)


def test_codes_of_4_bits_that_others_read_are_refused():
    made = half_byte_model(TensorProto.INT4, True)
    made.graph.output.append(helper.make_tensor_value_info("w", TensorProto.INT4, (3, 5)))
    with pytest.raises(
        UnsupportedError, match=r"initialiser 'w': INT4; only .* DequantizeLinear .* quantise others to 8"
    ):
        gl.from_onnx(made)
    del made.graph.output[1]
    made.graph.node.append(helper.make_node("QuantizeLinear", ["y", "scale", "zero"], ["z"], axis=0))
    made.graph.output[0].name = "z"
    with pytest.raises(UnsupportedError, match="initialiser 'zero': INT4"):
        gl.from_onnx(made)
