"""The types of a model's inputs: dynamic dimensions are pinned by `shapes`, or by the one default there is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from glulam.compiler.errors import ModelFileError, ShapeError, UnsupportedError
from glulam.compiler.graph.types import TensorType
from glulam.compiler.options import whole
from glulam.frontends.onnx.proto import MAX_TENSOR_BYTES, dtype_of

if TYPE_CHECKING:
    from onnx import ValueInfoProto

Extent = int | str | None  # a number, a symbol, or nothing known
Declared = tuple[Extent, ...]


def input_types(inputs: Sequence[ValueInfoProto], shapes: Mapping[str, Sequence[int]] | None) -> dict[str, TensorType]:
    """The type of every input.

    `shapes` wins over whatever the model declares; a symbol that it pins at one input holds at all others. If only
    leading dimensions (of inputs with at least two) stay open, they are batch sizes and become 1.
    Raises ShapeError for `shapes` that do not fit, or that are needed and missing: it lists all such inputs.
    """
    if shapes is not None and not isinstance(shapes, Mapping):
        raise ShapeError(f"shapes is {shapes!r}; it must map names of inputs to shapes: {{'x': (1, 3, 224, 224)}}")
    shapes = dict(shapes or {})
    declared = {value.name: _declared(value) for value in inputs}
    if unknown := sorted(set(shapes) - set(declared)):
        raise ShapeError(f"shapes= names {unknown}, but the model's inputs are {list(declared)}")
    pinned = {name: _pinned(name, shape) for name, shape in shapes.items()}
    symbols = _symbols(declared, pinned)
    resolved: dict[str, Declared] = {}
    for name, extents in declared.items():
        if name in pinned:
            resolved[name] = pinned[name]
        elif extents is not None:
            resolved[name] = tuple(symbols.get(e, e) if isinstance(e, str) else e for e in extents)
    _pin_batch(resolved, declared)
    types = {}
    for value in inputs:
        dtype = dtype_of(value.type.tensor_type.elem_type, f"input {value.name!r}")
        types[value.name] = TensorType(dtype, tuple(e for e in resolved[value.name] if isinstance(e, int)))
        if types[value.name].nbytes > MAX_TENSOR_BYTES:
            raise ShapeError(f"input {value.name!r} has type {types[value.name]}, more than {MAX_TENSOR_BYTES} bytes")
    return types


def _declared(value: ValueInfoProto) -> Declared | None:
    """What the model says of the shape; None if it says nothing. -1 and unnamed dimensions are dynamic."""
    where = f"input {value.name!r}"
    kind = value.type.WhichOneof("value")
    if kind is None:
        raise ModelFileError(f"{where} has no type")
    if kind != "tensor_type":
        raise UnsupportedError("the model has an input that is not a tensor", [f"{where}: {kind}"])
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return None
    extents: list[Extent] = []
    for dim in tensor.shape.dim:
        if dim.HasField("dim_value"):
            if dim.dim_value < -1:
                raise ModelFileError(f"{where} declares an extent of {dim.dim_value}")
            extents.append(None if dim.dim_value == -1 else dim.dim_value)
        else:
            extents.append(dim.dim_param if dim.dim_param not in ("", "?") else None)
    return tuple(extents)


def _pinned(name: str, shape: Sequence[int]) -> tuple[int, ...]:
    """The given extents, numpy's integers too. Raises ShapeError for what is no list of integers >= 0."""
    wrong = ShapeError(f"shapes[{name!r}] is {shape}; a shape is made of integers >= 0")
    try:
        given = tuple(shape)
    except TypeError:
        raise wrong from None
    extents = tuple(extent for extent in map(whole, given) if extent is not None and extent >= 0)
    if len(extents) < len(given):
        raise wrong
    return extents


def _symbols(declared: Mapping[str, Declared | None], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    """Check `shapes` against the declared ranks; the symbols that they pin."""
    symbols: dict[str, int] = {}
    for name, shape in shapes.items():
        extents = declared[name]
        if extents is None:
            continue
        if len(extents) != len(shape):
            raise ShapeError(f"shapes[{name!r}] has {len(shape)} dimensions; the model declares {_text(extents)}")
        for symbol, extent in zip(extents, shape, strict=True):
            if isinstance(symbol, str):
                symbols.setdefault(symbol, extent)
    return symbols


def _pin_batch(resolved: dict[str, Declared], declared: Mapping[str, Declared | None]) -> None:
    open_inputs = [name for name in declared if name not in resolved or not _static(resolved[name])]
    batches = [n for n in open_inputs if n in resolved and len(resolved[n]) > 1 and _static(resolved[n][1:])]
    if len(batches) < len(open_inputs):
        lines = [f"{name}: {_text(resolved.get(name, declared[name]))}" for name in open_inputs]
        first = open_inputs[0]
        example = f"shapes={{{first!r}: (1, ...)}}, on the command line --shape {first}=1,...,"
        raise ShapeError("\n  ".join([f"the model has dynamic dimensions; pin them by {example} for", *lines]))
    for name in batches:
        resolved[name] = (1, *resolved[name][1:])


def _static(extents: Declared) -> bool:
    return all(isinstance(extent, int) for extent in extents)


def _text(extents: Declared | None) -> str:
    return "no shape" if extents is None else "[" + ", ".join("?" if e is None else str(e) for e in extents) + "]"
