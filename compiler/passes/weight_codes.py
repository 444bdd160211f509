"""Float weights that were codes: whole numbers from -128 to 127, times a scale for each output channel.

Importers turn the stored codes of a quantised layer into floats. The scales are found again in the floats themselves,
and only if they give back every one of them, to the bit.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from glulam.compiler.graph.types import Array

_LARGEST = 128  # magnitude of a code
_SAMPLED = 48  # weights of a channel that most wrong scales are found out by
_CLOSE = 1e-3  # of one code, that rounding may have moved weights by
_USUAL = 127  # magnitude of the largest code of a channel, mostly
_NEIGHBOURS = (0, -1, 1, -2, 2)  # floats around a quotient, one of which is the scale

Floats = npt.NDArray[np.float32]


class WeightCodes(NamedTuple):
    """`codes[OC, ...]` of I8, and `scales[OC]` of F32, by which they are multiplied; None if the weights are whole."""

    codes: npt.NDArray[np.int8]
    scales: npt.NDArray[np.float32] | None

    @property
    def largest_sum(self) -> int:
        """Of the magnitudes of an output channel's codes."""
        return int(np.abs(self.codes.astype(np.int64)).reshape(len(self.codes), -1).sum(1).max(initial=0))


def weight_codes(weights: Array) -> WeightCodes | None:
    """The codes of weights [OC, ...]; None if there are none."""
    if not weights.size or not np.isfinite(weights).all():
        return None
    whole = np.rint(weights)
    if np.array_equal(whole, weights):
        inside = whole.min() >= -_LARGEST and whole.max() < _LARGEST
        return WeightCodes(whole.astype(np.int8), None) if inside else None
    if weights.dtype != np.float32:
        return None
    rows = weights.reshape(len(weights), -1).astype(np.float32)
    largest = np.abs(rows).max(1).astype(np.float64)
    codes, scales, known = _codes_by(rows, largest / _USUAL)
    for channel in np.flatnonzero(~known):
        row = rows[channel : channel + 1]
        for quotient in _candidates(row[0], largest[channel]):
            codes[channel], scales[channel], found = (each[0] for each in _codes_by(row, np.full(1, quotient)))
            if found:
                break
        else:
            return None
    return WeightCodes(codes.reshape(weights.shape), scales)


def _candidates(row: Floats, largest: float) -> npt.NDArray[np.float64]:
    """Scales by which some of the weights are whole numbers, the finest first."""
    scales = largest / np.arange(_LARGEST, 0, -1)
    numbers = row[:_SAMPLED].astype(np.float64) / scales[:, None]
    return scales[(np.abs(numbers - np.rint(numbers)) <= _CLOSE).all(1)]


def _codes_by(
    rows: Floats, quotients: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.int8], Floats, npt.NDArray[np.bool_]]:
    """The codes of rows by the scales that are next to such quotients, those scales, and for which rows there are any.

    Rows of zeros have scales of 1.
    """
    middle = quotients.astype(np.float32)
    middle[middle == 0] = 1
    with np.errstate(over="ignore"):
        numbers = np.rint(rows / middle[:, None])
    scales, known = middle.copy(), np.zeros(len(rows), np.bool_)
    inside = (numbers.min(1) >= -_LARGEST) & (numbers.max(1) < _LARGEST)
    for steps in _NEIGHBOURS:
        left = np.flatnonzero(inside & ~known)
        tried = (middle[left] + steps * np.spacing(middle[left])).astype(np.float32)
        known[left] = (numbers[left] * tried[:, None] == rows[left]).all(1)
        scales[left] = tried
    return np.where(inside[:, None], numbers, 0).astype(np.int8), scales, known
