"""Element types and tensor types: what a value is, independent of where it lies in memory."""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from glulam.compiler.errors import GraphError

Array = npt.NDArray[np.generic]
Ints = tuple[int, ...]
Shape = Ints
Pads = tuple[tuple[int, int], ...]
"""Elements (before, after) a tensor along each of some axes."""


class DType(enum.Enum):
    """Element type of a tensor; the value is its short name in printed IR."""

    F32 = "f32"
    F64 = "f64"
    F16 = "f16"
    I64 = "i64"
    I32 = "i32"
    I16 = "i16"
    I8 = "i8"
    U64 = "u64"
    U32 = "u32"
    U16 = "u16"
    U8 = "u8"
    BOOL = "bool"

    @property
    def numpy(self) -> np.dtype[np.generic]:
        """The numpy dtype with the same bits, in native byte order."""
        return _NUMPY[self]

    @property
    def size(self) -> int:
        """Bytes of one element."""
        return int(self.numpy.itemsize)

    @property
    def is_float(self) -> bool:
        return self in (DType.F32, DType.F64, DType.F16)

    @property
    def is_signed(self) -> bool:
        return self not in (DType.U64, DType.U32, DType.U16, DType.U8, DType.BOOL)

    @classmethod
    def of(cls, dtype: npt.DTypeLike) -> DType:
        """The DType of a numpy dtype. Raises GraphError for one that no kernel handles."""
        try:
            wanted = np.dtype(dtype).newbyteorder("=")
        except TypeError as error:
            raise GraphError(f"{dtype!r} is no dtype of numpy; give one of {_names()}") from error
        if (found := _BY_NUMPY.get(wanted)) is None:
            raise GraphError(f"dtype {wanted} has no counterpart in the graph; convert it to one of {_names()}")
        return found


_NUMPY: dict[DType, np.dtype[np.generic]] = {
    DType.F32: np.dtype(np.float32),
    DType.F64: np.dtype(np.float64),
    DType.F16: np.dtype(np.float16),
    DType.I64: np.dtype(np.int64),
    DType.I32: np.dtype(np.int32),
    DType.I16: np.dtype(np.int16),
    DType.I8: np.dtype(np.int8),
    DType.U64: np.dtype(np.uint64),
    DType.U32: np.dtype(np.uint32),
    DType.U16: np.dtype(np.uint16),
    DType.U8: np.dtype(np.uint8),
    DType.BOOL: np.dtype(np.bool_),
}
_BY_NUMPY = {dtype: member for member, dtype in _NUMPY.items()}


def _names() -> list[str]:
    return [member.value for member in DType]


@dataclass(frozen=True)
class TensorType:
    """Element type and logical shape, channels first; every extent is a number."""

    dtype: DType
    shape: Shape

    def __post_init__(self) -> None:
        for extent in self.shape:
            if not isinstance(extent, int) or extent < 0:
                raise GraphError(f"shape {self.shape} has extent {extent!r}; extents are integers >= 0")

    @property
    def rank(self) -> int:
        return len(self.shape)

    @cached_property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.size

    def with_shape(self, shape: Shape) -> TensorType:
        return TensorType(self.dtype, tuple(int(extent) for extent in shape))

    def with_dtype(self, dtype: DType) -> TensorType:
        return TensorType(dtype, self.shape)

    @classmethod
    def of(cls, array: Array) -> TensorType:
        return cls(DType.of(array.dtype), tuple(int(extent) for extent in array.shape))

    def __str__(self) -> str:
        return f"{self.dtype.value}[{','.join(map(str, self.shape))}]"


def inverse_perm(perm: Sequence[int]) -> tuple[int, ...]:
    """The order of the axes that undoes a transpose by `perm`."""
    return tuple(perm.index(axis) for axis in range(len(perm)))


def f32(*shape: int) -> TensorType:
    """Shorthand for the type nearly every tensor has."""
    return TensorType(DType.F32, shape)
