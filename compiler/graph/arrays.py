"""Which arrays are equal, to the bit; found out of many by a fingerprint that is cheap to take."""

from __future__ import annotations

from collections.abc import Hashable

import numpy as np

from glulam.compiler.graph.types import Array

_SAMPLED = 512  # elements that tell most arrays apart


def fingerprint(data: Array) -> Hashable:
    """Equal for arrays of equal type, shape and contents; others may well share one."""
    step = max(1, data.size // _SAMPLED)
    return data.dtype.str, data.shape, data.flat[::step].tobytes()


def same_bits(a: Array, b: Array) -> bool:
    """Equal type, shape and contents; NaN equals NaN of the same bits, and 0.0 differs from -0.0."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    if a is b or a.size == 0 or (a.ctypes.data, a.strides) == (b.ctypes.data, b.strides):
        return True
    bits = f"V{a.dtype.itemsize}" if a.dtype.itemsize not in (1, 2, 4, 8) else f"u{a.dtype.itemsize}"
    return bool(np.array_equal(a.view(bits), b.view(bits)))
