"""to_onnx: a Graph of layer ops becomes an ONNX model, so that any other runtime can run it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from glulam.compiler.errors import ArgumentError, UnsupportedError
from glulam.compiler.graph.graph import Graph
from glulam.compiler.graph.op import Op
from glulam.compiler.options import whole
from glulam.frontends.onnx import (
    export_formula,
    export_indexing,
    export_layers,
    export_movement,
    export_norm,
    export_pointwise,
    export_recurrent,
    export_unpool,
)
from glulam.frontends.onnx.proto import elem_type_of, require_onnx
from glulam.frontends.onnx.writer import NEWEST_OPSET, OLDEST_OPSET, Export, Writer

if TYPE_CHECKING:
    from onnx import ModelProto

INLINE_LIMIT = 1 << 30  # bytes of weights beyond which a file keeps them beside itself: protobuf ends at 2 GiB

EXPORTS: Mapping[type[Op], Export] = MappingProxyType(
    {
        **export_layers.TABLE,
        **export_recurrent.TABLE,
        **export_unpool.TABLE,
        **export_movement.TABLE,
        **export_pointwise.TABLE,
        **export_formula.TABLE,
        **export_norm.TABLE,
        **export_indexing.TABLE,
    }
)


def to_onnx(graph: Graph, path: str | os.PathLike[str] | None = None, opset: int = 17) -> ModelProto:
    """The graph as an ONNX model, also written to `path` if one is given.

    Inputs and outputs keep their names; constants become initialisers (in a file `<path>.data` beside the model if
    they take more than a gibibyte). Ops without ONNX counterpart are composed of several nodes.
    Raises UnsupportedError listing every node that ONNX at this opset cannot say, or for an opset that cannot be
    written; ArgumentError for one that is no number.
    """
    onnx = require_onnx()
    if (number := whole(opset)) is None:
        raise ArgumentError(f"opset is {opset!r}; it is a number from {OLDEST_OPSET} to {NEWEST_OPSET}")
    if not OLDEST_OPSET <= number <= NEWEST_OPSET:
        raise UnsupportedError(f"opset {opset} cannot be written; choose one from {OLDEST_OPSET} to {NEWEST_OPSET}")
    writer = Writer(graph, number)
    refused = []
    for node in graph.nodes:
        export = EXPORTS.get(type(node.op))
        try:
            if export is None:
                raise UnsupportedError("ONNX has no such operator; export the graph before it is optimised")
            export(writer, node)
        except UnsupportedError as error:
            refused.append(f"{node.op.name} {node.name!r}: {error}")
    if refused:
        raise UnsupportedError("the graph cannot be written as ONNX:", refused)
    for name, value in graph.outputs.items():
        if writer.name(value) != name:
            writer.emit("Identity", [writer.name(value)], [name])
    writer.drop_unread()
    model = _model(onnx, graph, writer)
    if path is not None:
        _save(onnx, model, Path(path))
    return model


def _model(onnx, graph: Graph, writer: Writer) -> ModelProto:  # type: ignore[no-untyped-def]
    infos = [
        [onnx.helper.make_tensor_value_info(name, elem_type_of(value.type.dtype), value.shape) for name, value in table]
        for table in (graph.inputs.items(), graph.outputs.items())
    ]
    proto = onnx.helper.make_graph(writer.nodes, graph.name, infos[0], infos[1], writer.initialisers)
    opsets = [onnx.helper.make_opsetid("", writer.opset)]
    return onnx.helper.make_model(  # type: ignore[no-any-return]
        proto,
        producer_name="glulam",
        opset_imports=opsets,
        ir_version=onnx.helper.find_min_ir_version_for(opsets),
    )


def _save(onnx, model: ModelProto, path: Path) -> None:  # type: ignore[no-untyped-def]
    stored = sum(len(tensor.raw_data) for tensor in model.graph.initializer)
    if stored <= INLINE_LIMIT:
        path.write_bytes(model.SerializeToString())
        return
    data = path.name + ".data"
    path.with_name(data).unlink(missing_ok=True)
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    onnx.save_model(copy, str(path), save_as_external_data=True, all_tensors_to_one_file=True, location=data)
