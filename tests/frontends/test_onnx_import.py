"""Importing whole models: shapes, weights in every form, shape arithmetic, branches, functions, refusals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx_support import assert_agrees, assert_close, model, run_ort, untyped, value_info, x_info

from glulam.compiler import ops
from glulam.compiler.errors import GlulamError, ShapeError, UnsupportedError
from glulam.compiler.graph.evaluate import evaluate
from glulam.frontends.onnx import from_onnx

RNG = np.random.default_rng(3)


def f(*shape):
    return RNG.uniform(-1, 1, shape).astype(np.float32)


def node(op_type, inputs, outputs, **attributes):
    """A node called the_<op_type>_<its first output>."""
    names = outputs.split()
    return helper.make_node(op_type, inputs.split(), names, name=f"the_{op_type}_{names[0]}", **attributes)


def constant(name, array):
    return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(np.asarray(array), name))


# ---- sources


def test_path_bytes_and_model_give_the_same(tmp_path):
    proto = model([node("Relu", "x", "y")], [x_info(2, 3)])
    path = tmp_path / "m.onnx"
    path.write_bytes(proto.SerializeToString())
    for source in (path, str(path), proto.SerializeToString(), proto):
        graph = from_onnx(source)
        assert list(graph.inputs) == ["x"]
        assert list(graph.outputs) == ["y"]
        assert [type(n.op) for n in graph.nodes] == [ops.Relu]


def test_names_of_the_model_are_kept():
    proto = model([node("Relu", "x", "hidden"), node("Neg", "hidden", "out:0")], [x_info(2)], ["out:0", "hidden"])
    graph = from_onnx(proto)
    assert list(graph.outputs) == ["out:0", "hidden"]
    assert [n.output.name for n in graph.nodes] == ["hidden", "out:0"]


def test_an_output_that_is_listed_twice_is_one():
    proto = model([node("Relu", "x", "y"), node("Neg", "y", "z")], [x_info(2)], ["z", "y", "z"])
    run_ort(proto, {"x": f(2)})
    assert list(from_onnx(proto).outputs) == ["z", "y"]


# ---- shapes


def test_batch_defaults_to_one_only_if_nothing_else_is_open():
    proto = model([node("Relu", "x", "y")], [x_info("N", 3, 4)])
    assert from_onnx(proto).inputs["x"].shape == (1, 3, 4)
    proto = model([node("Add", "x z", "y")], [x_info("N", 3), value_info("z", f(1), ["N", "width"])])
    with pytest.raises(ShapeError, match=r"x: \[N, 3\]\n.*z: \[N, width\]"):
        from_onnx(proto)
    with pytest.raises(ShapeError, match="dynamic"):
        from_onnx(model([node("Relu", "x", "y")], [x_info("length")]))


def test_a_pinned_symbol_holds_everywhere():
    proto = model([node("Add", "x z", "y")], [x_info("N", "w"), value_info("z", f(1), ["N", "w"])])
    graph = from_onnx(proto, {"x": (4, 5)})
    assert graph.inputs["z"].shape == (4, 5)


def test_shapes_override_static_declarations():
    proto = model([node("Relu", "x", "y")], [x_info(10, 3, 32, 32)])
    proto.graph.output[0].CopyFrom(value_info("y", f(1), (10, 3, 32, 32)))
    proto.graph.value_info.append(value_info("y2", f(1), (10, 3, 32, 32)))
    assert from_onnx(proto, {"x": [1, 3, 48, 64]}).outputs["y"].shape == (1, 3, 48, 64)
    assert from_onnx(proto, {"x": np.array([1, 3, 48, 64])}).outputs["y"].shape == (1, 3, 48, 64)


@pytest.mark.parametrize(
    "shapes", [{"z": (1,)}, {"x": (1, 2, 3)}, {"x": (1, -2)}, {"x": ("a", 2)}, {"x": (1.0, 3)}, {"x": (True, 3)}]
)
def test_wrong_shapes_are_refused(shapes):
    with pytest.raises(ShapeError, match="shapes"):
        from_onnx(model([node("Relu", "x", "y")], [x_info("N", 3)]), shapes)


def test_minus_one_is_dynamic_and_no_shape_needs_one():
    assert from_onnx(model([node("Relu", "x", "y")], [x_info(-1, 3)])).inputs["x"].shape == (1, 3)
    info = helper.make_tensor_value_info("x", TensorProto.FLOAT, None)
    with pytest.raises(ShapeError, match="no shape"):
        from_onnx(model([node("Relu", "x", "y")], [info]))
    assert from_onnx(model([node("Relu", "x", "y")], [info]), {"x": ()}).inputs["x"].shape == ()


# ---- weights


def test_weights_as_initialisers_inputs_and_constants():
    """Traps 63 and 64."""
    w, feeds = f(4, 3, 3, 3), {"x": f(1, 3, 6, 6)}
    conv = node("Conv", "x w", "y")
    as_initialiser = model([conv], [x_info(1, 3, 6, 6)], constants={"w": w})
    as_input = model([conv], [x_info(1, 3, 6, 6), value_info("w", w)], constants={"w": w})
    as_constant = model([constant("w", w), conv], [x_info(1, 3, 6, 6)])
    expected = run_ort(as_initialiser, feeds)
    for proto in (as_initialiser, as_input, as_constant):
        graph = from_onnx(proto)
        assert list(graph.inputs) == ["x"]
        assert graph.nodes[0].inputs[1].is_constant
        assert_close(evaluate(graph, feeds), expected)


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({"value_float": 1.5}, np.float32(1.5)),
        ({"value_floats": [1.0, 2.0]}, np.array([1, 2], np.float32)),
        ({"value_int": 7}, np.int64(7)),
        ({"value_ints": [1, 2]}, np.array([1, 2], np.int64)),
    ],
)
def test_forms_of_constant(attributes, expected):
    graph = from_onnx(model([helper.make_node("Constant", [], ["y"], **attributes)], []))
    data = graph.outputs["y"].data
    assert data.dtype == np.asarray(expected).dtype
    np.testing.assert_array_equal(data, expected)


@pytest.mark.parametrize("dtype", [np.float64, np.float16, np.int32, np.int16, np.int8, np.uint8, np.bool_, np.int64,
                                   np.uint16, np.uint32, np.uint64])  # fmt: skip
@pytest.mark.parametrize("raw", [True, False])
def test_element_types(dtype, raw):
    data = np.array([[0, 1], [2, 3]]).astype(dtype)
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    values = data.tobytes() if raw else data.reshape(-1).tolist()
    tensor = helper.make_tensor("w", kind, data.shape, values, raw=raw)
    proto = model([node("Identity", "w", "y")], [])
    proto.graph.initializer.append(tensor)
    found = from_onnx(proto).outputs["y"].data
    assert found.dtype == data.dtype
    np.testing.assert_array_equal(found, data)


# ---- shape arithmetic


def flatten_by_shape_arithmetic():
    return [
        node("Shape", "x", "shape"),
        constant("zero", np.int64(0)),
        node("Gather", "shape zero", "n"),
        constant("axes", np.array([0])),
        node("Unsqueeze", "n axes", "n1"),
        constant("rest", np.array([-1])),
        node("Concat", "n1 rest", "target", axis=0),
        node("Reshape", "x target", "y"),
    ]


def test_shape_arithmetic_folds_away():
    proto = model(flatten_by_shape_arithmetic(), [x_info("N", 3, 4)])
    graph = from_onnx(proto, {"x": (5, 3, 4)})
    assert [n.op for n in graph.nodes] == [ops.Reshape((5, 12))]
    assert_agrees(proto, {"x": f(5, 3, 4)}, shapes={"x": (5, 3, 4)})


def test_float_shape_arithmetic_folds_too():
    """The usual export of interpolate: sizes are computed by Cast, Mul and Floor."""
    nodes = [
        node("Shape", "x", "shape"),
        *(constant(name, np.array([value])) for name, value in (("two", 2), ("four", 4))),
        node("Slice", "shape two four", "hw"),
        node("Cast", "hw", "hwf", to=TensorProto.FLOAT),
        constant("scale", np.array([1.5, 2.0], np.float32)),
        node("Mul", "hwf scale", "scaled"),
        node("Floor", "scaled", "floored"),
        node("Cast", "floored", "new", to=TensorProto.INT64),
        constant("nought", np.array([0])),
        node("Slice", "shape nought two", "nc"),
        node("Concat", "nc new", "sizes", axis=0),
        helper.make_node("Resize", ["x", "", "", "sizes"], ["y"], mode="linear"),
    ]
    proto = model(nodes, [x_info(1, 2, 5, 6)])
    graph = from_onnx(proto)
    assert [n.op.sizes for n in graph.nodes] == [(1, 2, 7, 12)]
    assert_agrees(proto, {"x": f(1, 2, 5, 6)}, 1e-4)


def test_a_parameter_may_come_from_a_large_constant():
    """More elements than are folded at once: found out when it is asked for."""
    nodes = [
        constant("big", np.ones((200, 100), np.int64)),
        node("Add", "big big", "twos"),
        node("ReduceMax", "twos", "two", keepdims=0),
        constant("last", np.array([-1])),
        constant("first", np.array([0])),
        node("Unsqueeze", "two first", "two1"),
        node("Concat", "two1 last", "target", axis=0),
        node("Reshape", "x target", "y"),
    ]
    assert from_onnx(model(nodes, [x_info(4, 3)])).outputs["y"].shape == (2, 6)


def test_a_computed_shape_is_refused_by_name():
    nodes = [node("Cast", "x", "target", to=TensorProto.INT64), node("Reshape", "x target", "y")]
    with pytest.raises(UnsupportedError, match=r"the_Reshape_y.*shape.* make it, .* an initialiser") as caught:
        from_onnx(model(nodes, [x_info(2)]))
    assert len(caught.value.items) == 1


# ---- branches and functions


def branch(name, op_type):
    return helper.make_graph([node(op_type, "x", f"{name}_out")], name, [], [untyped(f"{name}_out")])


def test_if_with_a_constant_condition_is_inlined():
    for taken, op in ((True, ops.Relu), (False, ops.Neg)):
        nodes = [
            constant("condition", np.array(taken)),
            node("If", "condition", "y", then_branch=branch("a", "Relu"), else_branch=branch("b", "Neg")),
        ]
        proto = model(nodes, [x_info(2, 3)])
        assert [type(n.op) for n in from_onnx(proto).nodes] == [op]


@pytest.mark.parametrize("shape", [(), (1,)])
def test_of_a_computed_condition_both_branches_are_computed(shape):
    nodes = [node("If", "c", "y", then_branch=branch("a", "Relu"), else_branch=branch("b", "Neg"))]
    for taken in (True, False):
        condition = np.full(shape, taken)
        assert_agrees(model(nodes, [x_info(2, 3), value_info("c", condition)]), {"x": f(2, 3), "c": condition})


def test_branches_of_a_computed_condition_give_one_type():
    nodes = [node("If", "c", "y", then_branch=branch("a", "Relu"), else_branch=branch("b", "Shape"))]
    proto = model(nodes, [x_info(2, 3), value_info("c", np.array(True))])
    with pytest.raises(UnsupportedError, match=r"branches give f32\[2,3\] and i64\[2\]"):
        from_onnx(proto)


def test_names_that_are_no_operators_of_onnx():
    with pytest.raises(UnsupportedError, match="Erfc 'the_Erfc_y': ONNX has no such operator: the exporter left"):
        from_onnx(model([node("Erfc", "x", "y")], [x_info(2, 3)]))


def test_functions_of_the_model_are_put_in_place():
    body = helper.make_function(
        "mine",
        "Twice",
        ["a", "unused"],
        ["b"],
        [node("Add", "a a", "c"), helper.make_node("LeakyRelu", ["c"], ["b"])],
        [helper.make_opsetid("", 17)],
        attributes=["slope"],
    )
    body.node[1].attribute.append(onnx.AttributeProto(name="alpha", type=1, ref_attr_name="slope"))
    call = helper.make_node("Twice", ["x"], ["y"], domain="mine", slope=0.25)
    proto = model([call], [x_info(3)], functions=[body])
    assert [n.op for n in from_onnx(proto).nodes] == [ops.Add(), ops.LeakyRelu(0.25)]


def test_functions_of_one_name_are_told_apart_by_their_overload():
    def function(overload, inner):
        made = helper.make_function("mine", "F", ["a"], ["b"], [node(inner, "a", "b")], [helper.make_opsetid("", 17)])
        made.overload = overload
        return made

    calls = [helper.make_node("F", ["x"], ["t"], domain="mine"), helper.make_node("F", ["t"], ["y"], domain="mine")]
    calls[0].overload, calls[1].overload = "up", "down"
    proto = model(calls, [x_info(3)], functions=[function("up", "Exp"), function("down", "Neg")])
    assert [n.op for n in from_onnx(proto).nodes] == [ops.Exp(), ops.Neg()]
    calls[0].overload = "sideways"
    with pytest.raises(UnsupportedError, match=r"mine\.F"):
        from_onnx(model(calls, [x_info(3)], functions=list(proto.functions)))


def test_functions_of_the_standard_are_put_in_place():
    assert_agrees(
        model([node("MeanVarianceNormalization", "x", "y", axes=[0, 2])], [x_info(2, 3, 4)]), {"x": f(2, 3, 4)}
    )


# ---- refusals


def test_all_that_is_missing_is_listed_at_once():
    nodes = [
        node("Unique", "x", "a"),
        node("NonMaxSuppression", "a b", "c"),
        node("GlobalLpPool", "x", "d", p=2, odd=1),
        node("Add", "c d", "y"),
    ]
    nodes.append(helper.make_node("Magic", ["x"], ["b"], name="the_Magic", domain="com.example"))
    with pytest.raises(UnsupportedError) as caught:
        from_onnx(model(nodes, [x_info(1, 1, 4, 4)]))
    text = "\n".join(caught.value.items)
    assert len(caught.value.items) == 4
    for place in ("Unique 'the_Unique_a'", "NonMaxSuppression", "com.example.Magic 'the_Magic'", "_d': attribute odd"):
        assert place in text


def test_what_no_output_needs_is_not_refused():
    proto = model([node("Relu", "x", "y"), node("Det", "x", "unused")], [x_info(2, 2)])
    assert len(from_onnx(proto).nodes) == 1


@pytest.mark.parametrize(
    ("first", "op"),
    [
        (helper.make_node("BatchNormalization", ["x", *["s"] * 4], ["t", "", "", "", ""]), ops.BatchNorm),
        (helper.make_node("MaxPool", ["x"], ["t", ""], kernel_shape=[2, 2]), ops.MaxPool),
    ],
)
def test_an_output_without_a_name_is_used_by_nobody(first, op):
    """Not by a later node either that leaves an input out."""
    clip = helper.make_node("Clip", ["t", "", "high"], ["y"])
    constants = {"s": np.ones(3, np.float32), "high": np.float32(6)}
    proto = model([first, clip], [x_info(1, 3, 4, 4)], opset=13, constants=constants)
    assert [type(n.op) for n in from_onnx(proto).nodes] == [op, ops.Clip]


def test_an_unknown_attribute_is_refused():
    """An attribute of a later opset must not be dropped silently."""
    with pytest.raises(UnsupportedError, match="wrinkle"):
        from_onnx(model([node("Relu", "x", "y", wrinkle=1)], [x_info(2, 2)]))


@pytest.mark.parametrize("opset", [1, 99])
def test_opsets_out_of_range(opset):
    with pytest.raises(UnsupportedError, match=f"opset {opset}"):
        from_onnx(model([node("Relu", "x", "y")], [x_info(2)], opset=opset))


def test_element_types_without_kernels():
    info = helper.make_tensor_value_info("x", TensorProto.BOOL, (2, 3))
    with pytest.raises(UnsupportedError, match="bool"):
        from_onnx(model([node("Exp", "x", "y")], [info]))
    info = helper.make_tensor_value_info("x", TensorProto.STRING, (2, 3))
    with pytest.raises(UnsupportedError, match="STRING"):
        from_onnx(model([node("Identity", "x", "y")], [info]))


def test_without_the_onnx_package_the_remedy_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    with pytest.raises(GlulamError, match=r"pip install 'glulam\[onnx\]'"):
        from_onnx("m.onnx")


# ---- the light models of the onnx package

LIGHT = sorted((Path(onnx.__file__).parent / "backend/test/data/light").glob("*.onnx"))


def test_there_are_nine_light_models():
    assert len(LIGHT) == 9


@pytest.mark.parametrize("path", LIGHT, ids=lambda p: p.stem)
def test_light_model_imports(path):
    graph = from_onnx(path)
    stored = onnx.TensorProto()
    stored.ParseFromString(path.with_name(f"{path.stem}_output_0.pb").read_bytes())
    (output,) = graph.outputs.values()
    assert output.shape == tuple(stored.dims)


@pytest.mark.parametrize("name", ["light_squeezenet", "light_shufflenet"])
def test_light_model_agrees(name):
    path = next(p for p in LIGHT if p.stem == name)
    graph = from_onnx(path)
    feeds = {key: f(*value.shape) for key, value in graph.inputs.items()}
    assert_close(evaluate(graph, feeds), run_ort(str(path), feeds), 1e-4)
