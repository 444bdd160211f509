"""Every converter, and every form its operator had from opset 9 on, against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import pytest
from onnx_support import assert_agrees, assert_close, check, i64, run_ort, single

from glulam.compiler.errors import UnsupportedError
from glulam.compiler.graph.evaluate import evaluate
from glulam.frontends.onnx import from_onnx

RNG = np.random.default_rng(7)


def f(*shape: int, low: float = -2.0, high: float = 2.0) -> np.ndarray:
    return RNG.uniform(low, high, shape).astype(np.float32)


def scalar(value: float, dtype: type = np.float32) -> np.ndarray:
    return np.array(value, dtype)


UNARY = [
    "Relu", "Sigmoid", "Tanh", "Exp", "Sqrt", "Neg", "Abs", "Floor", "Ceil", "Round", "Erf", "Reciprocal", "Sin", "Cos",
    "Softsign", "Softplus", "Sign", "LeakyRelu", "Elu", "Celu", "Selu", "HardSigmoid", "ThresholdedRelu", "Shrink",
    "HardSwish", "Identity", "Tan", "IsNaN", "Log",
]  # fmt: skip


@pytest.mark.parametrize("op_type", UNARY)
def test_unary(op_type):
    low = 0.1 if op_type in ("Sqrt", "Log", "Reciprocal") else -3.0
    check(op_type, [f(2, 3, 5, low=low, high=3.0)])


@pytest.mark.parametrize(
    ("op_type", "attributes"),
    [
        ("LeakyRelu", {"alpha": 0.3}),
        ("Elu", {"alpha": 0.7}),
        ("Celu", {"alpha": 2.0}),
        ("Selu", {"alpha": 1.5, "gamma": 0.5}),
        ("HardSigmoid", {"alpha": 0.5, "beta": 0.25}),
        ("ThresholdedRelu", {"alpha": 0.5}),
        ("Shrink", {"bias": 0.1, "lambd": 0.7}),
    ],
)
def test_unary_attributes(op_type, attributes):
    check(op_type, [f(3, 7)], **attributes)


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_gelu(approximate):
    check("Gelu", [f(3, 7)], opset=20, approximate=approximate)


def test_mish():
    check("Mish", [f(3, 7)], opset=18)


@pytest.mark.parametrize(
    "op_type", ["Add", "Sub", "Mul", "Div", "Max", "Min", "Less", "Greater", "LessOrEqual", "GreaterOrEqual"]
)
def test_binary_broadcasts(op_type):
    check(op_type, [f(2, 1, 4), f(3, 1)])


@pytest.mark.parametrize("op_type", ["And", "Or", "Xor"])
def test_logic(op_type):
    check(op_type, [f(4, 3) > 0, f(3) > 0])


def test_integer_arithmetic():
    check("Div", [i64(7, -7, 7, -7), i64(2, 2, -2, -2)])
    check("Equal", [i64(1, 2), i64(1, 3)])
    check("Mod", [i64(7, -7, 7, -7), i64(3, 3, -3, -3)])
    check("Mod", [f(6), f(6, low=0.5)], fmod=1)


def test_pow_keeps_the_base_type():
    check("Pow", [f(4, low=0.1), scalar(2.5)])
    check("Pow", [f(4), i64(2)], opset=13)
    check("Pow", [i64(2, 3), i64(3, 2)])


@pytest.mark.parametrize("op_type", ["Sum", "Mean", "Max", "Min"])
def test_variadic(op_type):
    check(op_type, [f(2, 3), f(3), f(2, 1)])


def test_where_and_cast():
    check("Where", [f(3, 1) > 0, f(1, 4), f(3, 4)])
    check("Cast", [f(5, high=100.0)], to=7)
    check("Cast", [i64(0, 1, -1)], to=1)
    check("Cast", [i64(0, 1, -1)], to=9)


def test_prelu():
    check("PRelu", [f(2, 3, 4, 4), f(3, 1, 1)], constant=[1])


@pytest.mark.parametrize(
    ("opset", "inputs", "attributes"),
    [
        (9, [f(9)], {"min": -1.0, "max": 0.5}),
        (10, [f(9)], {"min": 0.0}),
        (11, [f(9), scalar(-1.0), scalar(0.5)], {}),
        (13, [f(9), None, scalar(0.5)], {}),
        (13, [f(9), scalar(1.0), scalar(-1.0)], {}),
        (13, [i64(-5, 0, 5), scalar(-1, np.int64), scalar(2, np.int64)], {}),
    ],
)
def test_clip(opset, inputs, attributes):
    check(
        "Clip", inputs, opset, constant=[i for i in (1, 2) if i < len(inputs) and inputs[i] is not None], **attributes
    )


def test_clip_with_computed_bounds():
    check("Clip", [f(9), scalar(-0.5), scalar(0.5)])


@pytest.mark.parametrize(
    ("x", "w", "attributes"),
    [
        ((1, 4, 9, 8), (6, 4, 3, 3), {"pads": [1, 1, 1, 1]}),
        ((2, 4, 9, 8), (6, 2, 3, 2), {"group": 2, "strides": [2, 1], "pads": [0, 1, 2, 0]}),
        ((1, 4, 9), (4, 1, 3), {"group": 4, "dilations": [2]}),
        ((1, 2, 5, 6, 7), (3, 2, 2, 3, 2), {"strides": [1, 2, 1]}),
        ((1, 2, 7, 8), (3, 2, 3, 3), {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
        ((1, 2, 7, 8), (3, 2, 4, 3), {"auto_pad": "SAME_LOWER", "strides": [2, 3]}),
        ((1, 2, 7, 8), (3, 2, 3, 3), {"auto_pad": "VALID"}),
    ],
)
@pytest.mark.parametrize("bias", [True, False])
def test_conv(x, w, attributes, bias):
    inputs = [f(*x), f(*w), *([f(w[0])] if bias else [])]
    check("Conv", inputs, 11, constant=range(1, len(inputs)), **attributes)


@pytest.mark.parametrize(
    ("x", "w", "attributes"),
    [
        ((1, 4, 5, 4), (4, 3, 3, 3), {"strides": [2, 2], "pads": [1, 1, 1, 1], "output_padding": [1, 1]}),
        ((1, 4, 5), (4, 2, 3), {"group": 2, "strides": [3]}),
        ((1, 2, 3, 4, 3), (2, 3, 2, 2, 2), {"strides": [2, 1, 2]}),
        ((1, 2, 5, 4), (2, 3, 3, 3), {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
        ((1, 2, 5, 4), (2, 3, 3, 3), {"auto_pad": "SAME_LOWER", "strides": [2, 2]}),
        ((1, 2, 5, 4), (2, 3, 4, 3), {"output_shape": [9, 8], "strides": [2, 2]}),
        ((1, 2, 5, 4), (2, 3, 3, 3), {"dilations": [2, 2]}),
    ],
)
def test_conv_transpose(x, w, attributes):
    """Trap 22: SAME_UPPER and SAME_LOWER must not be swapped."""
    check("ConvTranspose", [f(*x), f(*w)], 11, constant=[1], **attributes)


def test_an_empty_auto_pad_says_that_pads_are_given():
    pads = {"pads": [1, 0, 2, 1], "strides": [2, 2], "auto_pad": ""}
    x, w = f(1, 2, 5, 4), f(2, 2, 3, 3)
    for op_type in ("Conv", "ConvTranspose"):
        empty, feeds = single(op_type, [x, w], 11, [1], **pads)
        given, _ = single(op_type, [x, w], 11, [1], **{**pads, "auto_pad": "NOTSET"})
        assert_close(evaluate(from_onnx(empty), feeds), run_ort(given, feeds))


POOLS = [
    {"kernel_shape": [3, 2], "strides": [2, 2], "pads": [1, 0, 1, 1]},
    {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1},
    {"kernel_shape": [3, 3], "strides": [2, 2], "auto_pad": "SAME_UPPER"},
    {"kernel_shape": [2, 2], "strides": [2, 2], "auto_pad": "SAME_LOWER"},
    {"kernel_shape": [2, 3], "auto_pad": "VALID"},
]


@pytest.mark.parametrize("attributes", POOLS)
def test_max_pool(attributes):
    check("MaxPool", [f(1, 2, 8, 7)], 12, **attributes)
    if "auto_pad" not in attributes:
        check("MaxPool", [f(1, 2, 9, 8)], 12, dilations=[2, 2], **attributes)


@pytest.mark.parametrize("attributes", POOLS)
@pytest.mark.parametrize("include", [0, 1])
def test_average_pool(attributes, include):
    check("AveragePool", [f(1, 2, 8, 7)], 19, count_include_pad=include, **attributes)


@pytest.mark.parametrize("op_type", ["GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"])
def test_global_pool(op_type):
    check(op_type, [f(2, 3, 4, 5)])


def test_lp_pool():
    check("LpPool", [f(1, 2, 6, 6)], kernel_shape=[2, 3], strides=[1, 2], p=3)


@pytest.mark.parametrize("pads", [None, [1, 0, 0, 1]])
@pytest.mark.parametrize("dilations", [None, [1, 2]])
def test_lp_pool_with_ceil_mode(pads, dilations):
    given = {name: value for name, value in (("pads", pads), ("dilations", dilations)) if value}
    check("LpPool", [f(1, 2, 7, 8)], 18, kernel_shape=[2, 3], strides=[2, 2], p=2, ceil_mode=1, **given)


@pytest.mark.parametrize(
    "attributes",
    [{}, {"transA": 1}, {"transB": 1}, {"alpha": 0.5, "beta": 2.0}, {"transA": 1, "transB": 1, "alpha": 2.0}],
)
@pytest.mark.parametrize("c", [None, (6,), (1, 6), (4, 1), (4, 6), ()])
@pytest.mark.parametrize("constant", [[1], []], ids=["constant B", "B as input"])
def test_gemm(attributes, c, constant):
    a = f(5, 4) if attributes.get("transA") else f(4, 5)
    b = f(6, 5) if attributes.get("transB") else f(5, 6)
    check("Gemm", [a, b, *([] if c is None else [f(*c)])], 11, constant=constant, **attributes)


def test_gemm_without_its_addend_does_not_look_at_it():
    a, b, c = f(4, 5), f(5, 6), np.full((4, 6), np.inf, np.float32)
    check("Gemm", [a, b, c], 11, constant=[1], beta=0.0)
    check("Gemm", [a, b, c], 11, beta=0.0, alpha=0.5)


@pytest.mark.parametrize(("a", "b"), [((3, 4), (4, 5)), ((2, 1, 3, 4), (5, 4, 2)), ((4,), (4, 5)), ((3, 4), (4,))])
def test_matmul(a, b):
    check("MatMul", [f(*a), f(*b)])


@pytest.mark.parametrize("opset", [9, 14, 15])
def test_batch_norm(opset):
    check(
        "BatchNormalization",
        [f(2, 3, 4, 5), f(3), f(3), f(3), f(3, low=0.1)],
        opset,
        constant=[1, 2, 3, 4],
        epsilon=1e-3,
        momentum=0.8,
    )


def test_norms():
    check("LayerNormalization", [f(2, 3, 4), f(4), f(4)], constant=[1, 2], epsilon=1e-4)
    check("LayerNormalization", [f(2, 3, 4), f(3, 4)], constant=[1], axis=1)
    check("LayerNormalization", [f(2, 3, 4), f(4), f(4)], outputs=3)
    check("InstanceNormalization", [f(2, 3, 4, 5), f(3), f(3)], constant=[1, 2])
    check("GroupNormalization", [f(2, 4, 3, 5), f(2), f(2)], opset=18, num_groups=2)
    check("GroupNormalization", [f(2, 4, 3, 5), f(4), f(4)], opset=21, num_groups=2)
    check("LpNormalization", [f(2, 4, 3)], axis=1, p=1)
    check("LpNormalization", [np.zeros((2, 3), np.float32)], axis=1)
    check("LRN", [f(2, 7, 3, 4)], size=5, alpha=0.3, beta=0.6, bias=1.5)
    check("MeanVarianceNormalization", [f(2, 3, 4, 5)])


@pytest.mark.parametrize("op_type", ["Softmax", "LogSoftmax"])
@pytest.mark.parametrize(("opset", "axis"), [(9, 1), (9, 2), (11, 0), (11, 3), (11, -1), (13, 1), (13, -1)])
def test_softmax_axis_changed_its_meaning(op_type, opset, axis):
    """Trap 8: before opset 13 all dimensions from the axis on are one."""
    check(op_type, [f(2, 3, 4, 5)], opset, axis=axis)
    check(op_type, [f(2, 3, 4, 5)], opset)


REDUCTIONS = ["Sum", "Mean", "Max", "Min", "Prod", "L1", "L2", "SumSquare", "LogSum", "LogSumExp"]


@pytest.mark.parametrize("kind", REDUCTIONS)
def test_reduce(kind):
    x = f(2, 3, 4, low=0.1)
    before = 11 if kind == "Sum" else 13
    check(f"Reduce{kind}", [x], before, axes=[1, -1])
    check(f"Reduce{kind}", [x], before, axes=[0], keepdims=0)
    check(f"Reduce{kind}", [x], before)
    check(f"Reduce{kind}", [x, i64(-1, 0)], 18, constant=[1])
    check(f"Reduce{kind}", [x], 18, keepdims=0)
    check(f"Reduce{kind}", [x], 18, noop_with_empty_axes=1)


@pytest.mark.parametrize("op_type", ["ArgMax", "ArgMin"])
def test_arg_reduce(op_type):
    x = np.array([[1, 3, 3], [2, 2, 0]], np.float32)
    check(op_type, [x], 13, axis=1)
    check(op_type, [x], 13, axis=-1, keepdims=0, select_last_index=1)


def test_reshape():
    check("Reshape", [f(2, 3, 4), i64(0, -1)], constant=[1])
    check("Reshape", [f(2, 3, 4), i64(4, 6)], constant=[1])
    check("Reshape", [f(0, 3), i64(3, 0)], constant=[1], allowzero=1)
    check("Flatten", [f(2, 3, 4)], axis=2)
    check("Flatten", [f(2, 3, 4)], axis=-1)
    check("Flatten", [f(2, 3, 4)], axis=0)


def test_squeeze_and_unsqueeze():
    check("Squeeze", [f(1, 3, 1)], 11, axes=[0, -1])
    check("Squeeze", [f(1, 3, 1)], 13)
    check("Squeeze", [f(1, 3, 1), i64(-1)], 13, constant=[1])
    check("Unsqueeze", [f(3)], 11, axes=[0, 2])
    check("Unsqueeze", [f(3), i64(-1, 0)], 13, constant=[1])


def test_transpose_and_concat():
    check("Transpose", [f(2, 3, 4)])
    check("Transpose", [f(2, 3, 4)], perm=[2, 0, 1])
    check("Concat", [f(2, 3), f(2, 1), f(2, 4)], axis=-1)


def test_split():
    check("Split", [f(6, 3)], 11, outputs=3)
    check("Split", [f(6, 3)], 11, outputs=2, split=[2, 4])
    check("Split", [f(2, 6), i64(1, 5)], 13, constant=[1], outputs=2, axis=-1)
    check("Split", [f(7, 3)], 18, outputs=3, num_outputs=3)


def test_slice():
    x = f(5, 6, 7)
    check("Slice", [x], 9, starts=[1, -3], ends=[4, 2**31], axes=[0, 2])
    check("Slice", [x, i64(1, 5), i64(2**62, -(2**62)), i64(-1, 1), i64(2, -2)], 10, constant=[1, 2, 3, 4])
    check("Slice", [x, i64(-10), i64(10)], 13, constant=[1, 2])
    check("Slice", [x, i64(3), i64(3)], 13, constant=[1, 2])
    check("Slice", [x, i64(0), i64(5), i64(0), i64(2**30)], 13, constant=[1, 2, 3, 4])
    check("Slice", [x, i64(-9, -7), i64(-(2**40), -9), i64(0, 1), i64(-1, -2)], 13, constant=[1, 2, 3, 4])


def test_pad():
    x = f(2, 3, 4)
    check("Pad", [x], 9, pads=[0, 1, 2, 0, 1, 0], value=1.5)
    check("Pad", [x, i64(0, 1, 2, 0, 1, 0), scalar(2.5)], 13, constant=[1, 2])
    check("Pad", [x, i64(0, 1, 2, 0, 1, 1)], 13, constant=[1], mode="reflect")
    check("Pad", [x, i64(0, -1, 2, 0, 1, -1)], 13, constant=[1], mode="edge")
    check("Pad", [x, i64(1, 2), None, i64(2)], 18, constant=[1, 3])
    check("Pad", [x, i64(0, 1, 2, 0, 1, 1)], 19, constant=[1], mode="wrap")


def test_expand_tile_gather():
    check("Expand", [f(3, 1), i64(2, 1, 4)], constant=[1])
    check("Expand", [f(3, 4), i64(1)], constant=[1])
    check("Tile", [f(2, 3), i64(2, 3)], constant=[1])
    x = f(4, 5)
    check("Gather", [x, i64(0, -1, 2)])
    check("Gather", [x, i64(3, 1)], constant=[1], axis=1)
    check("Gather", [x, scalar(-2, np.int64)], constant=[1], axis=1)
    check("Gather", [x, i64(1, 4, 2)], constant=[1], axis=-1)
    check("Gather", [x, i64(0, 1, 2, 3).reshape(2, 2)], constant=[1])


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
def test_depth_to_space(mode):
    check("DepthToSpace", [f(1, 8, 2, 3)], 13, blocksize=2, mode=mode)
    check("SpaceToDepth", [f(1, 2, 4, 6)], 13, blocksize=2)


def test_fillers():
    check("ConstantOfShape", [i64(2, 3)], constant=[0])
    check("Range", [scalar(1.0), scalar(4.0), scalar(0.7)], constant=[0, 1, 2])
    check("Range", [scalar(9, np.int64), scalar(1, np.int64), scalar(-3, np.int64)], constant=[0, 1, 2])
    check("EyeLike", [f(3, 4)], k=1)
    check("Trilu", [f(2, 3, 4), scalar(1, np.int64)], constant=[1], upper=0)
    check("OneHot", [i64(0, 2, -1), scalar(3, np.int64), f(2)], constant=[1, 2])


def test_shape_and_size():
    check("Shape", [f(2, 3, 4)], 13)
    check("Shape", [f(2, 3, 4)], 15, start=1, end=-1)
    check("Size", [f(2, 3, 4)])


def test_dropout_is_dropped():
    check("Dropout", [f(3, 4)], 9, ratio=0.3)
    check("Dropout", [f(3, 4), scalar(0.3)], 13, constant=[1])
    check("Dropout", [f(3, 4), scalar(0.3)], 13, constant=[1], outputs=2)


COORDINATES = ["half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric"]


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize("coordinates", COORDINATES)
@pytest.mark.parametrize("scale", [2.0, 1.7, 0.6])
def test_resize(mode, coordinates, scale):
    """Trap 29. Under align_corners ONNX means extent * scale even where that is no integer; ONNX Runtime rounds it."""
    if coordinates == "align_corners" and scale != 2.0:
        pytest.skip("ONNX and ONNX Runtime differ")
    scales = np.array([1, 1, scale, scale], np.float32)
    attributes = {"mode": mode, "coordinate_transformation_mode": coordinates}
    if mode == "nearest":
        attributes["nearest_mode"] = "floor"
    check("Resize", [f(1, 2, 5, 7), None, scales], 13, constant=[2], tolerance=1e-4, **attributes)


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize("scale", [1.7, 0.6])
def test_corners_as_pytorch_means_them(mode, scale):
    """Those of the elements that there are, as ONNX Runtime has it."""
    scales = np.array([1, 1, scale, scale], np.float32)
    attributes = {"mode": mode, "coordinate_transformation_mode": "align_corners"}
    proto, feeds = single("Resize", [f(1, 2, 5, 7), None, scales], 13, [2], 1, **attributes)
    proto.producer_name = "pytorch"
    assert_agrees(proto, feeds, 1e-4)


@pytest.mark.parametrize("op_type", ["MaxPool", "AveragePool"])
def test_pools_whose_only_window_ends_beyond_the_padding(op_type):
    check(op_type, [f(1, 4, 1, 1)], kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1)
    check(op_type, [f(1, 4, 2, 3)], kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1)


@pytest.mark.parametrize("rounding", ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"])
def test_resize_rounding(rounding):
    """Trap 28: ties."""
    scales = np.array([1, 1, 2, 0.5], np.float32)
    for coordinates in ("half_pixel", "asymmetric"):
        check("Resize", [f(1, 2, 4, 8), None, scales], 13, constant=[2], coordinate_transformation_mode=coordinates,
              nearest_mode=rounding)  # fmt: skip


def test_resize_by_sizes():
    empty = np.zeros(0, np.float32)
    check("Resize", [f(1, 2, 5, 7), empty, empty, i64(1, 2, 8, 3)], 11, constant=[1, 2, 3], mode="linear")
    check("Resize", [f(1, 2, 5, 7), None, None, i64(8, 3)], 18, constant=[3], mode="linear", axes=[2, 3])
    for policy in ("not_larger", "not_smaller"):
        attributes = {"mode": "linear", "axes": [2, 3], "keep_aspect_ratio_policy": policy}
        check("Resize", [f(1, 2, 5, 7), None, None, i64(8, 12)], 18, constant=[3], **attributes)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int32])
@pytest.mark.parametrize("coordinates", ["half_pixel", "asymmetric"])
def test_resize_of_integers(dtype, coordinates):
    """By factors whose weights are exact, since what is just below an integer becomes the next lower one."""
    x = np.random.default_rng(0).integers(-100, 101, (1, 3, 5, 7)).astype(dtype)
    scales = np.float32([1, 1, 2, 4])
    check("Resize", [x, None, scales], 13, constant=[2], mode="linear", coordinate_transformation_mode=coordinates)
    if dtype is not np.int8:
        check("Upsample", [x, scales], 9, constant=[1], mode="linear")


def test_resize_antialias():
    check("Resize", [f(1, 1, 9, 8), None, None, i64(4, 3)], 18, constant=[3], mode="linear", axes=[2, 3], antialias=1,
          tolerance=1e-4)  # fmt: skip


def test_resize_crop():
    roi = np.array([0, 0, 0.2, 0.1, 1, 1, 0.9, 1.2], np.float32)
    check("Resize", [f(1, 1, 6, 7), roi, None, i64(1, 1, 4, 5)], 13, constant=[1, 3], mode="linear",
          coordinate_transformation_mode="tf_crop_and_resize", extrapolation_value=3.0)  # fmt: skip


@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_upsample_and_resize_10(mode):
    scales = np.array([1, 1, 2, 3], np.float32)
    check("Upsample", [f(1, 2, 3, 4), scales], 9, constant=[1], mode=mode)
    check("Resize", [f(1, 2, 3, 4), scales], 10, constant=[1], mode=mode)


@pytest.mark.parametrize("scales", [(0.6, 0.6), (0.75, 1.7), (2, 0.3), (1, 0.1)])
def test_resize_10_takes_the_element_above_where_it_shrinks(scales):
    check("Resize", [f(1, 2, 5, 13), np.array([1, 1, *scales], np.float32)], 10, constant=[1])
    proto, feeds = single(
        "Resize", [np.arange(1, 9, dtype=np.float32).reshape(1, 1, 2, 4), np.float32([1, 1, 0.6, 0.6])], 10, [1]
    )
    np.testing.assert_array_equal(evaluate(from_onnx(proto), feeds)["y"].reshape(-1), [1, 3])


@pytest.mark.parametrize("pads", [(0, 0, -1, -2), (1, 0, -3, 1)])
def test_negative_pads_at_the_end_of_a_transposed_convolution_append(pads):
    """ONNX Runtime refuses them; they mean what output_padding does."""
    x, w = f(1, 4, 5, 6), f(4, 3, 2, 3)
    results = []
    for attributes in ({"pads": pads}, {"pads": np.maximum(pads, 0), "output_padding": -np.minimum(pads[2:], 0)}):
        proto, feeds = single("ConvTranspose", [x, w], 17, (1,), strides=[3, 4], **attributes)
        results.append(evaluate(from_onnx(proto), feeds)["y"])
    np.testing.assert_array_equal(*results)


def test_negative_pads_in_front_of_a_transposed_convolution_are_refused():
    proto, _ = single("ConvTranspose", [f(1, 4, 5, 6), f(4, 3, 2, 3)], 17, (1,), pads=[-1, 0, 0, 0])
    with pytest.raises(UnsupportedError, match="negative at the beginning"):
        from_onnx(proto)
