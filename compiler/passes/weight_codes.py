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
_NEIGHBOURS = range(-2, 3)  # floats around a quotient, one of which is the scale


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
    codes = np.zeros((len(weights), weights[0].size), np.int8)
    scales = np.ones(len(weights), np.float32)
    for channel, own in enumerate(weights):
        row = own.reshape(-1).astype(np.float32)
        if not row.any():
            continue
        found = next(filter(None, (_codes_by(row, scale) for scale in _candidates(row))), None)
        if found is None:
            return None
        codes[channel], scales[channel] = found
    return WeightCodes(codes.reshape(weights.shape), scales)


def _candidates(row: npt.NDArray[np.float32]) -> list[float]:
    """Scales by which some of the weights are whole numbers, the finest first."""
    largest = float(np.abs(row).max())
    scales = largest / np.arange(_LARGEST, 0, -1)
    numbers = row[:_SAMPLED].astype(np.float64) / scales[:, None]
    return [float(scale) for scale in scales[(np.abs(numbers - np.rint(numbers)) <= _CLOSE).all(1)]]


def _codes_by(row: npt.NDArray[np.float32], quotient: float) -> tuple[Array, np.float32] | None:
    """The codes by the scale that is next to a quotient, and that scale."""
    codes = np.rint(row / quotient)
    if codes.min() < -_LARGEST or codes.max() >= _LARGEST:
        return None
    middle = np.float32(quotient)
    for steps in _NEIGHBOURS:
        scale = np.float32(middle + steps * np.spacing(middle))
        if np.array_equal(codes.astype(np.float32) * scale, row):
            return codes.astype(np.int8), scale
    return None
