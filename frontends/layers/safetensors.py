"""Reader of safetensors files: an 8-byte little-endian header length, a JSON header, and the raw tensors.

Format: https://huggingface.co/docs/safetensors, section "Format". Nothing in the header is trusted: every range is
checked against the file before it is used.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from glulam.compiler.errors import ModelFileError
from glulam.compiler.graph.types import Array

MAX_HEADER = 100_000_000  # the limit of the format's own implementation

_DTYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "<u2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "|i1",
    "U64": "<u8",
    "U32": "<u4",
    "U16": "<u2",
    "U8": "|u1",
    "BOOL": "|b1",
}


def read(path: str | Path) -> dict[str, Array]:
    """The tensors by name, copied out of the file (bfloat16 widened to float32).

    Raises ModelFileError if the file is missing, damaged, or lies about its contents.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
        data = np.memmap(path, np.uint8, mode="r") if size else np.zeros(0, np.uint8)
    except OSError as error:
        raise ModelFileError(f"{path}: {error}") from error
    header, body = _split(path, data)
    return {name: _tensor(path, name, entry, body) for name, entry in header.items() if name != "__metadata__"}


def _split(path: Path, data: Array) -> tuple[dict[str, Any], Array]:
    if data.size < 8:
        raise ModelFileError(f"{path}: {data.size} bytes are too few for a safetensors file")
    length = int.from_bytes(data[:8].tobytes(), "little")
    if length > min(MAX_HEADER, data.size - 8):
        raise ModelFileError(f"{path}: a header of {length} bytes in a file of {data.size}")
    try:
        header = json.loads(data[8 : 8 + length].tobytes().decode("utf-8"), object_pairs_hook=_no_duplicates)
    except (ValueError, RecursionError) as error:
        raise ModelFileError(f"{path}: the header is not valid JSON ({error})") from error
    if not isinstance(header, dict):
        raise ModelFileError(f"{path}: the header is not a JSON object")
    return header, data[8 + length :]


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a key occurs twice")
    return table


def _tensor(path: Path, name: str, entry: Any, body: Array) -> Array:
    if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= set(entry):
        raise ModelFileError(f"{path}: tensor {name!r} lacks dtype, shape or data_offsets")
    kind, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(kind, str) or kind not in _DTYPES:
        raise ModelFileError(f"{path}: tensor {name!r} has dtype {kind!r}; known are {', '.join(_DTYPES)}")
    if not _naturals(shape) or not _naturals(offsets) or len(offsets) != 2:
        raise ModelFileError(f"{path}: tensor {name!r} has shape {shape!r} and offsets {offsets!r}")
    dtype = np.dtype(_DTYPES[kind])
    begin, end = offsets
    wanted = dtype.itemsize
    for extent in shape:
        wanted *= extent
    if not begin <= end <= body.size or end - begin != wanted:
        raise ModelFileError(
            f"{path}: tensor {name!r} of {wanted} bytes lies at {begin}:{end} in {body.size} bytes of data"
        )
    try:
        array = np.frombuffer(body[begin:end].tobytes(), dtype).reshape(shape)
    except (ValueError, OverflowError) as error:
        raise ModelFileError(f"{path}: tensor {name!r} of {len(shape)} axes cannot be an array ({error})") from error
    if kind == "BF16":
        return (array.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return array.astype(dtype.newbyteorder("="), copy=False)


def _naturals(value: Any) -> bool:
    return isinstance(value, list) and all(type(entry) is int and entry >= 0 for entry in value)
