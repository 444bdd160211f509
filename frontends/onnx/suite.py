"""ONNX's backend test suite as data: node cases made in memory, and models that lie in the onnx package."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from glulam.frontends.onnx.proto import require_onnx

if TYPE_CHECKING:
    from onnx import ModelProto, TypeProto, ValueInfoProto

FOLDERS = ("pytorch-converted", "pytorch-operator", "simple")
SUITES = ("node", *FOLDERS, "light")

DataSet = tuple[Sequence[Any], Sequence[Any]]


@dataclass(frozen=True)
class Case:
    """One case. `load` gives the model and its data sets of (inputs, expected outputs)."""

    suite: str
    name: str
    operator: str
    load: Callable[[], tuple[ModelProto, Sequence[DataSet]]]


def collect(suites: Sequence[str]) -> list[Case]:
    """The cases of the suites, always in the same order. Raises GlulamError if the onnx package is missing."""
    require_onnx()
    makers: dict[str, Callable[[], Iterator[Case]]] = {"node": _node_cases, "light": _light_cases}
    found: list[Case] = []
    for suite in suites:
        maker = makers.get(suite)
        found += sorted(maker() if maker else _folder_cases(suite), key=lambda case: case.name)
    return found


def _node_cases() -> Iterator[Case]:
    from onnx.backend.test.case.node import collect_testcases

    cases = collect_testcases(None)
    operators = {case.name: case.model.graph.node[0].op_type for case in cases}
    for case in cases:
        sets = [([_plain(x) for x in inputs], [_plain(y) for y in outputs]) for inputs, outputs in case.data_sets]
        # a case with the operator's function body in place of the operator belongs to the operator
        base = case.name.split("_expanded")[0]
        yield Case("node", case.name, operators.get(base, operators[case.name]), _given(case.model, sets))


def _given(model: ModelProto, sets: Sequence[DataSet]) -> Callable[[], tuple[ModelProto, Sequence[DataSet]]]:
    return lambda: (model, sets)


def _plain(item: Any) -> Any:
    onnx = require_onnx()
    return onnx.numpy_helper.to_array(item) if isinstance(item, onnx.TensorProto) else item


def _data() -> Path:
    return Path(require_onnx().__file__).parent / "backend" / "test" / "data"


def _folder_cases(suite: str) -> Iterator[Case]:
    for folder in sorted((_data() / suite).iterdir()):
        file = folder / "model.onnx"
        if file.exists():
            operator = require_onnx().load(file, load_external_data=False).graph.node[0].op_type
            yield Case(suite, folder.name, operator, _stored(file))


def _stored(file: Path) -> Callable[[], tuple[ModelProto, Sequence[DataSet]]]:
    def load() -> tuple[ModelProto, Sequence[DataSet]]:
        model = require_onnx().load(file)
        sets = []
        for folder in sorted(file.parent.glob("test_data_set_*")):
            sides = []
            for kind, values in (("input", model.graph.input), ("output", model.graph.output)):
                count = len(list(folder.glob(f"{kind}_*.pb")))
                sides.append([_read(folder / f"{kind}_{i}.pb", values[i].type) for i in range(count)])
            sets.append((sides[0], sides[1]))
        return model, sets

    return load


def _light_cases() -> Iterator[Case]:
    for file in sorted((_data() / "light").glob("*.onnx")):
        yield Case("light", file.stem, file.stem.removeprefix("light_"), _light(file))


def _light(file: Path) -> Callable[[], tuple[ModelProto, Sequence[DataSet]]]:
    def load() -> tuple[ModelProto, Sequence[DataSet]]:
        model = require_onnx().load(file)
        stored = {tensor.name for tensor in model.graph.initializer}
        inputs = [_ramp(value) for value in model.graph.input if value.name not in stored]
        expected = _read(file.with_name(f"{file.stem}_output_0.pb"), model.graph.output[0].type)
        return model, [(inputs, [expected])]

    return load


def _ramp(value: ValueInfoProto) -> Any:
    """The input that the suite's own runner makes for a model without stored data."""
    shape = tuple(dim.dim_value or 1 for dim in value.type.tensor_type.shape.dim)
    return (np.arange(np.prod(shape)).reshape(shape) / np.prod(shape)).astype(np.float32)


def _read(file: Path, type: TypeProto) -> Any:
    onnx = require_onnx()
    data = file.read_bytes()
    match type.WhichOneof("value"):
        case "sequence_type":
            sequence = onnx.SequenceProto()
            sequence.ParseFromString(data)
            return onnx.numpy_helper.to_list(sequence)
        case "optional_type":
            optional = onnx.OptionalProto()
            optional.ParseFromString(data)
            return onnx.numpy_helper.to_optional(optional)
    tensor = onnx.TensorProto()
    tensor.ParseFromString(data)
    return onnx.numpy_helper.to_array(tensor)
