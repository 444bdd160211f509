"""What of ONNX is refused on purpose, with the reason: the only operators and types that may count as refused.

An operator that is neither converted nor listed here is a gap, and the scoreboard counts it as a failure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from glulam.compiler.errors import UnsupportedError
from glulam.frontends.onnx.proto import is_half_byte, require_onnx
from glulam.frontends.onnx.structure import subgraphs

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, TypeProto

_SEQUENCES = "a value that is a sequence of tensors has no shape that could be fixed"
_OPTIONALS = "a value that may be absent has no shape that could be fixed"
_STRINGS = "strings are no tensors of numbers"
_TRAINING = "glulam compiles inference, not training"
_RANDOM = "the definition leaves the generator open, so no result could be checked"
_COUNTS = "how many elements its result has depends on the values of its inputs"

OPERATORS: Mapping[str, str] = MappingProxyType(
    {
        **dict.fromkeys(("Optional", "OptionalGetElement", "OptionalHasElement"), _OPTIONALS),
        **dict.fromkeys(
            ("StringConcat", "StringNormalizer", "StringSplit", "RegexFullMatch", "TfIdfVectorizer"), _STRINGS
        ),
        **dict.fromkeys(("Adagrad", "Adam", "Gradient", "Momentum"), _TRAINING),
        **dict.fromkeys(
            (
                *("Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform"),
                "RandomUniformLike",
            ),
            _RANDOM,
        ),
        "NonMaxSuppression": _COUNTS,
        "ImageDecoder": "decoding image files is not a computation on tensors",
    }
)
DOMAINS: Mapping[str, str] = MappingProxyType(
    {
        "ai.onnx.ml": "classical machine learning (trees, encoders) is another trade",
        "ai.onnx.preview.training": _TRAINING,
        "ai.onnx.training": _TRAINING,
    }
)
USES: Mapping[str, str] = MappingProxyType(
    {"Dropout in training mode": f"{_RANDOM}; layers.Dropout has one", "Unique of what is computed": _COUNTS}
)
_NARROW = "no kernel stores elements of less than a byte"
_FLOAT8 = "8-bit floats are not offered"
TYPES: Mapping[str, str] = MappingProxyType(
    {
        "STRING": _STRINGS,
        **dict.fromkeys(("COMPLEX64", "COMPLEX128"), "complex numbers are not offered"),
        **dict.fromkeys(("INT4", "UINT4", "INT2", "UINT2", "FLOAT4E2M1"), _NARROW),
        **dict.fromkeys(("FLOAT8E4M3FN", "FLOAT8E4M3FNUZ", "FLOAT8E5M2", "FLOAT8E5M2FNUZ", "FLOAT8E8M0"), _FLOAT8),
    }
)


def on_purpose(error: UnsupportedError) -> bool:
    """Whether everything that the error complains of is one of `USES`."""
    reasons = [f"{use}: {reason}" for use, reason in USES.items()]
    return bool(error.items) and all(item.endswith(tuple(reasons)) for item in error.items)


def refusals(model: ModelProto) -> list[str]:
    """Every reason in these lists for which the model is refused; empty if it has to work."""
    found: dict[str, None] = {}
    for text in _of_graph(model.graph):
        found.setdefault(text)
    return list(found)


def _of_graph(graph: GraphProto) -> Iterator[str]:
    for value in (*graph.input, *graph.output):
        yield from _of_type(value.type)
    for tensor in graph.initializer:
        if not is_half_byte(tensor.data_type):
            yield from _of_element(tensor.data_type)
    for node in graph.node:
        yield from _of_node(node)


def _of_node(node: NodeProto) -> Iterator[str]:
    if node.domain in DOMAINS:
        yield f"{node.domain}.{node.op_type}: {DOMAINS[node.domain]}"
    elif node.domain in ("", "ai.onnx") and node.op_type in OPERATORS:
        yield f"{node.op_type}: {OPERATORS[node.op_type]}"
    for attribute in node.attribute:
        if attribute.HasField("t"):
            yield from _of_element(attribute.t.data_type)
        elif node.op_type == "Cast" and attribute.name == "to":
            yield from _of_element(attribute.i)
    for inner in subgraphs(node):
        yield from _of_graph(inner)


def _of_type(type: TypeProto) -> Iterator[str]:
    match type.WhichOneof("value"):
        case "tensor_type":
            yield from _of_element(type.tensor_type.elem_type)
        case "sequence_type":
            yield f"sequence: {_SEQUENCES}"
        case "optional_type":
            yield f"optional: {_OPTIONALS}"


def _of_element(element: int) -> Iterator[str]:
    onnx: Any = require_onnx()
    known = dict(zip(onnx.TensorProto.DataType.values(), onnx.TensorProto.DataType.keys(), strict=True))
    name = known.get(element, "")
    if name in TYPES:
        yield f"{name}: {TYPES[name]}"
