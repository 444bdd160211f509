"""Sequences of tensors inside a model, against ONNX Runtime; and what is said where their lengths cannot be known."""

import numpy as np
import onnx
import pytest
from onnx import helper
from onnx_support import assert_agrees, model, untyped, value_info

from glulam.compiler.errors import ModelFileError, UnsupportedError
from glulam.frontends.onnx import from_onnx

X = np.random.default_rng(5).standard_normal((3, 7, 2), dtype=np.float32)
I64 = np.int64


def node(op_type, inputs, outputs, **attributes):
    return helper.make_node(op_type, inputs.split(), outputs.split(), **attributes)


def sequences(nodes, constants=None, outputs="y"):
    constants = {name: np.asarray(value, I64) for name, value in (constants or {}).items()}
    return model(nodes, [value_info("x", X)], outputs.split(), 17, constants)


def check(*args):
    assert_agrees(sequences(*args), {"x": X})


@pytest.mark.parametrize("place", [0, 2, -1])
@pytest.mark.parametrize(
    ("split", "attributes"),
    [
        (None, {"axis": 1}),
        (None, {"axis": -2, "keepdims": 0}),
        (2, {"axis": 1}),
        ([2, 1, 4], {"axis": 1, "keepdims": 0}),
        (1, {}),
    ],
)
def test_parts_of_a_tensor(split, attributes, place):
    nodes = [
        node("SplitToSequence", "x" if split is None else "x split", "s", **attributes),
        node("SequenceAt", "s place", "y"),
    ]
    check(nodes, {"place": place} if split is None else {"place": place, "split": split})


@pytest.mark.parametrize("attributes", [{"axis": 1}, {"axis": -1, "new_axis": 1}, {"axis": 0, "new_axis": 1}])
def test_a_sequence_is_made_changed_and_put_together(attributes):
    nodes = [
        node("Neg", "x", "n"),
        node("SequenceConstruct", "x n", "a"),
        node("Abs", "x", "b"),
        node("SequenceInsert", "a b", "c"),
        node("SequenceInsert", "c b first", "d"),
        node("SequenceErase", "d second", "e"),
        node("Identity", "e", "f"),
        node("ConcatFromSequence", "f", "y", **attributes),
        node("SequenceLength", "f", "count"),
        node("SequenceErase", "f", "g"),
        node("ConcatFromSequence", "g", "z", **attributes),
    ]
    check(nodes, {"first": 0, "second": -2}, "y z count")


def test_a_loop_collects_a_sequence():
    body = helper.make_graph(
        [
            node("Gather", "x i", "row", axis=1),
            node("Add", "row total", "sum"),
            node("SequenceInsert", "before sum", "after"),
            node("Identity", "going", "still"),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", onnx.TensorProto.INT64, ()),
            helper.make_tensor_value_info("going", onnx.TensorProto.BOOL, ()),
            helper.make_tensor_value_info("total", onnx.TensorProto.FLOAT, None),
            helper.make_tensor_sequence_value_info("before", onnx.TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("still", onnx.TensorProto.BOOL, ()),
            helper.make_tensor_value_info("sum", onnx.TensorProto.FLOAT, None),
            helper.make_tensor_sequence_value_info("after", onnx.TensorProto.FLOAT, None),
        ],
    )
    nodes = [
        node("SequenceEmpty", "", "none"),
        node("ReduceMean", "x", "start", axes=[1], keepdims=0),
        helper.make_node("Loop", ["trips", "", "start", "none"], ["last", "all"], body=body),
        node("ConcatFromSequence", "all", "y", axis=1),
    ]
    check(nodes, {"trips": 5})


def test_a_body_for_each_tensor():
    body = helper.make_graph([node("Add", "a b", "c")], "body", [untyped("a"), untyped("b")], [untyped("c")])
    for value in (*body.input, *body.output):
        value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    nodes = [
        node("Sigmoid", "x", "m"),
        node("SequenceConstruct", "x m", "s"),
        helper.make_node("SequenceMap", ["s", "x"], ["t"], body=body),
        node("ConcatFromSequence", "t", "y", axis=2),
    ]
    check(nodes)


@pytest.mark.parametrize(
    ("nodes", "error", "words"),
    [
        ([node("SequenceConstruct", "x", "y")], UnsupportedError, "output 'y': it is a sequence"),
        ([node("SequenceConstruct", "x", "s"), node("Relu", "s", "y")], ModelFileError, "a sequence stands where"),
        ([node("SequenceAt", "x one", "y")], ModelFileError, "input 0 is a tensor"),
        ([node("SequenceConstruct", "x", "s"), node("SequenceAt", "s one", "y")], ModelFileError, "position 1 in a"),
        ([node("SequenceEmpty", "", "s"), node("SequenceErase", "s", "t"), node("SequenceLength", "t", "y")],
         ModelFileError, "empty"),
        ([node("SequenceEmpty", "", "s"), node("ConcatFromSequence", "s", "y", axis=0)], UnsupportedError, "empty"),
        ([node("SplitToSequence", "x five", "s"), node("SequenceLength", "s", "y")], ModelFileError, "parts"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_an_error(nodes, error, words):
    with pytest.raises(error, match=words):
        from_onnx(sequences(nodes, {"one": 1, "five": [5]}))


def test_a_place_that_depends_on_an_input_is_refused():
    nodes = [
        node("SplitToSequence", "x", "s"),
        node("ArgMax", "x", "best", axis=0, keepdims=0),
        node("ReduceMax", "best", "place", keepdims=0),
        node("SequenceAt", "s place", "y"),
    ]
    with pytest.raises(UnsupportedError, match=r"SequenceAt.*position"):
        from_onnx(sequences(nodes))


def test_an_operator_that_is_refused_on_purpose_says_why():
    with pytest.raises(UnsupportedError, match=r"Unique 'y': Unique of what is computed: how many elements"):
        from_onnx(sequences([node("Unique", "x", "y")]))
