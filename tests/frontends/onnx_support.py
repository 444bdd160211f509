"""Small ONNX models for the tests, and ONNX Runtime without its optimisations as the judge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper

from glulam.compiler.graph.evaluate import evaluate
from glulam.compiler.graph.graph import Graph
from glulam.frontends.onnx import from_onnx, to_onnx


def i64(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def value_info(name: str, array: np.ndarray, shape: Sequence[Any] | None = None) -> onnx.ValueInfoProto:
    kind = helper.np_dtype_to_tensor_dtype(array.dtype)
    return helper.make_tensor_value_info(name, kind, array.shape if shape is None else shape)


def x_info(*shape: int) -> onnx.ValueInfoProto:
    """An input "x" of floats."""
    return helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, shape)


def untyped(name: str) -> onnx.ValueInfoProto:
    return onnx.ValueInfoProto(name=name)


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[str] = ("y",),
    opset: int = 17,
    constants: Mapping[str, np.ndarray] | None = None,
    **kwargs: Any,
) -> onnx.ModelProto:
    """A model whose constants are initialisers and whose outputs have no declared type."""
    stored = [numpy_helper.from_array(array, name) for name, array in (constants or {}).items()]
    graph = helper.make_graph(list(nodes), "test", list(inputs), [untyped(name) for name in outputs], stored)
    imports = [helper.make_opsetid("", opset)]
    return helper.make_model(
        graph, opset_imports=imports, ir_version=helper.find_min_ir_version_for(imports, ignore_unknown=True), **kwargs
    )


def single(
    op_type: str,
    inputs: Sequence[np.ndarray | None],
    opset: int = 17,
    constant: Sequence[int] = (),
    outputs: int = 1,
    **attributes: Any,
) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """A model of one node, and the feeds for those of its inputs that are not constant."""
    names = ["" if array is None else f"x{i}" for i, array in enumerate(inputs)]
    given = {name: array for name, array in zip(names, inputs, strict=True) if array is not None}
    stored = {f"x{i}": given[f"x{i}"] for i in constant}
    feeds = {name: array for name, array in given.items() if name not in stored}
    results = ["y"] if outputs == 1 else [f"y{i}" for i in range(outputs)]
    node = helper.make_node(op_type, names, results, name="node", **attributes)
    infos = [value_info(name, array) for name, array in feeds.items()]
    return model([node], infos, results, opset, stored), feeds


def run_ort(proto: onnx.ModelProto | bytes | str, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    source = proto.SerializeToString() if isinstance(proto, onnx.ModelProto) else proto
    session = onnxruntime.InferenceSession(source, options)
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(feeds)), strict=True))


def exported(graph: Graph, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What ONNX Runtime computes of the graph, written as ONNX."""
    return run_ort(to_onnx(graph), feeds)


def assert_close(ours: Mapping[str, np.ndarray], theirs: Mapping[str, np.ndarray], tolerance: float = 1e-5) -> None:
    """Same names, shapes, dtypes; numbers within `tolerance` of the largest magnitude."""
    assert list(ours) == list(theirs)
    for name, expected in theirs.items():
        assert (ours[name].shape, ours[name].dtype) == (expected.shape, expected.dtype), name
        if expected.dtype.kind != "f":
            np.testing.assert_array_equal(ours[name], expected, err_msg=name)
            continue
        finite = np.abs(expected[np.isfinite(expected)])
        scale = float(finite.max()) if finite.size else 0.0
        np.testing.assert_allclose(ours[name], expected, rtol=tolerance, atol=tolerance * scale, err_msg=name)


def assert_agrees(
    proto: onnx.ModelProto,
    feeds: Mapping[str, np.ndarray],
    tolerance: float = 1e-5,
    shapes: Mapping[str, Sequence[int]] | None = None,
) -> None:
    """The imported graph's reference equals what ONNX Runtime computes."""
    graph = from_onnx(proto, shapes)
    assert_close(evaluate(graph, feeds), run_ort(proto, feeds), tolerance)


def check(
    op_type: str,
    inputs: Sequence[np.ndarray | None],
    opset: int = 17,
    constant: Sequence[int] = (),
    outputs: int = 1,
    tolerance: float = 1e-5,
    **attributes: Any,
) -> None:
    """The same of a model of one node."""
    proto, feeds = single(op_type, inputs, opset, constant, outputs, **attributes)
    assert_agrees(proto, feeds, tolerance)
