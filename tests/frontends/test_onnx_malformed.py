"""Malformed and hostile ONNX files: always a typed error, never a crash, a hang or a huge allocation."""

from __future__ import annotations

import os
import random

import numpy as np
import pytest
from onnx import AttributeProto, TensorProto, helper, numpy_helper
from onnx_support import model, single, value_info, x_info

from glulam.compiler.errors import GlulamError, ModelFileError, ShapeError
from glulam.frontends.onnx import from_onnx


def node(op_type, inputs, outputs, **attributes):
    return helper.make_node(op_type, inputs.split(), outputs.split(), name=f"the_{op_type}", **attributes)


def ones(*shape):
    return np.ones(shape, np.float32)


# ---- files


NOT_A_MODEL = [b"", b"hello world, no protobuf", b"\x00" * 100, b"\x08\x07", bytes(range(256))]


@pytest.mark.parametrize("data", NOT_A_MODEL)
def test_not_a_model(data, tmp_path):
    with pytest.raises(ModelFileError):
        from_onnx(data)
    (tmp_path / "m.onnx").write_bytes(data)
    with pytest.raises(ModelFileError):
        from_onnx(tmp_path / "m.onnx")


def test_missing_file_and_folder(tmp_path):
    for path in (tmp_path / "none.onnx", tmp_path):
        with pytest.raises(ModelFileError, match="cannot read"):
            from_onnx(path)


def sample():
    conv = node("Conv", "x w b", "c", kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    nodes = [conv, node("Relu", "c", "r"), node("Reshape", "r s", "y")]
    constants = {"w": ones(2, 1, 3, 3), "b": ones(2), "s": np.array([0, -1])}
    return model(nodes, [x_info(1, 1, 4, 4)], constants=constants).SerializeToString()


def test_an_empty_file_is_named(tmp_path):
    path = tmp_path / "empty.onnx"
    path.write_bytes(b"")
    with pytest.raises(ModelFileError, match=r"empty\.onnx: not an ONNX model"):
        from_onnx(path)


def test_truncated_anywhere():
    whole = sample()
    for size in range(len(whole)):
        with pytest.raises(GlulamError):
            from_onnx(whole[:size])


def test_flipped_bytes_never_crash():
    whole = bytearray(sample())
    rng = random.Random(5)
    for _ in range(2000):
        broken = bytearray(whole)
        for _ in range(rng.randint(1, 3)):
            broken[rng.randrange(len(broken))] = rng.randrange(256)
        try:
            from_onnx(bytes(broken))
        except GlulamError:
            continue


# ---- structure (trap 63)


@pytest.mark.parametrize(
    ("proto", "message"),
    [
        (model([node("Relu", "b", "a"), node("Relu", "a", "b"), node("Add", "x a", "y")], [x_info(2)]), "cycle"),
        (model([node("Relu", "y", "y")], [x_info(2)]), "cycle"),
        (model([node("Relu", "x", "y"), node("Neg", "x", "y")], [x_info(2)]), "made twice"),
        (model([node("Relu", "x", "x")], [x_info(2)], ["x"]), "made twice"),
        (model([node("Add", "x w", "y")], [x_info(2)]), "'w'"),
        (model([node("Relu", "x", "z")], [x_info(2)]), "made by nobody"),
        (model([node("Relu", "x", "y")], [x_info(2), x_info(2)]), "two inputs"),
        (model([node("Relu", "x", "y")], [x_info(2)], []), "no outputs"),
        (model([node("Relu", "x", "y")], [x_info(-5, 2)]), "extent of -5"),
        (model([node("Add", "x", "y")], [x_info(2)]), "input 1 is missing"),
        (model([node("Relu", "", "y")], [x_info(2)]), "input 0 is missing"),
        (model([node("Split", "x", "y z")], [x_info(3)], ["y"], 17), None),
    ],
)
def test_structure(proto, message):
    if message is None:
        assert from_onnx(proto).outputs["y"].shape == (2,)
        return
    with pytest.raises(ModelFileError, match=message):
        from_onnx(proto)


def test_two_initialisers_of_one_name():
    proto = model([node("Add", "x w", "y")], [x_info(2)], constants={"w": ones(2)})
    proto.graph.initializer.append(numpy_helper.from_array(ones(2), "w"))
    with pytest.raises(ModelFileError, match="two initialisers"):
        from_onnx(proto)


def test_no_opset():
    proto = model([node("Relu", "x", "y")], [x_info(2)])
    del proto.opset_import[:]
    with pytest.raises(ModelFileError, match="opset"):
        from_onnx(proto)


def test_functions_that_call_themselves_or_explode(monkeypatch):
    def function(name, inner):
        nodes = [helper.make_node(inner, ["a"], [f"t{i}"], domain="mine") for i in range(10)]
        nodes.append(node("Sum", " ".join(f"t{i}" for i in range(10)), "b"))
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid("mine", 1)]
        return helper.make_function("mine", name, ["a"], ["b"], nodes, opsets)

    call = helper.make_node("F0", ["x"], ["y"], domain="mine")
    with pytest.raises(ModelFileError, match="calls itself"):
        from_onnx(model([call], [x_info(2)], functions=[function("F0", "F1"), function("F1", "F0")]))
    chain = [function(f"F{i}", f"F{i + 1}") for i in range(12)]
    opsets = [helper.make_opsetid("", 17)]
    chain.append(helper.make_function("mine", "F12", ["a"], ["b"], [node("Relu", "a", "b")], opsets))
    monkeypatch.setattr("glulam.frontends.onnx.importer.MAX_NODES", 2000)
    with pytest.raises(ModelFileError, match="unfolds to more"):
        from_onnx(model([call], [x_info(2)], functions=chain))


@pytest.mark.parametrize("trips", [2, 2**40])
def test_a_loop_without_nodes_ends(trips):
    state = [helper.make_tensor_value_info("going", TensorProto.BOOL, []), x_info(2)]
    number = helper.make_tensor_value_info("i", TensorProto.INT64, [])
    body = helper.make_graph([], "body", [number, *state], state)
    proto = model([node("Loop", "trips going0 v", "y", body=body)], [helper.make_tensor_value_info("v", 1, [2])],
                  constants={"trips": np.array(trips), "going0": np.array(True)})  # fmt: skip
    if trips == 2:
        assert from_onnx(proto).outputs["y"].name == "v"
        return
    with pytest.raises(ModelFileError, match=r"Loop.*unfolds to more"):
        from_onnx(proto)


# ---- tensors


def stored(**fields):
    proto = model([node("Add", "x w", "y")], [x_info(2)])
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[2], raw_data=ones(2).tobytes())
    for key, value in fields.items():
        if key == "dims":
            tensor.dims[:] = value
        else:
            setattr(tensor, key, value)
    proto.graph.initializer.append(tensor)
    return proto


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"dims": [-2]}, "negative"),
        ({"dims": [3]}, "bytes of data"),
        ({"dims": [2**40, 2**40]}, "limit"),
        ({"dims": [2**62, 4, 0]}, "bytes of data"),
        ({"raw_data": b"abc"}, "bytes of data"),
        ({"data_type": 99}, "element type"),
        ({"data_type": 0}, "element type"),
        ({"data_type": TensorProto.INT64}, "bytes of data"),
    ],
)
def test_tensors_that_lie(fields, message):
    """Trap 61: the product of the extents must not overflow."""
    with pytest.raises(ModelFileError, match=message):
        from_onnx(stored(**fields))


def test_wrong_dtypes_and_shapes():
    w64 = np.ones(2)
    with pytest.raises(ModelFileError, match="f64"):
        from_onnx(model([node("Add", "x w", "y")], [x_info(2)], constants={"w": w64}))
    with pytest.raises(ModelFileError, match="the_Add"):
        from_onnx(model([node("Add", "x w", "y")], [x_info(2)], constants={"w": ones(3)}))
    with pytest.raises(ModelFileError, match="list of integers"):
        from_onnx(model([node("Reshape", "x s", "y")], [x_info(2)], constants={"s": ones(1)}))


SENSELESS = [
    ("Transpose", [ones(2, 3)], {"perm": [0, 0]}),
    ("Transpose", [ones(2, 3)], {"perm": [0]}),
    ("Softmax", [ones(2, 3)], {"axis": 5}),
    ("Concat", [ones(2, 3)], {"axis": -9}),
    ("MaxPool", [ones(1, 1, 4, 4)], {"kernel_shape": [0, 2]}),
    ("MaxPool", [ones(1, 1, 4, 4)], {"kernel_shape": [2]}),
    ("MaxPool", [ones(1, 1, 4, 4)], {"kernel_shape": [2, 2], "strides": [0, 1]}),
    ("MaxPool", [ones(1, 1, 4, 4)], {"kernel_shape": [9, 9]}),
    ("MaxPool", [ones(1, 1, 4, 4)], {"kernel_shape": [2, 2], "pads": [2, 0, 0, 0]}),
    ("MaxPool", [ones(1, 1, 4, 4)], {"kernel_shape": [2**62, 2], "pads": [2**61, 0, 2**61, 0]}),
    ("AveragePool", [ones(1, 1, 4, 4)], {"kernel_shape": [2**40, 2], "pads": [2**40, 0, 2**40, 0]}),
    ("Conv", [ones(1, 2, 4, 4), ones(3, 3, 2, 2)], {}),
    ("Conv", [ones(1, 2, 4, 4), ones(3, 2, 2, 2)], {"group": 0}),
    ("Conv", [ones(1, 2, 4, 4), ones(3, 2, 2, 2)], {"pads": [2**62] * 4}),
    ("Conv", [ones(1, 2, 4, 4), ones(3, 2, 2, 2)], {"kernel_shape": [3, 3]}),
    ("Relu", [ones(2)], {"alpha": "text"}),
    ("LeakyRelu", [ones(2)], {"alpha": "text"}),
    ("Flatten", [ones(2, 3)], {"axis": 4}),
    ("DepthToSpace", [ones(1, 3, 2, 2)], {"blocksize": 2}),
    ("Celu", [ones(2)], {"alpha": 0.0}),
    ("ConstantOfShape", [None], {}),
    ("Scan", [ones(2), ones(2)], {"body": helper.make_graph([], "body", [], []), "num_scan_inputs": 2**40}),
]


@pytest.mark.parametrize(("op_type", "inputs", "attributes"), SENSELESS)
def test_attributes_that_make_no_sense(op_type, inputs, attributes):
    with pytest.raises(GlulamError, match="'node'"):
        from_onnx(single(op_type, inputs, **attributes)[0])


@pytest.mark.parametrize("error", [AssertionError, MemoryError, TypeError, KeyError])
def test_what_is_no_fault_of_the_file_is_not_blamed_on_it(error, monkeypatch):
    def broken(ctx):
        raise error("broken")

    monkeypatch.setattr("glulam.frontends.onnx.importer.CONVERTERS", {"Relu": broken})
    with pytest.raises(error, match="broken") as caught:
        from_onnx(model([node("Relu", "x", "y")], [x_info(2)]))
    assert "the_Relu" in "".join(caught.value.__notes__)


def test_an_attribute_of_the_wrong_kind_for_the_body_of_a_function():
    inner = node("LeakyRelu", "a", "b")
    inner.attribute.add(name="alpha", ref_attr_name="slope", type=AttributeProto.FLOAT)
    opsets = [helper.make_opsetid("", 17)]
    function = helper.make_function("mine", "F", ["a"], ["b"], [inner], opsets, ["slope"])
    call = helper.make_node("F", ["x"], ["y"], domain="mine", slope="steep")
    with pytest.raises(ModelFileError, match=r"'y'.*attribute alpha"):
        from_onnx(model([call], [x_info(2)], functions=[function]))


def test_a_tiny_file_may_not_ask_for_a_huge_tensor():
    """Trap 62."""
    for op_type, arrays in [
        ("ConstantOfShape", [np.array([2**40, 2**20])]),
        ("ConstantOfShape", [np.array([-1])]),
        ("Range", [np.array(0), np.array(2**62), np.array(1)]),
        ("Range", [np.array(0.0), np.array(1.0), np.array(1e-300)]),
        ("Range", [np.array(0.0), np.array(np.inf), np.array(1.0)]),
    ]:
        with pytest.raises(ModelFileError, match=r"the model asks|negative|Range"):
            from_onnx(single(op_type, arrays, constant=range(len(arrays)))[0])
    for op_type, parameter in [
        ("Expand", np.array([2**20, 2**20, 2])),
        ("Tile", np.array([2**62])),
        ("Pad", np.array([2**62, 2**62])),
    ]:
        with pytest.raises(ModelFileError, match="larger than"):
            from_onnx(single(op_type, [ones(2), parameter], constant=[1])[0])
    scales = np.array([1e30], np.float32)
    with pytest.raises(ModelFileError, match="larger than"):
        from_onnx(single("Resize", [ones(2), None, scales], constant=[2])[0])
    with pytest.raises(ShapeError, match="bytes"):
        from_onnx(model([node("Relu", "x", "y")], [x_info(2**40, 2**40)]))


def test_many_fillers_share_one_budget():
    big = np.array([2**20, 100])
    nodes = [node("ConstantOfShape", "s", f"c{i}") for i in range(8)]
    nodes.append(node("Sum", " ".join(f"c{i}" for i in range(8)), "y"))
    with pytest.raises(ModelFileError, match="filled"):
        from_onnx(model(nodes, [], constants={"s": big}))


def test_known_is_not_worked_out_at_any_price():
    """A chain that doubles at every step stays a graph; its value is not asked for beyond the limit."""
    nodes = [node("Concat", "x0 x0", "x1", axis=0)]
    nodes += [node("Concat", f"x{i} x{i}", f"x{i + 1}", axis=0) for i in range(1, 25)]
    nodes += [node("ReduceMax", "x25", "m", keepdims=1), node("Reshape", "x m", "y")]
    with pytest.raises(GlulamError, match="the_Reshape"):
        from_onnx(model(nodes, [x_info(2)], constants={"x0": np.array([2])}))


# ---- external data (trap 60)


def external(folder, location="w.bin", offset=0, length=8, dims=(2,), write=True):
    proto = stored(dims=dims)
    tensor = proto.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        if value is not None:
            tensor.external_data.add(key=key, value=str(value))
    folder.mkdir(exist_ok=True)
    if write:
        (folder / "w.bin").write_bytes(np.array([9, 1, 2], np.float32).tobytes())
    path = folder / "m.onnx"
    path.write_bytes(proto.SerializeToString())
    return path


def test_external_data_is_read(tmp_path):
    graph = from_onnx(external(tmp_path, offset=4))
    np.testing.assert_array_equal(graph.nodes[0].inputs[1].data, [1, 2])
    graph = from_onnx(external(tmp_path, offset=None, length=None))
    np.testing.assert_array_equal(graph.nodes[0].inputs[1].data, [9, 1])


OUTSIDE = [
    "",
    "../secret.bin",
    "/etc/passwd",
    "a/../../secret.bin",
    "..\\secret.bin",
    "C:\\x",
    "no.bin",
    ".",
    "w.bin\0",
]


@pytest.mark.parametrize("location", OUTSIDE)
def test_external_data_stays_in_the_folder(tmp_path, location):
    (tmp_path / "secret.bin").write_bytes(ones(3).tobytes())
    with pytest.raises(ModelFileError, match="external data"):
        from_onnx(external(tmp_path / "model", location))


def test_external_data_through_links(tmp_path):
    (tmp_path / "secret.bin").write_bytes(ones(3).tobytes())
    folder = tmp_path / "model"
    path = external(folder, "link.bin")
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    with pytest.raises(ModelFileError, match="symbolic link"):
        from_onnx(path)
    path = external(folder, "down/secret.bin")
    (folder / "down").symlink_to(tmp_path)
    with pytest.raises(ModelFileError, match="symbolic link"):
        from_onnx(path)
    path = external(folder, "hard.bin")
    os.link(tmp_path / "secret.bin", folder / "hard.bin")
    with pytest.raises(ModelFileError, match="one name"):
        from_onnx(path)
    path = external(folder, "pipe")
    os.mkfifo(folder / "pipe")
    with pytest.raises(ModelFileError, match="regular file"):
        from_onnx(path)


WRONG = [
    (8, 8, (2,)),
    (-4, 8, (2,)),
    (0, 4, (2,)),
    (0, 8, (2**20,)),
    ("x", 8, (2,)),
    (2**70, 8, (2,)),
    (0, 2**63, (2**61,)),
]


@pytest.mark.parametrize(("offset", "length", "dims"), WRONG)
def test_external_data_of_wrong_size(tmp_path, offset, length, dims):
    with pytest.raises(ModelFileError):
        from_onnx(external(tmp_path, offset=offset, length=length, dims=dims))


def test_external_data_needs_a_path(tmp_path):
    with pytest.raises(ModelFileError, match="by its path"):
        from_onnx(external(tmp_path).read_bytes())


def test_external_data_in_an_attribute(tmp_path):
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[2], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="../secret.bin")
    proto = model([helper.make_node("Constant", [], ["y"], value=tensor)], [value_info("x", ones(1))])
    (tmp_path / "m.onnx").write_bytes(proto.SerializeToString())
    with pytest.raises(ModelFileError, match="outside"):
        from_onnx(tmp_path / "m.onnx")
