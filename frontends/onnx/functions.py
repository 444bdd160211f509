"""Functions: operators that a model, or the ONNX standard itself, defines by a body of other operators."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from glulam.compiler.errors import ModelFileError
from glulam.compiler.graph.types import TensorType
from glulam.frontends.onnx.proto import elem_type_of, require_onnx
from glulam.frontends.onnx.table import CONVERTERS

if TYPE_CHECKING:
    from onnx import FunctionProto, ModelProto, NodeProto


class Functions:
    """The bodies that stand for nodes: a model's own functions first; the standard's where there is no converter."""

    def __init__(self, model: ModelProto, opset: int) -> None:
        self._own: dict[tuple[str, str, str], FunctionProto] = {}
        self._opset = opset
        self._versions = {entry.domain: int(entry.version) for entry in model.opset_import}
        self._open: list[str] = []
        for function in model.functions:
            key = (_domain(function.domain), function.name, _overload(function))
            if key in self._own:
                raise ModelFileError(f"the model defines the function {function.name!r} twice")
            self._own[key] = function

    def may_expand(self, node: NodeProto) -> bool:
        """Whether a body for the node exists, or may exist once its input types are known."""
        if self._called(node) is not None:
            return True
        schema = self._schema(node)
        return schema is not None and bool(schema.has_function or schema.has_context_dependent_function)

    def body(self, node: NodeProto, types: Sequence[TensorType | None]) -> FunctionProto | None:
        """The body for the node, or None if it has a converter or is no function."""
        own = self._called(node)
        if own is not None:
            return own
        if _domain(node.domain) == "" and node.op_type in CONVERTERS:
            return None
        schema = self._schema(node)
        if schema is None:
            return None
        if schema.has_function:
            return schema.function_body  # type: ignore[no-any-return]
        if schema.has_context_dependent_function:
            return self._for_types(schema, node, types)
        return None

    def defaults(self, node: NodeProto) -> dict[str, Any]:
        """Default attributes of an operator that the standard defines by a body."""
        schema = None if self._called(node) is not None else self._schema(node)
        if schema is None:
            return {}
        helper = require_onnx().helper
        given = {name: entry.default_value for name, entry in schema.attributes.items() if entry.default_value.name}
        return {name: helper.get_attribute_value(value) for name, value in given.items()}

    def opset(self, function: FunctionProto) -> int:
        versions = [entry.version for entry in function.opset_import if _domain(entry.domain) == ""]
        return int(versions[0]) if versions else self._opset

    @contextmanager
    def entered(self, function: FunctionProto) -> Iterator[None]:
        """Guards against functions that call themselves."""
        key = f"{function.domain}.{function.name}:{_overload(function)}"
        if key in self._open:
            raise ModelFileError(f"the function {function.name!r} calls itself")
        self._open.append(key)
        try:
            yield
        finally:
            self._open.pop()

    def _called(self, node: NodeProto) -> FunctionProto | None:
        """The model's own function that the node calls."""
        return self._own.get((_domain(node.domain), node.op_type, _overload(node)))

    def _schema(self, node: NodeProto):  # type: ignore[no-untyped-def]  # onnx.defs.OpSchema
        domain = _domain(node.domain)
        version = self._opset if not domain else self._versions.get(domain)
        if version is None:
            return None
        defs = require_onnx().defs
        try:
            return defs.get_schema(node.op_type, version, domain)
        except defs.SchemaError:
            return None

    def _for_types(self, schema, node: NodeProto, types: Sequence[TensorType | None]) -> FunctionProto | None:  # type: ignore[no-untyped-def]
        onnx = require_onnx()
        kinds = []
        for type in types:
            kind = onnx.TypeProto()
            if type is not None:
                kind = onnx.helper.make_tensor_type_proto(elem_type_of(type.dtype), type.shape)
            kinds.append(kind.SerializeToString())
        own = self._versions.get(_domain(node.domain), self._opset) if _domain(node.domain) else self._opset
        versions = [v for v in schema.context_dependent_function_opset_versions if v <= own]
        if not versions:
            return None
        body: bytes = schema.get_context_dependent_function_with_opset_version(
            max(versions), node.SerializeToString(), kinds
        )
        function: FunctionProto = onnx.FunctionProto()
        function.ParseFromString(body)
        return function


def _domain(domain: str) -> str:
    return "" if domain == "ai.onnx" else domain


def _overload(proto: NodeProto | FunctionProto) -> str:
    """Which of several functions of one name is meant; the field came with IR version 10."""
    return str(getattr(proto, "overload", ""))
