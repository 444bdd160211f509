"""LLVM's words for our element types: type names, literals, suffixes of intrinsics, and typed SSA values."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass

from glulam.compiler.graph.types import DType

LLVM_TYPE = {
    DType.F32: "float",
    DType.F64: "double",
    DType.F16: "half",
    DType.I64: "i64",
    DType.I32: "i32",
    DType.I16: "i16",
    DType.I8: "i8",
    DType.U64: "i64",
    DType.U32: "i32",
    DType.U16: "i16",
    DType.U8: "i8",
    DType.BOOL: "i1",
}
_FLOAT_SUFFIX = {DType.F32: "f32", DType.F64: "f64", DType.F16: "f16"}


@dataclass(frozen=True)
class Val:
    """An SSA name or a literal; `lanes` is 0 for a scalar."""

    text: str
    dtype: DType
    lanes: int = 0

    @property
    def type(self) -> str:
        return vector_type(LLVM_TYPE[self.dtype], self.lanes)

    @property
    def typed(self) -> str:
        """The value as an operand with its type."""
        return f"{self.type} {self.text}"


def vector_type(element: str, lanes: int) -> str:
    """`element` itself for 0 lanes."""
    return f"<{lanes} x {element}>" if lanes else element


def storage_type(dtype: DType) -> str:
    """The type of an element in memory, where booleans are bytes."""
    return "i8" if dtype is DType.BOOL else LLVM_TYPE[dtype]


def suffix(dtype: DType, lanes: int = 0) -> str:
    """How intrinsics name a type, as in `llvm.sqrt.v8f32`."""
    bits = 1 if dtype is DType.BOOL else dtype.size * 8
    element = _FLOAT_SUFFIX.get(dtype, f"i{bits}")
    return f"v{lanes}{element}" if lanes else element


def storage_suffix(dtype: DType) -> str:
    """`suffix` of the type of an element in memory."""
    return "i8" if dtype is DType.BOOL else suffix(dtype)


def literal(value: float | int | bool, dtype: DType) -> str:
    """A scalar constant; floats as the hexadecimal form that keeps every bit."""
    if dtype is DType.BOOL:
        return "true" if value else "false"
    if not dtype.is_float:
        return str(int(value))
    if dtype is DType.F16:
        return "0xH" + struct.pack(">e", value).hex().upper()
    rounded = struct.unpack("f", struct.pack("f", value))[0] if dtype is DType.F32 else float(value)
    return "0x" + struct.pack(">d", rounded).hex().upper()


def lane_steps(lanes: int, step: int) -> Val:
    """The constant vector 0, step, 2 step, ..."""
    return Val(f"<{', '.join(f'i64 {i * step}' for i in range(lanes))}>", DType.I64, lanes)


def shuffle_mask(which: Iterable[int | None]) -> str:
    """The third operand of a `shufflevector` that takes these lanes; None for one that may be anything."""
    places = ["i32 poison" if i is None else f"i32 {i}" for i in which]
    return f"<{len(places)} x i32> <{', '.join(places)}>"


def conversion(source: DType, target: DType) -> str:
    """The instruction between two types of which the target is neither boolean nor an integer made of a float."""
    if source.is_float and target.is_float:
        return "fpext" if source.size < target.size else "fptrunc"
    if target.is_float:
        return "sitofp" if source.is_signed else "uitofp"
    if source is DType.BOOL:
        return "zext"
    if source.size == target.size:
        return "bitcast"
    if source.size > target.size:
        return "trunc"
    return "sext" if source.is_signed else "zext"
