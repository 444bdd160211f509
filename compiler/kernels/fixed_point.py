"""Constant weights of matrix products in 20 or 24 bits instead of 32, where reading takes longer than multiplying.

The weights of a column that one part of its sum meets (see `partial_sums`) are q * scale with whole numbers q below
2**19 in size, or 2**23: block floating point with the part's largest weight as the unit (compare J. Wilkinson, Rounding
Errors in Algebraic Processes, 1963, chapter 1). All lies in one stream of 16-bit numbers, or in one for each block of
columns: the 16 high bits of four weights, or two, one after the other down a column, then their low bits, 4 or 8 of
each, together. What a part has summed over q is multiplied by the scale when it joins the sum, so a weight takes one
and a quarter loads, or one and a half, a shift or two, an AND or none, an OR, and one conversion.

A weight of 20 bits is off by at most 1.13 * 2**-20 of its part's largest one, since the quotients are computed in
float32 (and by at most 2**-127 where all are smaller than 2**-107). The largest of m numbers is at most sqrt(m) times
their root mean square, so that of the errors is at most about 2**-16 of the weights', whatever they are, and about
2**-19 of that of normally distributed ones: more than what is lost when products are added up in float32, less than
Winograd's convolutions round in tiles of 4x4. The filters of such tiles would lose five times that, and those of tiles
of 2x2 do not. In 24 bits a filter is off by at most 3 * 2**-24 of the largest.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from glulam.compiler.graph.types import Array, DType, Shape
from glulam.compiler.kernels.context import Context
from glulam.compiler.kernels.packing import Packing
from glulam.compiler.loops.expr import Bitcast, Cast, Const, Expr
from glulam.compiler.loops.index import Affine, IndexLike
from glulam.compiler.loops.ir import Buffer

Floats = npt.NDArray[np.float32]

UNPACK_CYCLES = 2.5
"""Of a vector of weights, beside reading and multiplying; an estimate."""

_HIGH_BITS = 16
_AT_ONCE = 1 << 17  # weights converted at a time, in the second-level cache
_FOLDED = 32  # rows that are compared side by side first, as they are short
_SCALE_ROWS = 2  # of 16-bit numbers for the scales of a part


@dataclass(frozen=True)
class Digits:
    """How weights are kept: the low bits of so many share a row, besides a row of high bits for each."""

    together: int

    @property
    def bits(self) -> int:
        return _HIGH_BITS + self.low_bits

    @property
    def low_bits(self) -> int:
        return _HIGH_BITS // self.together

    @property
    def rows(self) -> int:
        """Of 16-bit numbers for the weights that are `together`."""
        return self.together + 1

    def rows_of(self, weights: int) -> int:
        """The same for a multiple of them."""
        return weights // self.together * self.rows

    @property
    def bytes(self) -> float:
        """Of a weight."""
        return DType.I16.size * self.rows / self.together

    @property
    def unit(self) -> float:
        """Keeps sums over q, and scales, within what float32 holds."""
        return 2.0 ** (2 - self.bits)

    @property
    def largest(self) -> int:
        """That q should be. A scale that was rounded down takes it no farther than 2**(bits - 1) - 1."""
        return (1 << self.bits - 1) - 4

    @property
    def smallest_scale(self) -> float:
        """One by it and by the unit is a float32."""
        return 2.0**-126 / self.unit


DIGITS = {digits.bits: digits for digits in (Digits(4), Digits(2))}
"""By the bits of a weight: 20 and 24."""


def weight_bytes(digits: Digits | None) -> float:
    """Of a weight, which is a float32 without digits."""
    return DType.F32.size if digits is None else digits.bytes


@dataclass(frozen=True)
class FixedPoint:
    """`weights[*group, k, block, lane]` is q, whose products with `scaled(x)` add up to what `scale` then multiplies.

    What is `scaled` may as well be their sum.

    The numbers lie in [*groups, rows, blocks, lanes]: `digits.rows` for each `digits.together` of the `depth` rows of
    weights, and behind them two for each part's scales. If the blocks are `apart`, each in a stream of its own, that is
    [*groups, blocks, rows, lanes]. All parts but the last have a number of rows that four divides; `k` modulo four must
    be the same in every iteration.
    """

    numbers: Buffer
    depth: int
    digits: Digits
    apart: bool = False

    @classmethod
    def of(
        cls, ctx: Context, weights: Packing, starts: Sequence[int], name: str, digits: Digits, apart: bool = False
    ) -> FixedPoint:
        """Of float32 weights [*groups, K, blocks, lanes]; the parts of a sum start at these k."""
        *groups, depth, blocks, lanes = weights.shape
        rows = -(-depth // digits.together) * digits.rows + _SCALE_ROWS * len(starts)
        shape = (*groups, blocks, rows, lanes) if apart else (*groups, rows, blocks, lanes)
        fill = _Fill(weights.fill, depth, weights.rows, weights.axis, tuple(starts), digits, apart)
        packing = replace(weights, shape=shape, dtype=DType.I16, fill=fill)
        return cls(ctx.constant(packing, name), depth, digits, apart)

    @property
    def shape(self) -> Shape:
        """Of the weights."""
        *groups, first, second, lanes = self.numbers.shape
        return (*groups, self.depth, first if self.apart else second, lanes)

    def __getitem__(self, point: tuple[IndexLike, ...]) -> Expr:
        *group, k, block, lane = point
        digits = self.digits
        number, place = divmod(Affine.of(k), digits.together)
        high = self._signed((*group, number * digits.rows + place, block, lane))
        low = self._unsigned((*group, number * digits.rows + digits.together, block, lane))
        if place:
            low = low / 2 ** (digits.low_bits * place)
        if place < digits.together - 1:
            low = low & Const(2**digits.low_bits - 1, DType.I32)
        return Cast(high * 2**digits.low_bits + low, DType.F32)

    def scale(self, group: tuple[IndexLike, ...], part: IndexLike, block: IndexLike, lane: IndexLike) -> Expr:
        """What the sum of a part is multiplied by."""
        row = Affine.of(part) * _SCALE_ROWS + -(-self.depth // self.digits.together) * self.digits.rows
        high = self._signed((*group, row + 1, block, lane))
        return Bitcast(high * 2**16 + self._unsigned((*group, row, block, lane)), DType.F32)

    def scaled(self, x: Expr) -> Expr:
        return x * self.digits.unit

    def _signed(self, point: tuple[IndexLike, ...]) -> Expr:
        *group, row, block, lane = point
        return Cast(self.numbers[(*group, block, row, lane) if self.apart else point], DType.I32)

    def _unsigned(self, point: tuple[IndexLike, ...]) -> Expr:
        return self._signed(point) & Const(2**16 - 1, DType.I32)


@dataclass(frozen=True)
class _Fill:
    """Fills the place of the numbers with those of weights [*groups, depth, blocks, lanes].

    `fill` makes these, from so many `rows` of the source for each place along the `axis`, a group's; 0 are all of it.
    """

    fill: Callable[[Array, Array], None]
    depth: int
    rows: int
    axis: int
    starts: tuple[int, ...]
    digits: Digits
    apart: bool

    def __call__(self, out: Array, source: Array) -> None:
        if not self.rows:
            self._write(out, source)
            return
        for i in range(out.shape[self.axis]):
            place = (*[slice(None)] * self.axis, slice(i, i + 1))
            self._write(out[place], source[i * self.rows : (i + 1) * self.rows])

    def _write(self, out: Array, source: Array) -> None:
        if self.apart:
            out = out.swapaxes(-3, -2)
        *groups, rows, blocks, lanes = out.shape
        weights = np.empty((*groups, self.depth, blocks, lanes), np.float32)
        self.fill(weights, source)
        places = out.reshape(-1, rows, blocks, lanes)
        planes = weights.reshape(-1, self.depth, blocks * lanes)
        step = max(1, _AT_ONCE // (self.depth * blocks * lanes))
        for first in range(0, len(planes), step):
            self._convert(places[first : first + step], planes[first : first + step])

    def _convert(self, places: Array, planes: Floats) -> None:
        digits, (count, rows, *columns) = self.digits, places.shape
        behind = rows - _SCALE_ROWS * len(self.starts)
        rounds = places[:, :behind].reshape(count, -1, digits.rows, *columns)
        scales = places[:, behind:].reshape(count, -1, _SCALE_ROWS, *columns)
        parts = np.split(planes, self.starts[1:], axis=1)
        for i, (start, part) in enumerate(zip(self.starts, parts, strict=True)):
            scale = _scale(part, digits)
            _write(rounds[:, start // digits.together :], _quotients(part, scale, digits), digits)
            scales[:, i] = np.moveaxis(scale.view(np.int16).reshape(count, *columns, _SCALE_ROWS), -1, 1)


def _scale(part: Floats, digits: Digits) -> Floats:
    """Of the columns of [groups, k, n]; NaN where a weight is not finite, and so is then what it takes part in."""
    sizes = _side_by_side(np.abs(part))
    groups, _, width = part.shape
    largest = sizes.max(1).reshape(groups, -1, width).max(1)
    scale = np.maximum(largest * np.float32(1 / (digits.largest * digits.unit)), np.float32(digits.smallest_scale))
    return np.where(np.isfinite(largest), scale, np.float32(np.nan))


def _quotients(part: Floats, scale: Floats, digits: Digits) -> npt.NDArray[np.int32]:
    """The whole numbers q. They are computed in the place of the weights, which are gone then."""
    rows, factors = _side_by_side(part), 1 / (scale * np.float32(digits.unit))
    with np.errstate(invalid="ignore"):
        rows *= np.tile(factors, rows.shape[2] // part.shape[2])[:, None]
        return np.rint(rows, out=rows).astype(np.int32).reshape(part.shape)


def _side_by_side(part: Floats) -> Floats:
    """[groups, k, n] with a number of rows as one, since they are short."""
    groups, depth, width = part.shape
    return part.reshape(groups, -1, math.gcd(depth, _FOLDED) * width)


def _write(rounds: Array, quotients: npt.NDArray[np.int32], digits: Digits) -> None:
    """The first of the rounds [groups, rounds, digits.rows, blocks, lanes] from [groups, depth, blocks * lanes].

    Of the low bits in a row those of the first weights are the lowest.
    """
    together, low_bits = digits.together, digits.low_bits
    groups, depth, width = quotients.shape
    if depth % together:
        quotients = np.pad(quotients, ((0, 0), (0, -depth % together), (0, 0)))
    shared = quotients.reshape(groups, -1, together, width)
    rounds = rounds[:, : shared.shape[1]]
    bits = shared.astype(np.uint16) & np.uint16(2**low_bits - 1)
    low = bits[:, :, 0].copy()
    for place in range(1, together):
        low |= bits[:, :, place] << low_bits * place
    rounds[:, :, together] = low.view(np.int16).reshape(rounds[:, :, together].shape)
    rounds[:, :, :together] = np.right_shift(shared, low_bits, out=shared).reshape(rounds[:, :, :together].shape)
