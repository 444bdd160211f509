"""Aligned memory for arenas, scratch and weights."""

from __future__ import annotations

import mmap

import numpy as np
import numpy.typing as npt

from glulam.runtime import abi

Bytes = npt.NDArray[np.uint8]

_HUGE_PAGE = 2 << 20


def address_of(array: npt.NDArray[np.generic]) -> int:
    """Address of the first element."""
    address: int = array.__array_interface__["data"][0]
    return address


def allocate(size: int) -> Bytes:
    """Zeroed bytes at an address aligned for kernels; on huge pages, where they exist and the size makes them pay."""
    if size >= _HUGE_PAGE and hasattr(mmap, "MADV_HUGEPAGE"):
        memory = mmap.mmap(-1, size + _HUGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        memory.madvise(mmap.MADV_HUGEPAGE)
        return _from_aligned(np.frombuffer(memory, np.uint8), size, _HUGE_PAGE)
    return _from_aligned(np.zeros(size + abi.ALIGNMENT, np.uint8), size, abi.ALIGNMENT)


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
