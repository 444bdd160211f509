"""Float weights that were codes of a byte: whole numbers, times a scale for each output channel.

Importers turn the stored codes of a quantised layer into floats. The scales are found again in the floats themselves,
and only if they give back every one of them, to the bit. Codes without a sign, less a zero point, reach from -255 to
255; those of a channel are codes from -128 to 127 and a number that all of them exceed these by.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from glulam.compiler.graph.types import Array

_LOW, _HIGH = -128, 127  # codes
_LARGEST = 255  # magnitude of a number that is a code less a zero point
_SAMPLED = 48  # weights of a channel that most wrong scales are found out by
_CLOSE = 1e-3  # of one code, that rounding may have moved weights by
_USUAL = 127  # magnitude of the largest code of a channel, mostly
_NEIGHBOURS = (0, -1, 1, -2, 2)  # floats around a quotient, one of which is the scale

Floats = npt.NDArray[np.float32]


class WeightCodes(NamedTuple):
    """Weights (codes + offsets) * scales: `codes[OC, ...]` of I8, `offsets[OC]` of I32, `scales[OC]` of F32.

    None stands for offsets of 0, and for scales of 1.
    """

    codes: npt.NDArray[np.int8]
    offsets: npt.NDArray[np.int32] | None
    scales: npt.NDArray[np.float32] | None

    @classmethod
    def of(cls, numbers: Floats, scales: npt.NDArray[np.float32] | None) -> WeightCodes:
        """Of whole numbers [OC, ...] that `_fit` codes."""
        rows = numbers.reshape(len(numbers), -1)
        offsets = np.maximum(rows.max(1) - _HIGH, 0) + np.minimum(rows.min(1) - _LOW, 0)
        codes = (rows - offsets[:, None]).astype(np.int8).reshape(numbers.shape)
        return cls(codes, offsets.astype(np.int32) if offsets.any() else None, scales)

    @property
    def numbers(self) -> npt.NDArray[np.int8] | npt.NDArray[np.int16]:
        """The whole numbers themselves, codes if they have no offsets."""
        if self.offsets is None:
            return self.codes
        each = self.offsets.astype(np.int16).reshape(-1, *(1,) * (self.codes.ndim - 1))
        return self.codes + each

    @property
    def sums(self) -> npt.NDArray[np.int32]:
        """Of each output channel's whole numbers."""
        rows = self.codes.reshape(len(self.codes), -1)
        sums: npt.NDArray[np.int32] = rows.sum(1, dtype=np.int32)
        return sums if self.offsets is None else sums + rows.shape[1] * self.offsets

    @property
    def largest_sum(self) -> int:
        """Of the magnitudes of an output channel's codes, and of its offset for each of them."""
        rows = np.abs(self.codes.astype(np.int64)).reshape(len(self.codes), -1)
        sums = rows.sum(1) if self.offsets is None else rows.sum(1) + rows.shape[1] * np.abs(self.offsets)
        return int(sums.max(initial=0))


def weight_codes(weights: Array) -> WeightCodes | None:
    """The codes of weights [OC, ...]; None if there are none."""
    if not weights.size or not np.isfinite(weights).all():
        return None
    whole = np.rint(weights)
    if np.array_equal(whole, weights):
        return WeightCodes.of(whole, None) if _fit(whole.reshape(len(whole), -1)).all() else None
    if weights.dtype != np.float32:
        return None
    rows = weights.reshape(len(weights), -1).astype(np.float32)
    largest = np.abs(rows).max(1).astype(np.float64)
    numbers, scales, known = _numbers_by(rows, largest / _USUAL, _are_codes)
    quotient = 0.0  # of the channel before: often all have the same
    for channel in np.flatnonzero(~known):
        row = rows[channel : channel + 1]
        tried = chain(
            ((last, _fit) for last in (quotient,) if last),
            ((finer, _are_codes) for finer in _candidates(row[0], largest[channel], -_LOW)),
            ((finer, _fit) for finer in _candidates(row[0], largest[channel], _LARGEST)),
        )
        for quotient, inside in tried:
            found = _numbers_by(row, np.full(1, quotient), inside)
            if found[2]:
                break
        else:
            return None
        numbers[channel], scales[channel] = found[0], found[1][0]
    return WeightCodes.of(numbers.reshape(weights.shape), scales)


def _are_codes(rows: Array) -> npt.NDArray[np.bool_]:
    """Which rows of whole numbers are codes."""
    inside: npt.NDArray[np.bool_] = (rows.min(1) >= _LOW) & (rows.max(1) <= _HIGH)
    return inside


def _fit(rows: Array) -> npt.NDArray[np.bool_]:
    """Which rows of whole numbers are codes of a byte less a zero point."""
    low, high = rows.min(1), rows.max(1)
    inside: npt.NDArray[np.bool_] = (low >= -_LARGEST) & (high <= _LARGEST) & (high - low <= _HIGH - _LOW)
    return inside


def _candidates(row: Floats, largest: float, most: int) -> npt.NDArray[np.float64]:
    """Scales by which some of the weights are whole numbers, the largest one at most so large, the finest first."""
    scales = largest / np.arange(most, 0, -1)
    numbers = row[:_SAMPLED].astype(np.float64) / scales[:, None]
    return scales[(np.abs(numbers - np.rint(numbers)) <= _CLOSE).all(1)]


def _numbers_by(
    rows: Floats, quotients: npt.NDArray[np.float64], fit: Callable[[Array], npt.NDArray[np.bool_]]
) -> tuple[Floats, Floats, npt.NDArray[np.bool_]]:
    """The whole numbers of rows by the scales that are next to such quotients, those scales, and which rows have any.

    Rows of zeros have scales of 1.
    """
    middle = quotients.astype(np.float32)
    middle[middle == 0] = 1
    with np.errstate(over="ignore"):
        numbers = np.rint(rows / middle[:, None])
    scales, known = middle.copy(), np.zeros(len(rows), np.bool_)
    inside = fit(numbers)
    for steps in _NEIGHBOURS:
        left = np.flatnonzero(inside & ~known)
        tried = (middle[left] + steps * np.spacing(middle[left])).astype(np.float32)
        known[left] = (numbers[left] * tried[:, None] == rows[left]).all(1)
        scales[left] = tried
    return numbers, scales, known
