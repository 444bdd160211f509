"""An ONNX graph under construction: names, constants and nodes."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from glulam.compiler.errors import UnsupportedError
from glulam.compiler.graph.graph import Graph, Node, Value
from glulam.compiler.graph.types import Array, DType
from glulam.frontends.onnx.proto import require_onnx

OLDEST_OPSET, NEWEST_OPSET = 13, 21

_TYPE_NAMES = {DType.F32: "float", DType.F64: "double", DType.F16: "float16"}


class Writer:
    """Collects the nodes and initialisers. ONNX has one name space: inputs keep theirs, outputs have the graph's."""

    def __init__(self, graph: Graph, opset: int) -> None:
        self.graph = graph
        self.opset = opset
        self.nodes: list[Any] = []
        self.initialisers: list[Any] = []
        self._onnx = require_onnx()
        self._taken = {*graph.inputs, *graph.outputs}
        self._counter = itertools.count()
        self._dtypes: dict[str, DType] = {}
        self._names: dict[Value, str] = {value: name for name, value in graph.inputs.items()}
        for name, value in graph.outputs.items():
            if value.producer is not None and value not in self._names:
                self._names[value] = name
        self._dtypes.update((name, value.type.dtype) for value, name in self._names.items())

    def name(self, value: Value) -> str:
        """The name of a value; a constant becomes an initialiser when it is first asked for."""
        if value not in self._names:
            self._names[value] = self.fresh(value.name)
            if value.data is not None:
                self._store(value.data, self._names[value])
            self._dtypes[self._names[value]] = value.type.dtype
        return self._names[value]

    def fresh(self, wanted: str) -> str:
        name = wanted
        while name in self._taken:
            name = f"{wanted}_{next(self._counter)}"
        self._taken.add(name)
        return name

    def inputs(self, node: Node) -> list[str]:
        return ["" if value is None else self.name(value) for value in node.inputs]

    def outputs(self, node: Node) -> list[str]:
        return [self.name(value) for value in node.outputs]

    def constant(self, data: Any, dtype: DType = DType.I64) -> str:
        """The name of a new initialiser."""
        name = self.fresh("const")
        self._store(np.asarray(data, dtype.numpy), name)
        self._dtypes[name] = dtype
        return name

    def _store(self, data: Array, name: str) -> None:
        self.initialisers.append(self._onnx.numpy_helper.from_array(np.asarray(data, order="C"), name))

    def emit(self, op_type: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: Any) -> None:
        """A node; trailing inputs that are left out are not written.

        Raises UnsupportedError if the operator does not take the element type of an input.
        """
        names = list(inputs)
        while names and not names[-1]:
            names.pop()
        self._check_types(op_type, [self._dtypes.get(name) for name in names])
        label = self.fresh(f"{outputs[0]}.{op_type}")
        self.nodes.append(self._onnx.helper.make_node(op_type, names, list(outputs), name=label, **attributes))

    def drop_unread(self) -> None:
        """Without the nodes and constants that no output needs: an op may be written by more than its own node."""
        needed, kept = set(self.graph.outputs), []
        for node in reversed(self.nodes):
            if not needed.isdisjoint(node.output):
                needed.update(node.input)
                kept.append(node)
        self.nodes = kept[::-1]
        self.initialisers = [tensor for tensor in self.initialisers if tensor.name in needed]

    def _check_types(self, op_type: str, dtypes: Sequence[DType | None]) -> None:
        """None: an intermediate, or an input that is left out."""
        for index, dtype in enumerate(dtypes):
            if dtype is None or self._takes(op_type, index, dtype, self.opset):
                continue
            later = [v for v in range(self.opset, NEWEST_OPSET + 1) if self._takes(op_type, index, dtype, v)]
            remedy = f"needs opset={later[0]}" if later else "is nothing that ONNX can say"
            raise UnsupportedError(f"{op_type} of {dtype.value} {remedy}")

    def _takes(self, op_type: str, index: int, dtype: DType, opset: int) -> bool:
        inputs = self._onnx.defs.get_schema(op_type, opset, "").inputs
        types = inputs[min(index, len(inputs) - 1)].types
        return f"tensor({_TYPE_NAMES.get(dtype, dtype.numpy.name)})" in types

    def call(self, op_type: str, *inputs: str, **attributes: Any) -> str:
        """A node whose one output is an intermediate; its name."""
        output = self.fresh(op_type.lower())
        self.emit(op_type, inputs, [output], **attributes)
        return output


Export = Callable[[Writer, Node], None]
