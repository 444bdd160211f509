"""The constants of all kernels as one block of bytes, filled at the very end, so that nothing is packed twice."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from glulam.compiler.graph.types import Array, DType, Shape

_ALIGNMENT = 64
_SAMPLED = 256  # elements that tell most arrays apart
_THREADS = 4


@dataclass(frozen=True, eq=False)
class Packing:
    """An array of a shape and type that `fill(array, source)` makes from another one when it is needed."""

    source: Array
    shape: Shape
    dtype: DType
    fill: Callable[[Array, Array], None]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.size

    def array(self) -> Array:
        """The result by itself."""
        out = np.empty(self.shape, self.dtype.numpy)
        self.fill(out, self.source)
        return out


class WeightBlock:
    """Places for constants, each at a cache line of its own; equal ones are stored once."""

    def __init__(self) -> None:
        self._parts: list[tuple[int, Array | Packing]] = []
        self._known: dict[Hashable, list[tuple[int, Array]]] = {}
        self._size = 0

    def add(self, constant: Array | Packing) -> int:
        """Offset of the constant's bytes; it must not change until `packed` has been called."""
        source = constant.source if isinstance(constant, Packing) else constant
        how = constant.fill if isinstance(constant, Packing) else None
        bucket = self._known.setdefault((how, constant.shape, _fingerprint(source)), [])
        for offset, known in bucket:
            if _same_bits(known, source):
                return offset
        offset = self._size
        bucket.append((offset, source))
        self._parts.append((offset, constant))
        self._size += -(-constant.nbytes // _ALIGNMENT) * _ALIGNMENT
        return offset

    def packed(self) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
        """The block, at an address that is a multiple of a cache line. The constants are let go of one by one."""
        block = np.zeros(self._size + _ALIGNMENT, np.uint8)
        start = -block.ctypes.data % _ALIGNMENT
        aligned = block[start : start + self._size]

        def fill_one(_: int) -> None:
            offset, constant = self._parts.pop()
            _store(aligned[offset : offset + constant.nbytes], constant)

        self._known.clear()
        self._parts.sort(key=lambda part: part[1].nbytes)
        with ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1)) as pool:
            for _ in pool.map(fill_one, range(len(self._parts))):
                pass
        return aligned


def _store(place: Array, constant: Array | Packing) -> None:
    if isinstance(constant, Packing):
        constant.fill(place.view(constant.dtype.numpy).reshape(constant.shape), constant.source)
    elif constant.size:
        np.copyto(place.view(constant.dtype).reshape(constant.shape), constant)


def _fingerprint(data: Array) -> Hashable:
    """Equal for equal arrays, and as good as never for others."""
    step = max(1, data.size // _SAMPLED)
    return data.dtype.str, data.shape, data.flat[::step].tobytes()


def _same_bits(a: Array, b: Array) -> bool:
    """Of arrays of one type and shape: whether they hold the same bits."""
    if a is b or (a.ctypes.data, a.strides) == (b.ctypes.data, b.strides):
        return True
    bits = np.dtype(f"u{a.dtype.itemsize}")
    return bool(np.array_equal(a.view(bits), b.view(bits)))
