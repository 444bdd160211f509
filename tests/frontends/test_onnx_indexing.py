"""Indexing, ordering, sampling and normalisation operators in every form they had, against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper
from onnx_support import assert_agrees, check, i64, model, single, value_info

from glulam.compiler.errors import ModelFileError, UnsupportedError
from glulam.compiler.graph.evaluate import evaluate
from glulam.frontends.onnx import from_onnx

RNG = np.random.default_rng(3)


def f(*shape, low=-2.0, high=2.0):
    return RNG.uniform(low, high, shape).astype(np.float32)


def places(low, high, *shape):
    return RNG.integers(low, high, shape)


@pytest.mark.parametrize(
    ("op_type", "inputs", "opset", "attributes"),
    [
        ("GatherElements", [f(3, 5), places(-5, 5, 3, 7)], 13, {"axis": 1}),
        ("GatherElements", [f(3, 5), places(-5, 5, 2, 4).astype(np.int32)], 11, {"axis": -1}),
        ("GatherND", [f(3, 5, 2), places(-3, 3, 4, 1)], 11, {}),
        ("GatherND", [f(3, 5, 2), places(-5, 5, 3, 4, 1)], 13, {"batch_dims": 1}),
        ("Scatter", [f(3, 5), i64([0, 2, 1, 2, 0]), f(1, 5)], 9, {}),
        ("ScatterElements", [f(3, 5), i64([1, -2]), f(1, 2)], 11, {"axis": 1}),
        ("ScatterElements", [f(3, 5), places(-3, 3, 4, 5), f(4, 5)], 16, {"reduction": "add"}),
        ("ScatterElements", [f(3, 5), places(-3, 3, 4, 5), f(4, 5)], 18, {"reduction": "max"}),
        ("ScatterND", [f(4, 5), i64([1], [-1]), f(2, 5)], 13, {}),
        ("ScatterND", [f(4, 5), i64([1, 1], [1, 1]), f(2)], 16, {"reduction": "mul"}),
        ("ScatterND", [f(4, 5), i64([1], [1]), f(2, 5)], 18, {"reduction": "min"}),
        ("Hardmax", [f(2, 3, 4)], 11, {"axis": 1}),
        ("Hardmax", [f(2, 3, 4)], 13, {"axis": 1}),
        ("Hardmax", [f(2, 0, 4)], 11, {"axis": 1}),
        ("Hardmax", [f(2, 0, 4)], 13, {"axis": 1}),
        ("ReverseSequence", [f(4, 3, 2), i64(4, 1, 2)], 10, {}),
        ("ReverseSequence", [f(3, 4, 2), i64(4, 1, 2)], 10, {"batch_axis": 0, "time_axis": 1}),
        ("Einsum", [f(2, 3, 4), f(2, 4, 5)], 12, {"equation": "bij, bjk -> bik"}),
        ("Einsum", [f(3, 3)], 12, {"equation": "ii"}),
        ("Einsum", [f(2, 3, 4), f(4)], 12, {"equation": "...j,j"}),
        ("GridSample", [f(1, 2, 5, 4), f(1, 3, 6, 2)], 16, {"mode": "bicubic"}),
        ("GridSample", [f(1, 2, 5, 4), f(1, 3, 6, 2)], 16, {"padding_mode": "reflection"}),
        ("GridSample", [f(1, 2, 3, 5, 4), f(1, 3, 6, 2, 3)], 20, {"mode": "linear", "align_corners": 1}),
        ("Det", [f(2, 3, 4, 4)], 11, {}),
        ("LRN", [f(2, 7, 3, 4)], 13, {"size": 3, "alpha": 0.5, "beta": 0.6, "bias": 2.0}),
        ("InstanceNormalization", [f(2, 3, 4, 5), f(3), f(3)], 6, {"epsilon": 1e-3}),
        ("LpNormalization", [f(2, 3, 4)], 1 + 8, {"axis": 1, "p": 1}),
        ("MeanVarianceNormalization", [f(2, 3, 4, 5)], 13, {}),
        ("MeanVarianceNormalization", [f(2, 3, 4, 5)], 9, {"axes": [1, 2]}),
    ],
)
def test_operator(op_type, inputs, opset, attributes):
    check(op_type, inputs, opset, **attributes)


BOXES = np.array([[0, 0, 6, 5], [0, 1, 3, 7.5], [1, 0.5, 7, 5], [2, 2, 2.5, 2.5]], np.float32)


@pytest.mark.parametrize(("opset", "offset"), [(10, None), (16, "half_pixel"), (16, "output_half_pixel")])
@pytest.mark.parametrize("mode", ["avg", "max"])
def test_regions_with_samples_by_their_size(opset, offset, mode):
    where = {"coordinate_transformation_mode": offset} if offset else {}
    inputs = [f(2, 3, 7, 8), BOXES, i64(0, 1, 1, 0)]
    size = {"output_height": 2, "output_width": 3}
    check("RoiAlign", inputs, opset, constant=[1], spatial_scale=0.9, mode=mode, **size, **where)


@pytest.mark.parametrize("scale", [1.0, 0.6])
def test_largest_elements_of_regions(scale):
    boxes = np.concatenate([np.float32([[0], [1], [1], [0]]), BOXES * 2 - 3], 1)
    for size in ([2, 3], [7, 7]):
        check("MaxRoiPool", [f(2, 3, 7, 8), boxes], 11, pooled_shape=size, spatial_scale=scale)


@pytest.mark.parametrize("op_type", ["Tan", "Asin", "Acos", "Atan", "Sinh", "Cosh", "Asinh", "Atanh"])
def test_trigonometry(op_type):
    check(op_type, [f(3, 7, low=-0.95, high=0.95)])


def test_group_normalisation_per_group_and_per_channel():
    check("GroupNormalization", [f(2, 6, 5), f(3), f(3)], 18, num_groups=3)
    check("GroupNormalization", [f(2, 6, 5), f(6), f(6)], 21, num_groups=3)


@pytest.mark.parametrize("axis", [-1, 1])
def test_top_k(axis):
    x = f(3, 7, 5)
    check("TopK", [x, i64(3)], 11, [1], 2, axis=axis)
    check("TopK", [x, i64(3)], 11, [1], 2, axis=axis, largest=0)
    check("TopK", [x, i64(3)], 10, [1], 2, axis=axis)


def test_top_k_by_attribute():
    proto, feeds = single("TopK", [f(3, 7)], 9, (), 2, axis=1, k=2)
    values = evaluate(from_onnx(proto), feeds)
    np.testing.assert_array_equal(values["y0"], -np.sort(-feeds["x0"], 1)[:, :2])


@pytest.mark.parametrize("attributes", [{}, {"exclusive": 1}, {"reverse": 1}, {"exclusive": 1, "reverse": 1}])
def test_cum_sum(attributes):
    check("CumSum", [f(3, 7), np.array(1)], 14, [1], **attributes)
    check("CumSum", [f(3, 7), np.array(-2, np.int32)], 11, [1], **attributes)


@pytest.mark.parametrize("attributes", [{}, {"axis": 1}, {"axis": -2}])
def test_compress_of_a_constant_condition(attributes):
    condition = np.array([True, False, True])
    check("Compress", [f(3, 4), condition], 11, [1], **attributes)


def test_compress_of_a_computed_condition_is_refused():
    proto, _ = single("Compress", [f(3, 4), np.array([True, False, True])], 11)
    with pytest.raises(UnsupportedError, match="condition"):
        from_onnx(proto)


@pytest.mark.parametrize("shape", [(3, 5), (7,), (0, 2)])
def test_non_zero_of_a_constant(shape):
    nodes = [
        onnx.helper.make_node("NonZero", ["x"], ["places"]),
        onnx.helper.make_node("Mul", ["places", "a"], ["y"]),
    ]
    x = (RNG.random(shape) > 0.4).astype(np.float32)
    assert_agrees(model(nodes, [value_info("a", i64(3))], constants={"x": x}), {"a": i64(3)})


def put(mask, x, number, perm=(1, 0)):
    """x[mask] = number, as exporters write it."""
    nodes = [
        onnx.helper.make_node("NonZero", ["mask"], ["columns"]),
        onnx.helper.make_node("Transpose", ["columns"], ["rows"], perm=perm),
        onnx.helper.make_node("Cast", ["mask"], ["kept"], to=onnx.TensorProto.BOOL),
        onnx.helper.make_node("Cast", ["kept"], ["ones"], to=onnx.TensorProto.INT64),
        onnx.helper.make_node("ReduceSum", ["ones"], ["count"], keepdims=0),
        onnx.helper.make_node("Reshape", ["count", "one"], ["count1"]),
        onnx.helper.make_node("Concat", ["count1", "rest"], ["shape"], axis=0),
        onnx.helper.make_node("Expand", ["number", "shape"], ["numbers"]),
        onnx.helper.make_node("Reshape", ["numbers", "shape"], ["updates"]),
        onnx.helper.make_node("ScatterND", ["x", "rows", "updates"], ["y"]),
    ]
    feeds = {"mask": mask, "x": x}
    constants = {"one": i64(1), "rest": i64(*x.shape[mask.ndim :]), "number": number}
    inputs = [value_info(name, array) for name, array in feeds.items()]
    return model(nodes, inputs, constants=constants), feeds


@pytest.mark.parametrize("number", [np.float32(-3), f(1, 1)])
def test_a_number_put_where_a_mask_says(number):
    assert_agrees(*put(RNG.random((3, 5)) > 0.4, f(3, 5, 2), number))
    assert_agrees(*put(places(-1, 2, 3, 5), f(3, 5), number.reshape(())))


def test_as_many_elements_as_the_inputs_decide_are_refused():
    proto, _ = single("NonZero", [f(3, 4)], 13)
    with pytest.raises(UnsupportedError, match=r"output 'y': how many elements it has is computed"):
        from_onnx(proto)
    proto, _ = put(RNG.random((2, 3)) > 0.4, f(2, 3), np.float32(1), perm=(0, 1))
    with pytest.raises(UnsupportedError, match=r"'rows'.*how many elements an input has is computed"):
        from_onnx(proto)
    proto, _ = put(RNG.random((2, 3)) > 0.4, f(2, 4), np.float32(1))
    with pytest.raises(UnsupportedError, match=r"ScatterND 'y': places in bool\[2,3\]"):
        from_onnx(proto)


def test_center_crop_pad():
    check("CenterCropPad", [f(5, 6), i64(3, 9)], 18, [1])
    check("CenterCropPad", [f(5, 6, 3), i64(8, 2)], 18, [1], axes=[0, 2])


@pytest.mark.parametrize(
    "attributes",
    [{}, {"strides": [2, 1]}, {"dilations": [1, 2]}, {"pads": [1, 0, 2, 1]}, {"strides": [2, 2], "pads": [1, 1, 1, 1]}],
)
def test_col2im(attributes):
    image, kernel = (7, 6), (3, 2)
    strides, dilations = attributes.get("strides", [1, 1]), attributes.get("dilations", [1, 1])
    pads = attributes.get("pads", [0, 0, 0, 0])
    counts = [(image[d] + pads[d] + pads[d + 2] - dilations[d] * (kernel[d] - 1) - 1) // strides[d] + 1 for d in (0, 1)]
    x = f(2, 3 * 6, counts[0] * counts[1])
    check("Col2Im", [x, i64(*image), i64(*kernel)], 18, [1, 2], **attributes)


@pytest.mark.parametrize("align_corners", [0, 1])
@pytest.mark.parametrize("size", [(2, 3, 4, 5), (2, 1, 3, 4, 5)])
def test_affine_grid(size, align_corners):
    rank = len(size) - 2
    check("AffineGrid", [f(2, rank, rank + 1), i64(*size)], 20, [1], align_corners=align_corners)


def test_bit_shift():
    x, y = np.arange(8, dtype=np.uint8), np.arange(8, dtype=np.uint8)
    check("BitShift", [x, y], 11, direction="LEFT")
    check("BitShift", [np.full(8, 200, np.uint8), y], 11, direction="RIGHT")


def test_attributes_of_a_call_reach_the_functions_inside():
    """SoftmaxCrossEntropyLoss is defined by NegativeLogLikelihoodLoss, which is defined by others in turn."""
    proto, feeds = single("SoftmaxCrossEntropyLoss", [f(3, 5), i64(0, 4, 2)], 13, reduction="none")
    assert_agrees(proto, feeds)
    proto, feeds = single("SoftmaxCrossEntropyLoss", [f(3, 5), i64(0, 4, 2)], 13, reduction="sum", ignore_index=4)
    assert_agrees(proto, feeds)


@pytest.mark.parametrize(
    ("op_type", "inputs", "attributes"),
    [
        ("TopK", [f(3), i64(4)], {}),
        ("TopK", [f(3), i64(-1)], {}),
        ("GatherND", [f(3), i64([1, 2])], {}),
        ("GatherElements", [f(3, 2), i64([0, 1, 0])], {"axis": 0}),
        ("ScatterND", [f(3, 2), i64([0]), f(3)], {}),
        ("ScatterElements", [f(3), i64(0), f(1)], {"reduction": "median"}),
        ("Einsum", [f(2, 3)], {"equation": "ij,jk"}),
        ("Einsum", [f(2, 3)], {"equation": "i->j"}),
        ("GridSample", [f(1, 1, 2, 2), f(1, 2, 2, 3)], {}),
        ("GridSample", [f(1, 1, 2, 2), f(1, 2, 2, 2)], {"mode": "quintic"}),
        ("Det", [f(2, 3)], {}),
        ("MaxRoiPool", [f(1, 1, 2, 2), f(1, 5)], {"pooled_shape": [2]}),
        ("MaxRoiPool", [f(1, 1, 2, 2), f(1, 4)], {"pooled_shape": [2, 2]}),
        ("RoiAlign", [f(1, 1, 2, 2), np.zeros((1, 4), np.float32), i64(0)], {"sampling_ratio": 0}),
        ("RoiAlign", [f(1, 1, 2, 2), f(1, 4), i64(0)], {"sampling_ratio": -1}),
        ("Col2Im", [f(1, 4, 5), i64(3, 3), i64(2, 2)], {}),
        ("CenterCropPad", [f(2, 3), i64(1)], {}),
        ("AffineGrid", [f(2, 2, 3), i64(1, 1, 2, 2)], {}),
        ("ReverseSequence", [f(2, 3), i64(1)], {}),
        ("GroupNormalization", [f(1, 3, 2), f(3), f(3)], {"num_groups": 2}),
        ("LRN", [f(1, 3, 2)], {"size": 0}),
    ],
)
def test_malformed(op_type, inputs, attributes):
    """Typed errors at import, constants or not."""
    proto, _ = single(op_type, inputs, 21, range(1, len(inputs)), **attributes)
    with pytest.raises((ModelFileError, UnsupportedError)):
        from_onnx(proto)


def test_a_huge_index_constant_costs_nothing():
    node = onnx.helper.make_node("OneHot", ["x", "depth", "values"], ["y"])
    stored = {"depth": np.array(1 << 40), "values": np.array([0.0, 1.0], np.float32)}
    proto = model([node], [value_info("x", i64(1, 2))], constants=stored)
    with pytest.raises((ModelFileError, UnsupportedError)):
        from_onnx(proto)


def test_stft_of_a_real_signal_without_its_last_axis():
    inputs = [f(2, 40), np.array(5), np.hanning(16).astype(np.float32), np.array(16)]
    check("STFT", inputs, 17, [1, 2, 3], onesided=1)


@pytest.mark.parametrize("ordered", [0, 1])
@pytest.mark.parametrize(("shape", "axis"), [((7,), None), ((2, 3, 4), None), ((9, 2), 0), ((2, 9), -1)], ids=str)
def test_unique_elements_of_what_is_known(shape, axis, ordered):
    x = np.random.default_rng(1).integers(0, 3, shape)
    attributes = {"sorted": ordered} | ({} if axis is None else {"axis": axis})
    proto, feeds = single("Unique", [x], 17, (0,), 4, **attributes)
    proto.graph.node.append(helper.make_node("Identity", ["z"], ["z_out"]))  # so that a run has something to do
    proto.graph.input.append(value_info("z", f(2)))
    proto.graph.output.append(helper.make_tensor_value_info("z_out", 1, [2]))
    assert_agrees(proto, {**feeds, "z": f(2)})


DYNAMIC = helper.make_node("Slice", ["x", "starts", "ends", "axes"], ["y"])


@pytest.mark.parametrize(
    ("starts", "sizes"), [((1, 2), (2, 3)), ((0, 4), (4, 1)), ((-3, -2), (2, 1)), ((2, 0), (0, 5))]
)
@pytest.mark.parametrize("first", [True, False])
def test_slices_from_starts_that_are_computed(starts, sizes, first):
    """Their sizes are known, if they are what is added for the ends."""
    added = ["starts", "sizes"] if first else ["sizes", "starts"]
    nodes = [helper.make_node("Add", added, ["ends"]), DYNAMIC]
    stored = {"sizes": np.array(sizes), "axes": np.array([-1, 1])}
    feeds = {"x": f(2, 5, 7), "starts": np.array(starts)}
    assert_agrees(model(nodes, [value_info(k, v) for k, v in feeds.items()], constants=stored), feeds)


def test_slices_that_start_too_late_give_the_last_elements():
    nodes = [helper.make_node("Add", ["starts", "sizes"], ["ends"]), DYNAMIC]
    stored = {"sizes": np.array([3]), "axes": np.array([0])}
    x, start = f(7, 2), np.array([6])
    graph = from_onnx(model(nodes, [value_info("x", x), value_info("starts", start)], constants=stored))
    np.testing.assert_array_equal(evaluate(graph, {"x": x, "starts": start})["y"], x[4:])


@pytest.mark.parametrize(
    ("sizes", "steps", "why"), [([3], [2], "steps"), ([9], [1], "9 elements .* of the 7"), (None, [1], "starts")]
)
def test_other_slices_from_computed_starts_are_refused(sizes, steps, why):
    nodes = [
        helper.make_node("Add" if sizes else "Mul", ["starts", "sizes"], ["ends"]),
        helper.make_node("Slice", ["x", "starts", "ends", "axes", "steps"], ["y"]),
    ]
    stored = {"sizes": np.array(sizes or [2]), "axes": np.array([0]), "steps": np.array(steps)}
    infos = [value_info("x", f(7, 2)), value_info("starts", np.array([1]))]
    with pytest.raises(UnsupportedError, match=why):
        from_onnx(model(nodes, infos, constants=stored))
