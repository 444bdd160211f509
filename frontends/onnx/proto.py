"""Reading ONNX protobufs: the model file, its tensors, and external data that may not leave the model's folder."""

from __future__ import annotations

import math
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from glulam.compiler.errors import ArgumentError, GlulamError, GraphError, ModelFileError, UnsupportedError
from glulam.compiler.graph.types import Array, DType

if TYPE_CHECKING:
    from onnx import ModelProto, TensorProto

_HALF_BYTES = {"INT4": DType.I8, "UINT4": DType.U8}  # codes, and the bytes that hold one each here
_REMEDIES = {
    **dict.fromkeys(_HALF_BYTES, "only initialisers for DequantizeLinear may have 4 bits; quantise others to 8"),
    **dict.fromkeys(("INT2", "UINT2", "FLOAT4E2M1"), "quantise to 8 bits instead"),
}
MAX_TENSOR_BYTES = 1 << 34  # no tensor of a model, stored or computed, may be larger


def require_onnx() -> Any:
    """The onnx package. Raises GlulamError with the remedy if it is not installed."""
    try:
        import onnx
        import onnx.numpy_helper  # a submodule of its own
    except ImportError as error:
        raise GlulamError("ONNX files need the onnx package: pip install 'glulam[onnx]'") from error
    return onnx


def load_model(source: str | os.PathLike[str] | bytes | ModelProto) -> tuple[ModelProto, Path | None]:
    """The parsed model and the folder that its external data may come from (None: no folder is known).

    Raises ModelFileError if the file cannot be read or is not an ONNX model.
    """
    onnx = require_onnx()
    folder, shown = None, "the given model"
    if isinstance(source, onnx.ModelProto):
        model = source
    else:
        if isinstance(source, (str, os.PathLike)):
            path = Path(source)
            try:
                data = path.read_bytes()
            except OSError as error:
                raise ModelFileError(f"cannot read {path}: {error.strerror or error}") from error
            folder, shown = path.parent, str(path)
        elif isinstance(source, (bytes, bytearray, memoryview)):
            data, shown = bytes(source), "the given bytes"
        else:
            raise ArgumentError(f"from_onnx takes a path, bytes or a ModelProto, not {type(source).__name__}")
        model = _parse(onnx, data, shown)
        del data  # as large as the model itself
    if not model.HasField("graph") or not (model.graph.node or model.graph.output):
        raise ModelFileError(f"{shown}: not an ONNX model: the file holds no graph (truncated, or of another format?)")
    _check_text(model)
    return model, folder


def _parse(onnx: Any, data: bytes, shown: str) -> ModelProto:
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except (DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ModelFileError(f"{shown}: not an ONNX model, or a truncated one ({error})") from error
    return model  # type: ignore[no-any-return]


def _check_text(message: Any) -> None:
    """protobuf hands over strings that are not UTF-8 as bytes; no later stage wants to meet them."""
    for field, value in message.ListFields():
        if field.type not in (field.TYPE_MESSAGE, field.TYPE_STRING):
            continue
        for entry in [value] if hasattr(value, "ListFields") or isinstance(value, str | bytes) else value:
            if field.type == field.TYPE_MESSAGE:
                _check_text(entry)
            elif not isinstance(entry, str):
                raise ModelFileError(f"not an ONNX model: the text {entry!r} in field {field.name} is not UTF-8")


def dtype_of(elem_type: int, where: str) -> DType:
    """The DType of an ONNX element type. Raises UnsupportedError for one without counterpart.

    bfloat16 is float32 here: every one of its numbers is one, and nothing is computed in it.
    """
    onnx = require_onnx()
    if elem_type == onnx.TensorProto.BFLOAT16:
        return DType.F32
    names = onnx.TensorProto.DataType
    shown = names.Name(elem_type) if elem_type in names.values() else str(elem_type)
    if elem_type not in names.values() or elem_type == onnx.TensorProto.UNDEFINED:
        raise ModelFileError(f"{where}: unknown element type {shown}")
    try:
        if elem_type == onnx.TensorProto.STRING:
            raise GraphError("strings are not tensors of numbers")
        return DType.of(onnx.helper.tensor_dtype_to_np_dtype(elem_type))
    except (GraphError, KeyError, TypeError) as error:
        remedy = f"; {_REMEDIES[shown]}" if shown in _REMEDIES else ""
        raise UnsupportedError(
            "the model uses an element type that glulam does not offer", [f"{where}: {shown}{remedy}"]
        ) from error


def is_bfloat16(elem_type: int) -> bool:
    return bool(elem_type == require_onnx().TensorProto.BFLOAT16)


def elem_type_of(dtype: DType) -> int:
    """The ONNX element type of a DType."""
    return int(require_onnx().helper.np_dtype_to_tensor_dtype(dtype.numpy))


def tensor_array(tensor: TensorProto, folder: Path | None, where: str) -> Array:
    """The numbers of a tensor.

    Raises ModelFileError if dims and data do not agree, or external data is not to be trusted; UnsupportedError for
    element types without counterpart.
    """
    onnx = require_onnx()
    dtype = dtype_of(tensor.data_type, where)
    stored = np.dtype(np.uint16) if is_bfloat16(tensor.data_type) else dtype.numpy
    shape = tuple(tensor.dims)
    data = _bytes_of(tensor, math.prod(shape) * stored.itemsize, folder, where)
    if data is not None:
        return _decoded(data, stored, dtype, shape)
    fields = (tensor.float_data, tensor.int32_data, tensor.int64_data, tensor.double_data, tensor.uint64_data)
    count = max(map(len, fields))
    if count != math.prod(shape):
        raise ModelFileError(f"{where}: {count} elements of data for shape {shape}")
    try:
        return np.ascontiguousarray(onnx.numpy_helper.to_array(tensor).astype(dtype.numpy, copy=False)).reshape(shape)
    except (ValueError, TypeError, OverflowError) as error:
        raise ModelFileError(f"{where}: the tensor's data does not fit its type ({error})") from error


def is_half_byte(elem_type: int) -> bool:
    names = require_onnx().TensorProto.DataType
    return elem_type in names.values() and names.Name(elem_type) in _HALF_BYTES


def half_bytes(tensor: TensorProto, folder: Path | None, where: str) -> Array:
    """Codes of 4 bits as bytes; two are stored in one, the first in its lower half. Raises what `tensor_array` does."""
    dtype = _HALF_BYTES[require_onnx().TensorProto.DataType.Name(tensor.data_type)]
    shape = tuple(tensor.dims)
    count = math.prod(shape)
    nbytes = -(-count // 2)
    data = _bytes_of(tensor, nbytes, folder, where)
    if data is None and len(tensor.int32_data) != nbytes:
        raise ModelFileError(f"{where}: {len(tensor.int32_data)} pairs of data for shape {shape}")
    pairs = np.array(tensor.int32_data).astype(np.uint8) if data is None else np.frombuffer(data, np.uint8)
    codes = np.stack([pairs & 15, pairs >> 4], axis=-1).reshape(-1)[:count]
    return ((codes ^ 8) - np.uint8(8) if dtype.is_signed else codes).view(dtype.numpy).reshape(shape)


def _bytes_of(tensor: TensorProto, nbytes: int, folder: Path | None, where: str) -> bytes | None:
    """The tensor's data, which has to have so many bytes; None if it is in a field for numbers of its type."""
    onnx = require_onnx()
    shape = tuple(tensor.dims)
    if any(extent < 0 for extent in shape):
        raise ModelFileError(f"{where}: negative extent in shape {shape}")
    if nbytes > MAX_TENSOR_BYTES:
        raise ModelFileError(f"{where}: shape {shape} asks for {nbytes} bytes; the limit is {MAX_TENSOR_BYTES}")
    if tensor.HasField("segment"):
        raise UnsupportedError("the model stores a tensor in segments, which glulam does not read", [where])
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        return _external(tensor, nbytes, folder, where)
    if not tensor.HasField("raw_data"):
        return None
    data: bytes = tensor.raw_data  # a copy each time
    if len(data) != nbytes:
        raise ModelFileError(f"{where}: {len(data)} bytes of data for shape {shape}, which takes {nbytes}")
    return data


def _decoded(data: bytes, stored: np.dtype[Any], dtype: DType, shape: tuple[int, ...]) -> Array:
    """Little-endian bytes as numbers; 16-bit words for a float type are the upper halves of its numbers."""
    little = np.frombuffer(data, dtype=stored.newbyteorder("<"))
    if dtype is DType.F32 and stored.itemsize == 2:
        return (little.astype(np.uint32) << 16).view(np.float32).reshape(shape)
    return little.astype(dtype.numpy, copy=False).reshape(shape)


def _external(tensor: TensorProto, nbytes: int, folder: Path | None, where: str) -> bytes:
    """The bytes of a tensor that are in a file beside the model."""
    shape = tuple(tensor.dims)
    fields = {entry.key: entry.value for entry in tensor.external_data}
    location = fields.get("location", "")
    if folder is None:
        raise ModelFileError(f"{where}: its data is in the file {location!r}; give the model by its path, not as bytes")
    try:
        offset = int(fields.get("offset", "0"))
        length = int(fields.get("length", str(nbytes)))
    except ValueError as error:
        raise ModelFileError(f"{where}: offset and length of external data must be integers") from error
    if offset < 0 or length != nbytes:
        raise ModelFileError(f"{where}: external data of {length} bytes at {offset} for shape {shape} ({nbytes} bytes)")
    path = _confined(folder, location, where)
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        with os.fdopen(os.open(path, flags), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
                raise ModelFileError(f"{where}: external data {location!r} must be a regular file with one name")
            if offset + length > status.st_size:
                raise ModelFileError(f"{where}: external data ends at {offset + length}, past the end of {location!r}")
            file.seek(offset)
            data = file.read(length)
    except OSError as error:
        raise ModelFileError(f"{where}: cannot read external data {location!r}: {error.strerror}") from error
    if len(data) != length:
        raise ModelFileError(f"{where}: external data {location!r} became shorter while it was read")
    return data


def _confined(folder: Path, location: str, where: str) -> Path:
    """The path of external data: relative, below the model's folder, through no symbolic link."""
    parts = location.replace("\\", "/").split("/")
    if (
        not location
        or "\0" in location
        or Path(location).is_absolute()
        or ".." in parts
        or ":" in parts[0]
        or not parts[0]
    ):
        raise ModelFileError(f"{where}: external data at {location!r} lies outside the model's folder")
    path = folder
    for part in parts:
        path = path / part
        if path.is_symlink():
            raise ModelFileError(f"{where}: external data at {location!r} goes through a symbolic link")
    return path
