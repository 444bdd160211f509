"""from_onnx: an ONNX model becomes a Graph of layer ops, with every shape fixed and shape arithmetic folded away."""

from __future__ import annotations

import os
from collections import ChainMap
from collections.abc import Mapping, MutableMapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glulam.compiler.errors import GlulamError, GraphError, ModelFileError, UnsupportedError
from glulam.compiler.graph.graph import Graph, Value
from glulam.compiler.graph.types import Array
from glulam.frontends.onnx.build import Builder
from glulam.frontends.onnx.context import DEPENDS, Context, Held, Places, Repeated, Result, Tensors
from glulam.frontends.onnx.functions import Functions
from glulam.frontends.onnx.inputs import input_types
from glulam.frontends.onnx.proto import half_bytes, is_half_byte, load_model, require_onnx, tensor_array
from glulam.frontends.onnx.refused import DOMAINS, OPERATORS
from glulam.frontends.onnx.structure import full_name, ordered, shown, subgraphs
from glulam.frontends.onnx.table import CONVERTERS

if TYPE_CHECKING:
    from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto

OLDEST_OPSET, NEWEST_OPSET = 6, 28
DEQUANTIZERS = ("DequantizeLinear", "com.microsoft.DequantizeLinear")
MAX_NODES = 50_000  # functions may call functions: a small file can stand for a great many nodes

Scope = MutableMapping[str, Held | None]  # None: could not be converted, the reason is noted


def from_onnx(
    source: str | os.PathLike[str] | bytes | ModelProto, shapes: Mapping[str, Sequence[int]] | None = None
) -> Graph:
    """The graph of an ONNX model.

    source: a path, the file's bytes, or a ModelProto. External data is read only for a path, and only from files
    below the model's own folder.
    shapes: input name -> shape; needed for inputs with dynamic dimensions, and it may override static ones. If only
    leading (batch) dimensions are dynamic, they default to 1. Shapes that the model declares for anything but its
    inputs are not used.

    Inputs and outputs of the graph have the model's names. What does not depend on the inputs is folded as far as
    shape arithmetic needs it.

    Raises UnsupportedError listing every operator, attribute value or type that glulam does not offer, ModelFileError
    if the file is malformed, ShapeError if `shapes` is needed or wrong, GlulamError if the onnx package is missing.
    """
    model, folder = load_model(source)
    return _Importer(model, folder).run(shapes)


def specialise(model: ModelProto, values: Mapping[str, Array]) -> tuple[Graph, frozenset[str]]:
    """The graph for one use of a model, whose inputs are `values`; and the inputs that it cannot be used without.

    Shapes are those of the values. Where an operator needs to know what one of its inputs is (the shape of a Reshape),
    and that depends on inputs of the model, the given values are built in: the graph holds for them alone. The names of
    these inputs come back; the graph has them all the same. Raises what `from_onnx` raises.
    """
    model, folder = load_model(model)
    importer = _Importer(model, folder, values)
    graph = importer.run({name: array.shape for name, array in values.items()})
    return graph, frozenset(importer.builder.baked)


class _Importer:
    def __init__(self, model: ModelProto, folder: Path | None, values: Mapping[str, Array] | None = None) -> None:
        self.model = model
        self.folder = folder
        self.values = values or {}
        self.opset = _opset(model)
        self.builder = Builder(model.graph.name or "graph")
        self.functions = Functions(model, self.opset)
        self.refused: list[str] = []
        self.converted = 0

    def run(self, shapes: Mapping[str, Sequence[int]] | None) -> Graph:
        proto = self.model.graph
        _check_names(proto)
        stored = {tensor.name for tensor in proto.initializer}
        inputs = [value for value in proto.input if value.name not in stored]
        names = list(dict.fromkeys(value.name for value in proto.output))  # an output may be listed twice
        scope: Scope = {}
        given = {value.name for value in inputs} | stored
        nodes = ordered(proto.node, given, names)
        self._refuse_unknown(nodes)
        for name, type in input_types(inputs, shapes).items():
            value = self.builder.graph.input(name, type)
            scope[name] = value
            if name in self.values:
                self.builder.offer(value, self.values[name])
        self._initialisers(proto, scope, nodes, names)
        self._nodes(nodes, scope, names)
        for name in names:
            match scope[name]:
                case Tensors():
                    self._refuse(UnsupportedError("it is a sequence; split it into tensors"), f"output {name!r}")
                case Places() | Repeated():
                    self._refuse(UnsupportedError(f"how many elements it has {DEPENDS}"), f"output {name!r}")
        if self.refused:
            raise UnsupportedError("the model uses what glulam does not offer:", self.refused)
        graph = self.builder.graph
        for name in names:
            value = scope[name]
            assert isinstance(value, Value)
            graph.output(name, value)
        return Graph.of(graph.inputs, graph.outputs, graph.name)

    # ---- pieces of a graph

    def _initialisers(self, proto: GraphProto, scope: Scope, nodes: Sequence[NodeProto], wanted: Sequence[str]) -> None:
        """Constants for the stored tensors that anybody reads."""
        used = set(wanted).union(*(_all_names(node) for node in nodes))
        for tensor in proto.initializer:
            if tensor.name not in used:
                continue
            try:
                data = self._stored(tensor, nodes, wanted)
            except UnsupportedError as error:
                self._refuse(error)
                scope[tensor.name] = None
                continue
            scope[tensor.name] = self.builder.constant(data, tensor.name)

    def _stored(self, tensor: TensorProto, nodes: Sequence[NodeProto], wanted: Sequence[str]) -> Array:
        """The numbers of an initialiser; codes of 4 bits are bytes where nothing but DequantizeLinear reads them."""
        where = f"initialiser {tensor.name!r}"
        if is_half_byte(tensor.data_type) and tensor.name not in wanted:
            readers = [full_name(node) for node in nodes if tensor.name in _all_names(node)]
            if all(reader in DEQUANTIZERS for reader in readers):
                return half_bytes(tensor, self.folder, where)
        return tensor_array(tensor, self.folder, where)

    def _nodes(
        self, nodes: Sequence[NodeProto], scope: Scope, outputs: Sequence[str], call: Call | None = None
    ) -> None:
        used = set(outputs).union(*(_all_names(node) for node in nodes))
        for node in nodes:
            self._count()
            results = self._node(node, scope, used, call)
            for i, name in enumerate(node.output):
                if name:
                    scope[name] = results[i] if i < len(results) else None
                    if name in used and scope[name] is None and not self.refused:
                        raise ModelFileError(f"{shown(node)} does not make its output {i} ({name!r})")

    def _count(self) -> None:
        """One node more, or one more round of a loop that has none."""
        self.converted += 1
        if self.converted > MAX_NODES:
            raise ModelFileError(f"the model unfolds to more than {MAX_NODES} nodes")

    def _node(self, node: NodeProto, scope: Scope, used: set[str], call: Call | None) -> Sequence[Held | None]:
        """The values of the node's outputs; none of them if the node, or one before it, is refused."""
        inputs = [scope[name] if name else None for name in node.input]
        if any(name and value is None for name, value in zip(node.input, inputs, strict=True)):
            return ()
        try:
            attributes = _attributes(node, call)
            given = node if call is None else _resolved(node, attributes)
            function = self.functions.body(given, [v.type if isinstance(v, Value) else None for v in inputs])
            if function is not None:
                attributes = {**self.functions.defaults(node), **attributes}
                return self._function(node, function, attributes, inputs)
            if full_name(node) not in CONVERTERS:
                raise UnsupportedError(_not_offered(node))
            return self._convert(node, attributes, inputs, scope, used, call)
        except _BranchRefused:
            return ()
        except UnsupportedError as error:
            self._refuse(error, shown(node))
            return ()
        except (ModelFileError, GraphError) as error:
            raise ModelFileError(f"{shown(node)}: {error}") from error
        except (ValueError, IndexError, ArithmeticError) as error:  # shapes and numbers that do not go together
            raise ModelFileError(f"{shown(node)}: its attributes and inputs make no sense ({error})") from error
        except (AssertionError, AttributeError, KeyError, MemoryError, TypeError) as error:
            error.add_note(f"while glulam converted {shown(node)}")
            raise

    def _convert(
        self,
        node: NodeProto,
        attributes: Mapping[str, Any],
        inputs: Sequence[Held | None],
        scope: Scope,
        used: set[str],
        call: Call | None,
    ) -> Sequence[Held | None]:
        context = Context(
            node,
            attributes,
            inputs,
            self.opset if call is None else call.opset,
            self.model.producer_name,
            self.builder,
            [name in used for name in node.output],
            partial(tensor_array, folder=self.folder, where="a tensor in an attribute"),
            partial(self._branch, scope=scope, call=call),
        )
        known = set(self.builder.graph.nodes[-1:])
        result: Result = CONVERTERS[full_name(node)](context)
        context.check_all_read()
        values = result if isinstance(result, tuple) else (result,)
        self._rename(node, values, known)
        return values

    def _rename(self, node: NodeProto, values: Sequence[Held], before: set[Any]) -> None:
        """Give fresh results the names that the model has for them."""
        last = self.builder.graph.nodes[-1:]
        if not last or last[0] in before:
            return
        for name, value in zip(node.output, values, strict=False):
            if name and isinstance(value, Value) and value.producer is last[0] and value.name != name:
                value.name = self.builder.graph.unique(name)

    def _branch(self, proto: GraphProto, inputs: Sequence[Held], scope: Scope, call: Call | None) -> tuple[Held, ...]:
        """The outputs of a subgraph that is put in place of its node, with these values as its inputs."""
        _check_names(proto)
        if len(inputs) != len(proto.input):
            raise ModelFileError(
                f"the graph {proto.name!r} takes {len(proto.input)} inputs, and is given {len(inputs)}"
            )
        inner: Scope = ChainMap({}, scope)
        inner.update((value.name, given) for value, given in zip(proto.input, inputs, strict=True))
        names = [value.name for value in proto.output]
        stored = {tensor.name for tensor in proto.initializer}
        nodes = ordered(proto.node, _Both(stored | {value.name for value in proto.input}, scope), names)
        if not nodes:
            self._count()
        self._initialisers(proto, inner, nodes, names)
        self._nodes(nodes, inner, names, call)
        return self._all_there([inner[name] for name in names])

    def _function(
        self, node: NodeProto, function: FunctionProto, attributes: Mapping[str, Any], inputs: Sequence[Held | None]
    ) -> Sequence[Held | None]:
        """The outputs of a function's body, put in place of the call."""
        wanted = [inner for inner, name in zip(function.output, node.output, strict=False) if name]
        with self.functions.entered(function):
            scope: Scope = {}
            absent = set(function.input[len(inputs) :])
            for name, value in zip(function.input, inputs, strict=False):
                if value is None:
                    absent.add(name)
                else:
                    scope[name] = value
            call = Call(self.functions.opset(function), attributes, function, absent)
            nodes = ordered([call.cleaned(inner) for inner in function.node], set(scope), wanted)
            self._nodes(nodes, scope, wanted, call)
            return [scope.get(name) for name in function.output]

    @staticmethod
    def _all_there(values: Sequence[Held | None]) -> tuple[Held, ...]:
        if any(value is None for value in values):
            raise _BranchRefused("the branch is not offered")
        return tuple(value for value in values if value is not None)

    # ---- refusals

    def _refuse(self, error: GlulamError, where: str = "") -> None:
        lines = error.items if isinstance(error, UnsupportedError) and error.items else [str(error)]
        for line in lines:
            text = f"{where}: {line}" if where else line
            if text not in self.refused:
                self.refused.append(text)

    def _refuse_unknown(self, nodes: Sequence[NodeProto]) -> None:
        """Collect the operators that nothing can be done about, before any work is spent on the others."""
        for node in nodes:
            if full_name(node) not in CONVERTERS and not self.functions.may_expand(node):
                self.refused.append(f"{shown(node)}: {_not_offered(node)}")


class _BranchRefused(UnsupportedError):
    """A branch holds what is not offered; that is noted already."""


class Call:
    """What the body of a function sees of its call: the attributes, the opset, and which inputs were left out."""

    def __init__(self, opset: int, attributes: Mapping[str, Any], function: FunctionProto, absent: set[str]) -> None:
        self.opset = opset
        helper = require_onnx().helper
        defaults = {a.name: helper.get_attribute_value(a) for a in function.attribute_proto}
        self.attributes = {**defaults, **attributes}
        self.absent = absent

    def cleaned(self, node: NodeProto) -> NodeProto:
        """The node without the inputs that the call leaves out, and with the call's attributes in place."""
        named = any(entry.ref_attr_name for entry in node.attribute)
        if not named and not self.absent.intersection(node.input):
            return node
        copy = type(node)()
        copy.CopyFrom(node)
        copy.input[:] = ["" if name in self.absent else name for name in node.input]
        if named:
            del copy.attribute[:]
            copy.attribute.extend(filter(None, map(self._resolved, node.attribute)))
        return copy

    def _resolved(self, entry: AttributeProto) -> AttributeProto | None:
        """An attribute that may stand for one of the call's; None if the call does not have it."""
        if not entry.ref_attr_name:
            return entry
        value = self.attributes.get(entry.ref_attr_name)
        if value is None:
            return None
        try:
            made = require_onnx().helper.make_attribute(entry.name, value, attr_type=entry.type or None)
        except (TypeError, ValueError) as error:
            raise ModelFileError(f"attribute {entry.name} cannot be what {entry.ref_attr_name} is: {error}") from error
        return made  # type: ignore[no-any-return]


class _Both(set[str]):
    """Names of a set, and of a scope around it, for which a copy would be wasteful."""

    def __init__(self, own: set[str], outer: Scope) -> None:
        super().__init__(own)
        self.outer = outer

    def __contains__(self, name: object) -> bool:
        return super().__contains__(name) or name in self.outer


def _resolved(node: NodeProto, attributes: Mapping[str, Any]) -> NodeProto:
    """The node of a function's body with the attributes of the call in place of references to them."""
    if not any(attribute.ref_attr_name for attribute in node.attribute):
        return node
    copy = type(node)()
    copy.CopyFrom(node)
    del copy.attribute[:]
    copy.attribute.extend(require_onnx().helper.make_attribute(name, value) for name, value in attributes.items())
    return copy


def _opset(model: ModelProto) -> int:
    versions = [entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")]
    if not versions and len(model.opset_import):
        return NEWEST_OPSET  # nothing but other domains, whose operators are refused by name
    if not versions:
        raise ModelFileError("the model does not say which opset it uses")
    if 1 <= versions[0] < OLDEST_OPSET and _unchanged(model.graph, int(versions[0])):
        return OLDEST_OPSET
    if not OLDEST_OPSET <= versions[0] <= NEWEST_OPSET:
        offered = f"opsets {OLDEST_OPSET} to {NEWEST_OPSET} are offered; convert it by onnx.version_converter"
        raise UnsupportedError(f"the model uses opset {versions[0]}: {offered}", [f"opset {versions[0]}"])
    return int(versions[0])


def _unchanged(graph: GraphProto, opset: int) -> bool:
    """Whether all operators of the graph meant at this opset what they mean at the oldest one offered."""
    defs = require_onnx().defs
    try:
        return all(
            defs.get_schema(node.op_type, opset, "").since_version
            == defs.get_schema(node.op_type, OLDEST_OPSET, "").since_version
            for node in graph.node
        )
    except defs.SchemaError:
        return False


def _check_names(proto: GraphProto) -> None:
    for what, names in (
        ("input", [value.name for value in proto.input]),
        ("output", [value.name for value in proto.output]),
        ("initialiser", [tensor.name for tensor in proto.initializer]),
    ):
        for name in names:
            if not name:
                raise ModelFileError(f"the graph has an {what} without a name")
        if len(set(names)) != len(names) and what != "output":
            twice = sorted({name for name in names if names.count(name) > 1})
            raise ModelFileError(f"the graph has two {what}s named {twice[0]!r}")
    if proto.sparse_initializer:
        names = [f"initialiser {sparse.values.name!r}" for sparse in proto.sparse_initializer]
        raise UnsupportedError("the model stores sparse tensors, which glulam does not read", names)
    if not proto.output:
        raise ModelFileError("the graph has no outputs")


def _not_offered(node: NodeProto) -> str:
    if node.domain.startswith("com.microsoft"):
        remedy = "take the model as it was before optimising or quantising"
        return f"the operator is not offered: it is ONNX Runtime's own; {remedy}"
    reason = OPERATORS.get(full_name(node), DOMAINS.get(node.domain))
    if reason is None and node.domain in ("", "ai.onnx") and not require_onnx().defs.has(node.op_type):
        return "ONNX has no such operator: the exporter left one of its own; export the model without it"
    return f"the operator is not offered: {reason}" if reason else "the operator is not offered"


def _all_names(node: NodeProto) -> set[str]:
    """What the node and its subgraphs read; the empty name, of inputs left out, is nobody's."""
    names = set(filter(None, node.input))
    for graph in subgraphs(node):
        names.update(value.name for value in graph.output)
        names.update(*(_all_names(inner) for inner in graph.node))
    return names


def _attributes(node: NodeProto, call: Call | None) -> dict[str, Any]:
    """Attribute values by name; references to the attributes of an enclosing function are followed."""
    helper = require_onnx().helper
    found: dict[str, Any] = {}
    for attribute in node.attribute:
        if attribute.name in found:
            raise ModelFileError(f"attribute {attribute.name} is given twice")
        if attribute.ref_attr_name:
            if call is not None and attribute.ref_attr_name in call.attributes:
                found[attribute.name] = call.attributes[attribute.ref_attr_name]
            continue
        try:
            found[attribute.name] = helper.get_attribute_value(attribute)
        except ValueError as error:
            raise ModelFileError(f"attribute {attribute.name} has no type") from error
        if found[attribute.name] is None:
            raise ModelFileError(f"attribute {attribute.name} has no value")
    return found
