"""Constant weights of matrix products in 20 bits instead of 32, where reading them takes longer than multiplying.

The weights of a column that one part of its sum meets (see `partial_sums`) are q * scale with whole numbers q below
2**19 in size: block floating point with the part's largest weight as the unit (compare J. Wilkinson, Rounding Errors in
Algebraic Processes, 1963, chapter 1). They lie as 16 high bits and 4 low ones, which those of the next row of weights
share a byte with. What a part has summed over q is multiplied by the scale when it joins the sum, so a weight takes one
and a half loads, a shift or two, an AND or none, an OR, and one conversion.

A weight is off by at most 2**-20 of its part's largest one. The largest of m numbers is at most sqrt(m) times their
root mean square, so that of the errors is at most about 2**-16 of the weights', whatever they are, and about 2**-19 of
that of normally distributed ones: more than what is lost when products are added up in float32, less than Winograd's
convolutions round.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from glulam.compiler.graph.types import Array, DType
from glulam.compiler.kernels.context import Context
from glulam.compiler.kernels.packing import Packing
from glulam.compiler.loops.expr import Cast, Const, Expr
from glulam.compiler.loops.ir import Affine, Buffer, IndexLike

Floats = npt.NDArray[np.float32]

BYTES = 2.5  # of a weight
UNPACK_CYCLES = 2.5  # of a vector of weights, beside reading and multiplying
_LARGEST = 2**19 - 2  # a scale that was rounded down does not take the quotient beyond 2**19 - 1
_LOW_BITS = 4
_SHARED = 8 // _LOW_BITS  # weights whose low bits make a byte
_UNIT = 2.0**-18  # keeps sums over q, and scales, within what float32 holds


@dataclass(frozen=True)
class FixedPoint:
    """`weights[group, k, block, lane]` is q, whose products with `scaled(x)` add up to what `scales` then multiplies.

    The high bits lie in [group, K, block, lane], the low ones of two rows in [group, K / 2, block, lane], the scales in
    [group, part, block, lane]. All parts but the last have an even number of rows; whether k is even or odd must be the
    same in every iteration.
    """

    high: Buffer
    low: Buffer
    scales: Buffer

    @classmethod
    def of(cls, ctx: Context, columns: Array, groups: tuple[int, int, int], starts: Sequence[int]) -> FixedPoint:
        """Weights [N, K] of (groups, blocks, lanes) columns; the parts of a sum start at these k."""
        count, blocks, lanes = groups

        def constant(name: str, rows: Callable[[Floats], Array], extent: int, dtype: DType) -> Buffer:
            shape = (count, extent, blocks, lanes)
            return ctx.constant(Packing(columns, shape, dtype, _Fill(rows, tuple(starts)), blocks * lanes), name)

        depth = columns.shape[1]
        return cls(
            constant("high", _high, depth, DType.I16),
            constant("low", _low, -(-depth // _SHARED), DType.U8),
            constant("scale", _scale, len(starts), DType.F32),
        )

    def __getitem__(self, point: tuple[IndexLike, ...]) -> Expr:
        group, k, block, lane = point
        byte, place = divmod(Affine.of(k), _SHARED)
        high: Expr = Cast(self.high[point], DType.I32)
        low: Expr = Cast(self.low[group, byte, block, lane], DType.I32)
        if place:
            low = low / 2 ** (_LOW_BITS * place)
        if place < _SHARED - 1:
            low = low & Const(2**_LOW_BITS - 1, DType.I32)
        return Cast(high * 2**_LOW_BITS + low, DType.F32)

    @property
    def streams(self) -> tuple[tuple[Buffer, int], ...]:
        """What is read for each weight, and how many rows of weights share a row of it."""
        return (self.high, 1), (self.low, _SHARED)

    @staticmethod
    def scaled(x: Expr) -> Expr:
        return x * _UNIT


@dataclass(frozen=True)
class _Fill:
    """Fills [groups, rows, blocks, lanes] from weights [N, K], part by part, which the caches hold.

    `rows` gives those of a part of a group, [n, k] -> [n, rows].
    """

    rows: Callable[[Floats], Array]
    starts: tuple[int, ...]

    def __call__(self, out: Array, columns: Array) -> None:
        width = out.shape[2] * out.shape[3]
        for group, place in enumerate(out.reshape(len(out), -1, width)):
            weights = columns[group * width : (group + 1) * width].astype(np.float32, copy=False)
            filled = 0
            for part in np.split(weights, self.starts[1:], axis=1):
                made = self.rows(part)
                place[filled : filled + made.shape[1]] = made.T
                filled += made.shape[1]


def _scale(part: Floats) -> Floats:
    """[n, 1]; NaN where a weight is not finite, and so is then what it takes part in."""
    largest = np.maximum(part.max(1, keepdims=True), -part.min(1, keepdims=True))
    scale = np.maximum(largest * np.float32(1 / (_LARGEST * _UNIT)), np.finfo(np.float32).tiny)
    return np.where(np.isfinite(largest), scale, np.float32(np.nan))


def _quotients(part: Floats) -> npt.NDArray[np.int32]:
    """The whole numbers q."""
    with np.errstate(invalid="ignore"):
        quotients = part * (1 / (_scale(part).astype(np.float64) * _UNIT))
        return np.rint(quotients, out=quotients).astype(np.int32)


def _high(part: Floats) -> Array:
    return (_quotients(part) >> _LOW_BITS).astype(np.int16)


def _low(part: Floats) -> Array:
    """Of `_SHARED` weights one after the other in a byte, the first one's lowest."""
    low = _quotients(part) & (2**_LOW_BITS - 1)
    low = np.pad(low, ((0, 0), (0, -low.shape[1] % _SHARED))).astype(np.uint8)
    joined = np.zeros((len(low), low.shape[1] // _SHARED), np.uint8)
    for place in range(_SHARED):
        joined |= low[:, place::_SHARED] << np.uint8(_LOW_BITS * place)
    return joined
