"""Aligned memory for arenas, scratch and weights, and files that stand for memory."""

from __future__ import annotations

import math
import mmap
import os
import tempfile
from contextlib import ExitStack, suppress
from ctypes import addressof, c_char
from threading import Lock
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from glulam.runtime import abi
from glulam.runtime.errors import OutOfMemoryError

Bytes = npt.NDArray[np.uint8]

_HUGE_PAGE = 2 << 20


def address_of(array: npt.NDArray[np.generic]) -> int:
    """Address of the first element."""
    try:
        # in a third of the time of the array interface; arrays have buffers, although their types do not say so
        return addressof(c_char.from_buffer(array))  # type: ignore[arg-type]
    except (TypeError, ValueError):  # read-only, not contiguous or empty
        address: int = array.__array_interface__["data"][0]
        return address


def allocate(size: int) -> Bytes:
    """Zeroed bytes at an address aligned for kernels; on huge pages, where they exist and the size makes them pay.

    Raises OutOfMemoryError if the system does not give so many.
    """
    try:
        if size >= _HUGE_PAGE and hasattr(mmap, "MADV_HUGEPAGE"):
            return _from_aligned(_huge_pages(size + _HUGE_PAGE), size, _HUGE_PAGE)
        return _from_aligned(np.zeros(size + abi.ALIGNMENT, np.uint8), size, abi.ALIGNMENT)
    except (MemoryError, OSError) as error:
        raise _too_much(size) from error


def _huge_pages(size: int) -> Bytes:
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(OSError):  # a system without them has small ones
        memory.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(memory, np.uint8)


def new_array(shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> npt.NDArray[np.generic]:
    """An array that holds anything. Raises OutOfMemoryError as `allocate` does."""
    try:
        return np.empty(shape, dtype)
    except MemoryError as error:
        raise _too_much(math.prod(shape) * dtype.itemsize) from error


def _too_much(size: int) -> OutOfMemoryError:
    return OutOfMemoryError(f"the system gives no {size:,} bytes of memory; free some, or use a smaller model or batch")


def aligned(data: Bytes | bytes | bytearray | memoryview) -> Bytes:
    """The same bytes at an aligned address: the argument itself where it is aligned already, else a copy."""
    view = data if isinstance(data, np.ndarray) else np.frombuffer(data, np.uint8)
    if view.flags.c_contiguous and address_of(view) % abi.ALIGNMENT == 0:
        return view.reshape(-1)
    copy = allocate(view.size)
    copy[:] = view.reshape(-1)
    return copy


def _from_aligned(memory: Bytes, size: int, alignment: int) -> Bytes:
    skip = -address_of(memory) % alignment
    return memory[skip : skip + size]


class FileMap(mmap.mmap):
    """A file mapped for reading. Its pages can be let go of at any time, since the file has them."""


class Spool:
    """Bytes that are written to a file without a name and then mapped, so that only those in use take memory."""

    def __init__(self, size: int) -> None:
        """Raises OSError if there is no room for so many bytes, or the platform cannot tell."""
        if not hasattr(os, "posix_fallocate"):
            raise OSError("no room can be reserved in files on this platform")
        self._lock = Lock()
        with ExitStack() as opened:
            self._file: BinaryIO = opened.enter_context(tempfile.TemporaryFile())
            os.posix_fallocate(self._file.fileno(), 0, size)
            opened.pop_all()

    def write(self, offset: int, data: npt.NDArray[np.generic]) -> None:
        """Puts a contiguous array at an offset; any thread may."""
        with self._lock:
            self._file.seek(offset)
            self._file.write(data.data)

    def mapped(self) -> Bytes:
        """All bytes, at the beginning of a page; nothing can be written any more."""
        with self._file as file:
            file.flush()
            return map_file(file)


def map_file(file: BinaryIO) -> Bytes:
    """The bytes of a file that is not empty, where they are."""
    return np.frombuffer(FileMap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)


def let_go(array: Bytes) -> None:
    """If the array lies in a mapped file, its memory is free until it is read again. A hint, for long files."""
    owner: object = array
    while isinstance(owner, np.ndarray):
        owner = owner.base
    owner = owner.obj if isinstance(owner, memoryview) else owner
    if isinstance(owner, FileMap) and hasattr(mmap, "MADV_DONTNEED"):
        owner.madvise(mmap.MADV_DONTNEED)
