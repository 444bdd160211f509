"""Weights of one byte each as words of four, and what codes that stand for zero add to sums of products."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from glulam.compiler.graph.types import Array, DType, TensorType
from glulam.compiler.kernels.operand import Operand

WORD = 4  # bytes


def words(weights: Array) -> Array:
    """Weights [OC, C, *K] of I8 as I32 [OC, ceil(C / 4), *K]; channels that are missing have zeros."""
    outs, ins, *taps = weights.shape
    padded = np.zeros((outs, -(-ins // WORD) * WORD, *taps), np.int8)
    padded[:, :ins] = weights
    split = padded.reshape(outs, -1, WORD, *taps)
    return np.ascontiguousarray(np.moveaxis(split, 2, -1)).view("<i4")[..., 0]


def in_words(operand: Operand) -> Operand:
    """A plain tensor of bytes, of a multiple of four along the last axis, as one of words."""
    shape, strides = (*operand.shape[:-1], operand.shape[-1] // WORD), operand.strides
    if strides is not None:
        strides = (*(stride // WORD for stride in strides[:-1]), 1)
    data = None if operand.data is None else np.ascontiguousarray(operand.data).view("<i4")
    return replace(operand, type=TensorType(DType.I32, shape), strides=strides, data=data)


def summands(weights: Array) -> list[npt.NDArray[np.int32]]:
    """Weights of more than a byte as a few that are from -128 to 127 each, and together give them."""
    found, rest = list[npt.NDArray[np.int32]](), weights.astype(np.int32)
    while not found or rest.any():
        found.append(np.clip(rest, -128, 127))
        rest = rest - found[-1]
    return found


def start_of_sums(weights: Array, bias: Array | None, zero_point: int) -> Array:
    """What the sums of each output channel start from, so that a code counts as much as it exceeds the zero point."""
    sums = weights.reshape(len(weights), -1).sum(1, dtype=np.int32)
    return np.asarray((0 if bias is None else bias) - zero_point * sums, np.int32)
