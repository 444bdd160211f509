"""What a compiled program says about itself: shapes, memory, steps, and the machine it was compiled for."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import Any, TypeVar

import numpy as np

from glulam.runtime import abi
from glulam.runtime.errors import ArtifactError, ArtifactVersionError

FORMAT_VERSION = 4
DTYPES = (
    *("float32", "float64", "float16", "int64", "int32", "int16", "int8"),
    *("uint64", "uint32", "uint16", "uint8", "bool"),
)
Option = str | int | float | bool | None

_MAX_BYTES = 1 << 47  # of one block: no process has more
_MAX_RANK = int(getattr(np, "MAXDIMS", 64))  # of numpy's arrays; 32 before numpy 2
T = TypeVar("T")


@dataclass(frozen=True)
class TensorSpec:
    """Name, numpy dtype name and shape of an input or output."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        _require(isinstance(self.name, str), f"tensor name {self.name!r} is not a string")
        _require(self.dtype in DTYPES, f"tensor {self.name}: dtype {self.dtype!r}; known are {', '.join(DTYPES)}")
        _require(
            len(self.shape) <= _MAX_RANK and all(map(_is_count, self.shape)) and _is_possible(self),
            f"tensor {self.name}: shape {_shortened(self.shape)}",
        )

    @cached_property
    def numpy(self) -> np.dtype[np.generic]:
        return np.dtype(self.dtype)

    @cached_property
    def nbytes(self) -> int:
        return math.prod(self.shape) * int(self.numpy.itemsize)

    def __str__(self) -> str:
        return f"{self.name}: {self.dtype}[{','.join(map(str, self.shape))}]"


@dataclass(frozen=True)
class StepInfo:
    """One kernel call of the program.

    `label` names the layers it came from; `flops` and `bytes` are its arithmetic and its least memory traffic for one
    run; the kernel does `extent` iterations, given to threads in chunks of `grain`. `algorithm` names how it computes
    where there was a choice; behind a colon it says why.
    """

    kernel: str
    label: str
    extent: int
    grain: int
    flops: int
    bytes: int
    algorithm: str = ""

    def __post_init__(self) -> None:
        texts = (self.kernel, self.label, self.algorithm)
        _require(all(isinstance(text, str) for text in texts), "step without kernel, label or algorithm")
        counts = (self.extent, self.grain, self.flops, self.bytes)
        _require(all(map(_is_count, counts)) and self.grain > 0, f"step {self.kernel}: counts {counts!r}")


@dataclass(frozen=True)
class Manifest:
    """Everything the runtime needs to know about a program besides its code, weights and graph text.

    `cpu_features` are LLVM feature names without sign; the code is loaded only where the host has all of them.
    `scratch_bytes` is private memory of each thread, `arena_bytes` is shared.
    """

    glulam_version: str
    target: str
    triple: str
    cpu_features: tuple[str, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    arena_bytes: int
    scratch_bytes: int
    steps: tuple[StepInfo, ...]
    options: Mapping[str, Option]
    abi_version: int = abi.ABI_VERSION
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        for text in (self.glulam_version, self.target, self.triple, *self.cpu_features):
            _require(isinstance(text, str), f"manifest: {text!r} is not text")
        for count in (self.arena_bytes, self.scratch_bytes):
            _require(_is_count(count) and count < _MAX_BYTES, f"manifest: memory size {count!r}")
        for kind, specs in (("input", self.inputs), ("output", self.outputs)):
            names = [spec.name for spec in specs]
            _require(len(set(names)) == len(names), f"manifest: two {kind}s have one name: {names}")
        for key, value in self.options.items():
            _require(
                isinstance(key, str) and (value is None or isinstance(value, str | int | float | bool)),
                f"manifest: option {key!r} has value {value!r}",
            )

    def to_json(self) -> dict[str, Any]:
        """Plain dicts, lists and scalars."""
        return asdict(self) | {"options": dict(self.options)}

    @classmethod
    def from_json(cls, data: object) -> Manifest:
        """Raises ArtifactVersionError for another format or ABI, ArtifactError for anything that is not a manifest."""
        record = _record(data, "manifest")
        for key, known in (("format_version", FORMAT_VERSION), ("abi_version", abi.ABI_VERSION)):
            if record.get(key) != known:
                raise ArtifactVersionError(
                    f"the artifact has {key} {record.get(key)!r}, this runtime reads {known}; "
                    "compile the model again with the installed glulam"
                )
        return _build(
            cls,
            record,
            cpu_features=lambda value: tuple(_sequence(value, "cpu_features")),
            inputs=lambda value: tuple(_tensor_spec(item) for item in _sequence(value, "inputs")),
            outputs=lambda value: tuple(_tensor_spec(item) for item in _sequence(value, "outputs")),
            steps=lambda value: tuple(_build(StepInfo, _record(item, "step")) for item in _sequence(value, "steps")),
            options=lambda value: _record(value, "options"),
        )


def _tensor_spec(data: object) -> TensorSpec:
    return _build(TensorSpec, _record(data, "tensor"), shape=lambda value: tuple(_sequence(value, "shape")))


def _build(cls: type[T], record: Mapping[str, Any], **convert: Callable[[Any], Any]) -> T:
    names = {field.name for field in fields(cls)}  # type: ignore[arg-type]
    if set(record) != names:
        raise ArtifactError(f"manifest: {cls.__name__} has fields {sorted(record)}, expected {sorted(names)}")
    return cls(**{name: convert[name](value) if name in convert else value for name, value in record.items()})


def _record(data: object, what: str) -> dict[str, Any]:
    if not isinstance(data, dict):
        raise ArtifactError(f"manifest: {what} is {type(data).__name__}, expected an object")
    return data


def _sequence(data: object, what: str) -> Sequence[Any]:
    if not isinstance(data, list):
        raise ArtifactError(f"manifest: {what} is {type(data).__name__}, expected a list")
    return data


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_possible(spec: TensorSpec) -> bool:
    """Whether numpy makes such arrays: their bytes are counted as if they had elements."""
    return math.prod(extent for extent in spec.shape if extent) * int(spec.numpy.itemsize) < _MAX_BYTES


def _shortened(shape: tuple[object, ...]) -> str:
    text = repr(shape)
    return text if len(text) <= 200 else f"{text[:200]}... of rank {len(shape)}"


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ArtifactError(message)
