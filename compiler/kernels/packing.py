"""The constants of all kernels as one block of bytes, filled at the very end, so that nothing is packed twice."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np

from glulam.compiler.graph.arrays import fingerprint, same_bits
from glulam.compiler.graph.types import Array, DType, Shape
from glulam.runtime.memory import Bytes, Spool, allocate

_ALIGNMENT = 64
_THREADS = 4
_PIECE = 4 << 20  # bytes of a constant that are packed at a time on their way to a file
_KEPT = 2  # times the bytes of its sources that a block takes in memory
_SMALL = 64 << 20  # bytes beyond them that do not matter


@dataclass(frozen=True, eq=False)
class Packing:
    """An array of a shape and type that `fill(array, source)` makes from another one, and nothing else, when needed.

    `rows` of the source (along its first axis) make one place along the `axis` of the array; 0 if it takes all of the
    source.
    The source is a constant of the graph or a view of one; else a `table`, the same whatever the constants' values are,
    or an array made from constants.
    """

    source: Array
    shape: Shape
    dtype: DType
    fill: Callable[[Array, Array], None]
    rows: int = 0
    axis: int = 0
    table: bool = False

    @classmethod
    def copy(cls, source: Array, *, table: bool = False) -> Packing:
        """The array itself, which has at least one dimension."""
        return cls(source, source.shape, DType.of(source.dtype), np.copyto, 1, table=table)

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.size

    def array(self) -> Array:
        """The result by itself."""
        out = np.empty(self.shape, self.dtype.numpy)
        self.fill(out, self.source)
        return out

    def pieces(self) -> Iterator[Array]:
        """The result a few places of its first axis at a time; each piece is overwritten by the next one."""
        count, by_rows = self.shape[0], self.rows and not self.axis
        step = max(1, _PIECE * count // max(1, self.nbytes)) if by_rows else count
        place = np.empty((min(step, count), *self.shape[1:]), self.dtype.numpy)
        for first in range(0, count, max(1, step)):
            out = place[: count - first]
            self.fill(out, self.source[first * self.rows : (first + step) * self.rows] if by_rows else self.source)
            yield out


class WeightBlock:
    """Places for constants, each at a cache line of its own; equal ones are stored once."""

    def __init__(self) -> None:
        self._parts: list[tuple[int, Packing]] = []
        self._known: dict[Hashable, list[tuple[int, Array]]] = {}
        self._size = self._sources = 0

    def add(self, constant: Array | Packing) -> int:
        """Offset of the constant's bytes; it must not change until `packed` has been called."""
        packing = constant if isinstance(constant, Packing) else Packing.copy(constant)
        source = packing.source
        bucket = self._known.setdefault((packing.fill, packing.shape, fingerprint(source)), [])
        for offset, known in bucket:
            if same_bits(known, source):
                return offset
        offset = self._size
        bucket.append((offset, source))
        self._parts.append((offset, packing))
        self._size += -(-packing.nbytes // _ALIGNMENT) * _ALIGNMENT
        self._sources += source.nbytes
        return offset

    def packed(self) -> Bytes:
        """The block, at an address that is a multiple of a cache line. The constants are let go of one by one.

        A block that has far outgrown its sources (Winograd's filters take four times the memory) is written to a
        temporary file, where there is room, so that it takes memory only when it is used.
        """
        if self._size > _KEPT * self._sources + _SMALL:
            try:
                spool = Spool(self._size)
            except OSError:
                return self._in_memory()
            self._fill(partial(_spool, spool))
            return spool.mapped()
        return self._in_memory()

    def _in_memory(self) -> Bytes:
        block = allocate(self._size)
        self._fill(partial(_store, block))
        return block

    def _fill(self, store: Callable[[int, Packing], None]) -> None:
        """Pack what is made from one array at one time, so that the array can go; the largest come first."""
        self._known.clear()
        sizes = Counter[int]()
        for _, packing in self._parts:
            sizes[_whole(packing.source)] += packing.nbytes
        self._parts.sort(key=lambda part: (sizes[_whole(part[1].source)], _whole(part[1].source), part[1].nbytes))
        with ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1)) as pool:
            for _ in pool.map(lambda _: store(*self._parts.pop()), range(len(self._parts))):
                pass


def _whole(array: Array) -> int:
    """The same for all views of an array."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return id(array)


def _store(block: Bytes, offset: int, packing: Packing) -> None:
    place = block[offset : offset + packing.nbytes]
    packing.fill(place.view(packing.dtype.numpy).reshape(packing.shape), packing.source)


def _spool(spool: Spool, offset: int, packing: Packing) -> None:
    for piece in packing.pieces():
        spool.write(offset, piece)
        offset += piece.nbytes
