"""Minimal filtering, F(m, r): m outputs of a filter with r taps from m + r - 1 multiplications instead of m * r.

Inputs d and taps g give A^T [(G g) * (B^T d)] (S. Winograd: Arithmetic Complexity of Computations, 1980), and images
the same along their rows and columns (A. Lavin, S. Gray: Fast Algorithms for Convolutional Neural Networks, 2015).
Longer tiles multiply less and round more, and they blow the filters up: r taps become m + r - 1 numbers.

A filter that moves by s inputs is s filters that move by one, each on every s-th input: the taps of one phase meet the
inputs of one phase, and the m outputs are the sums of all phases'. With two phases of a 3-tap filter, four outputs take
5 + 4 multiplications instead of 12. Where channels are few, A^T is most of the arithmetic (of a 7x7 with stride 2 on 3
channels 612 operations, the products 507), and it is better to interpolate all phases at the points of the longest one:
their products add up before A^T, as those of channels do (198 and 588). A filter whose taps are d inputs apart goes by
itself over every d-th input.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import cache, cached_property, reduce

import numpy as np
import numpy.typing as npt

from glulam.compiler.errors import UnsupportedError
from glulam.compiler.graph.types import Array, Shape
from glulam.compiler.loops.builder import Builder
from glulam.compiler.loops.expr import Const, Expr, Fma
from glulam.compiler.loops.index import Affine, IndexLike, Var
from glulam.compiler.loops.ir import Load, TileRead

Matrix = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]
Pair = tuple[int, int]
Polynomial = list[Fraction]  # coefficients, the constant first

_POINTS = tuple(map(Fraction, ["0", "1", "-1", "2", "-2", "1/2", "-1/2", "-1/4", "4", "1/4", "-4"]))
"""Where the polynomials are interpolated, besides infinity: those first that round least."""

_UNIT_POINTS = 3  # of these
_UNROLLED = 200  # points of a tile whose transforms have code for each column and row: sooner done for 169 of them
_TRANSFORMED = 64  # input channels whose filters are transformed at a time, in the second-level cache
_SHORT_TILE, _LONG_MARGIN = 4, 1.05  # outputs; smaller estimated savings of longer tiles did not show
_OPERATION_CYCLES = 0.6  # of a transform's arithmetic, loads and stores, on AVX-512


@dataclass(frozen=True)
class Residues:
    """`count` sets of every dilation-th output of an axis, the first of them from output `first` on.

    Each has `outputs` outputs in `tiles` tiles; the tiles of the first set count from `begin` on.
    """

    first: int
    count: int
    outputs: int
    tiles: int
    begin: int


@dataclass(frozen=True)
class Line:
    """The algorithm of Cook and Toom, transposed, for `outputs` outputs and `taps` taps. F(1, 1) is the identity.

    Tiles and filters are evaluated at the first of the points and at infinity, in exact arithmetic. The filter moves by
    `stride`, of which it has no fewer taps, or its taps are `dilation` inputs apart. If its phases are `added`, all of
    them have the points of the first one, and the others may have a tap less, which is a zero then.
    """

    outputs: int
    taps: int
    stride: int = 1
    dilation: int = 1
    added: bool = False

    @cached_property
    def inputs(self) -> int:
        """Inputs of a tile."""
        return self.points * self.sums

    @cached_property
    def points(self) -> int:
        """Numbers that a tile, or a filter, becomes; of added phases, each of them."""
        return sum(phase.outputs + phase.taps - 1 for phase in self._phases)

    @property
    def sums(self) -> int:
        """How many products add up at a point for each channel."""
        return self.stride if self.added else 1

    @property
    def step(self) -> int:
        """Inputs from a tile to the next."""
        return self.outputs * self.stride * self.dilation

    @cached_property
    def input_transform(self) -> Matrix:
        """B^T: for each phase a row has the coefficients of the polynomial that is zero at all points but its own.

        Of added phases, which have the same ones, it is that of one.
        """
        return self._by_phase([phase.input_transform for phase in self._phases])

    @cached_property
    def filter_transform(self) -> Matrix:
        """G: a row has the powers of its point, over what that polynomial is there."""
        return self._by_phase([phase.filter_transform for phase in self._phases])

    @cached_property
    def output_transform(self) -> Matrix:
        """A^T: a column has the powers of its point."""
        return np.concatenate([phase.output_transform for phase in self._phases], axis=1)

    @property
    def most_points(self) -> int:
        """Points that a phase needs, without infinity."""
        return self.outputs + -(-self.taps // self.stride) - 2

    @property
    def _phases(self) -> list[_Phase]:
        """Those that have points of their own."""
        own = 1 if self.added else self.stride
        return [_Phase(self.outputs, len(range(first, self.taps, self.stride))) for first in range(own)]

    def _by_phase(self, parts: Sequence[Matrix]) -> Matrix:
        """The parts under each other, their columns dealt out among the inputs, or taps."""
        whole = np.zeros((sum(len(part) for part in parts), sum(part.shape[1] for part in parts)))
        row = 0
        for first, part in enumerate(parts):
            whole[row : row + len(part), first :: len(parts)] = part
            row += len(part)
        return whole

    def residues(self, extent: int) -> list[Residues]:
        """Those of an axis with so many outputs: first the sets that have one output more."""
        found, begin = [], 0
        longer = extent % self.dilation
        for first, count, outputs in (
            (0, longer, -(-extent // self.dilation)),
            (longer, self.dilation - longer, extent // self.dilation),
        ):
            if count and outputs:
                tiles = -(-outputs // self.outputs)
                found.append(Residues(first, count, outputs, tiles, begin))
                begin += count * tiles
        return found

    def tiles_along(self, extent: int) -> int:
        """Tiles that cover so many outputs; the last one of a residue may stick out."""
        return sum(each.count * each.tiles for each in self.residues(extent))

    def reach(self, extent: int) -> int:
        """Inputs that the tiles of so many outputs span, from the first one's first."""
        last = ((each.first + each.count - 1) + (each.tiles - 1) * self.step for each in self.residues(extent))
        return max(last, default=0) + (self.inputs - 1) * self.dilation + 1

    def places(self, extent: int) -> tuple[Indices, Indices]:
        """[tiles, inputs] and [tiles, outputs]: where the tiles have their inputs, and their outputs."""
        starts = [
            (first + each.first, tile)
            for each in self.residues(extent)
            for first in range(each.count)
            for tile in range(each.tiles)
        ]
        residue, tile = np.array(starts, np.int64).reshape(-1, 2, 1).swapaxes(0, 1)
        inputs, outputs = np.arange(self.inputs), np.arange(self.outputs)
        return residue + tile * self.step + inputs * self.dilation, residue + (
            tile * self.outputs + outputs
        ) * self.dilation

    def runs(self, tiles: int, inside: int) -> list[tuple[int, int, int]]:
        """(first tile, tiles, outputs of each) of a row of tiles, of whose last one `inside` outputs count."""
        if inside == self.outputs:
            return [(0, tiles, inside)]
        whole = [(0, tiles - 1, self.outputs)] if tiles > 1 else []
        return [*whole, (tiles - 1, 1, inside)]


@dataclass(frozen=True)
class _Phase:
    """A filter that moves by one, of neighbouring taps."""

    outputs: int
    taps: int

    @property
    def points(self) -> tuple[Fraction, ...]:
        """All but infinity."""
        return _POINTS[: self.outputs + self.taps - 2]

    @property
    def input_transform(self) -> Matrix:
        rows = [[*_with_roots(p for p in self.points if p != own), Fraction(0)] for own in self.points]
        rows = [[c * _sign(scale) for c in row] for row, scale in zip(rows, self._scales, strict=True)]
        return np.array([*rows, _with_roots(self.points)], np.float64)

    @property
    def filter_transform(self) -> Matrix:
        scales = [scale * _sign(scale) for scale in self._scales]
        rows = [[p**k / scale for k in range(self.taps)] for p, scale in zip(self.points, scales, strict=True)]
        return np.array([*rows, [0] * (self.taps - 1) + [1]], np.float64)

    @property
    def output_transform(self) -> Matrix:
        rows = [[*(p**k for p in self.points), k == self.outputs - 1] for k in range(self.outputs)]
        return np.array(rows, np.float64)

    @property
    def _scales(self) -> list[Fraction]:
        return [math.prod((own - p for p in self.points if p != own), start=Fraction(1)) for own in self.points]


def _with_roots(roots: Iterable[Fraction]) -> Polynomial:
    """The product of x - root."""

    def times(p: Polynomial, root: Fraction) -> Polynomial:
        return [high - root * low for high, low in zip([Fraction(0), *p], [*p, Fraction(0)], strict=True)]

    return reduce(times, roots, [Fraction(1)])


def _sign(scale: Fraction) -> int:
    """-1 where that spares the filters a change of sign."""
    return -1 if scale == -1 else 1


@dataclass(frozen=True)
class Filtering:
    """Two dimensions: along the columns of an image and, from top to bottom, along its rows."""

    down: Line
    across: Line

    @cached_property
    def outputs(self) -> Pair:
        """Rows and columns of a tile of outputs."""
        return self.down.outputs, self.across.outputs

    @property
    def taps(self) -> Pair:
        """Of the filters."""
        return self.down.taps, self.across.taps

    @cached_property
    def inputs(self) -> Pair:
        """Rows and columns of a tile of inputs."""
        return self.down.inputs, self.across.inputs

    @cached_property
    def sides(self) -> Pair:
        """Rows and columns of the numbers that a tile of them, or a filter, becomes."""
        return self.down.points, self.across.points

    @property
    def sums(self) -> int:
        """How many products add up at a point for each channel: those of added phases."""
        return self.down.sums * self.across.sums

    @property
    def is_oblong(self) -> bool:
        return 1 not in self.outputs and self.outputs[0] != self.outputs[1]

    @property
    def is_dilated(self) -> bool:
        """Whether neighbouring outputs lie in different tiles."""
        return max(self.down.dilation, self.across.dilation) > 1

    @property
    def least_bits(self) -> int:
        """The fewest for its filters, as `fixed_point` keeps them.

        20 if it interpolates at 0, 1, -1 and infinity alone, whose powers do not grow: they round about as much as
        tiles of 4x4 in float32. Else 24, which round less than the tiles themselves.
        """
        return 20 if max(self.down.most_points, self.across.most_points) <= _UNIT_POINTS else 24

    @cached_property
    def points(self) -> int:
        """Numbers that a tile, or a filter, becomes; of added phases, each of them."""
        return math.prod(self.sides)

    def numbers(self, weights: Shape) -> int:
        """How many all filters become of weights [OC, C, *taps], which may have more taps, along frames."""
        return math.prod(weights) // math.prod(self.taps) * self.points * self.sums

    @property
    def slots(self) -> int:
        """Vectors from the products of a tile to those of the next: an odd number, for other sets of a cache.

        64 of them, as 6x6 outputs of 3x3 taps have points, are a page of AVX-512.
        """
        return self.points | 1

    @property
    def name(self) -> str:
        """Rows and columns of a tile of outputs, as in 4x4."""
        return "x".join(map(str, self.outputs))

    def tiles(self, extents: Shape) -> Pair:
        """Rows and columns of tiles that cover an image."""
        height, width = extents
        return self.down.tiles_along(height), self.across.tiles_along(width)

    # ---- costs

    @property
    def margin(self) -> float:
        """By what estimates are too low: long filters come from far, and long transforms leave registers."""
        return _LONG_MARGIN if max(self.outputs) > _SHORT_TILE else 1.0

    @cached_property
    def input_cycles(self) -> float:
        """Estimated cycles to transform one tile of a block of channels."""
        down, across = (_operations(line.input_transform) for line in (self.down, self.across))
        arithmetic = self.sides[1] * down + self.sides[0] * across
        return _OPERATION_CYCLES * (arithmetic + 2 * self.points) * self.sums

    @cached_property
    def output_cycles(self) -> float:
        """Estimated cycles to transform one tile of products for a block of channels, with bias."""
        down, across = (_operations(line.output_transform) for line in (self.down, self.across))
        arithmetic = self.sides[1] * down + self.outputs[0] * across
        return _OPERATION_CYCLES * (arithmetic + self.points + 2 * math.prod(self.outputs))

    # ---- at compile time

    def transform_filters(self, out: Array, weights: Array) -> None:
        """G g G^T of [OC, C, *taps] into [groups, points, C, blocks, lanes], zeros for channels beyond the last.

        Of [OC, frames, C, *taps] the channels of one frame come after those of the other. Each channel is as many as
        there are sums.
        """
        if weights.ndim > 4:
            each = out.reshape(*out.shape[:2], weights.shape[1], -1, *out.shape[3:])
            for frame in range(weights.shape[1]):
                self.transform_filters(each[:, :, frame], weights[:, frame])
            return
        groups, points, in_channels, blocks, lanes = out.shape
        weights = self._phases_as_channels(weights)
        width, (down, across), (rows, columns) = blocks * lanes, weights.shape[2:], self.sides
        for first in range(0, in_channels, _TRANSFORMED):
            depth = min(in_channels - first, _TRANSFORMED)
            taps, half = np.empty((down, across, depth, width)), np.empty((rows, across, depth, width))
            both = np.empty((rows, columns, depth, width))
            for group in range(groups):
                filters = weights[group * width : (group + 1) * width, first : first + depth]
                taps[..., : len(filters)] = filters.transpose(2, 3, 1, 0)
                taps[..., len(filters) :] = 0
                np.matmul(self.down.filter_transform, taps.reshape(down, -1), out=half.reshape(rows, -1))
                np.matmul(
                    self.across.filter_transform, half.reshape(rows, across, -1), out=both.reshape(rows, columns, -1)
                )
                out[group, :, first : first + depth] = both.reshape(points, depth, blocks, lanes)

    def _phases_as_channels(self, weights: Array) -> Array:
        """[OC, C, *taps] with each added phase, of rows and then columns, as a channel of [OC, C * sums, *its taps]."""
        if self.sums == 1:
            return weights
        sides = [(-(-line.taps // line.sums), line.sums) for line in (self.down, self.across)]
        missing = [(0, length * count - taps) for (length, count), taps in zip(sides, self.taps, strict=True)]
        padded = np.pad(weights, ((0, 0), (0, 0), *missing)).reshape(*weights.shape[:2], *sides[0], *sides[1])
        (rows, _), (columns, _) = sides
        return padded.transpose(0, 1, 3, 5, 2, 4).reshape(len(weights), -1, rows, columns)

    def transform_filters_by_point(self, out: Array, weights: Array) -> None:
        """The same into [points, groups, C, blocks, lanes]."""
        self.transform_filters(out.swapaxes(0, 1), weights)

    # ---- in kernels

    def input_tile(
        self, b: Builder, lane: Var, read: Callable[[Affine, Affine], Expr],
        write: Callable[[Affine, Expr], None],
    ) -> None:  # fmt: skip
        """B^T d B of the inputs read(row, column), of one of added phases; write(point, value) takes the result."""
        rows, columns = self.sides
        half = self._half(b, rows, lane)
        with self._each(b, "j", columns) as places:
            for place in places:
                seen = [read(Affine.of(i), place) for i in range(rows)]
                for i, value in enumerate(_combine(self.down.input_transform, seen)):
                    b.store(half(i, place), value)
        with self._each(b, "i", rows) as places:
            for place in places:
                seen = [half(place, j) for j in range(columns)]
                for j, value in enumerate(_combine(self.across.input_transform, seen)):
                    write(place * columns + j, value)

    def output_tile(
        self, b: Builder, lane: Var, inside: Pair, read: Callable[[Affine], Expr],
        write: Callable[[int, int, Expr], None],
    ) -> None:  # fmt: skip
        """A^T m A of the products read(point), of which the first `inside` rows and columns are written."""
        rows, columns = self.sides
        half = self._half(b, inside[0], lane)
        with self._each(b, "j", columns) as places:
            for place in places:
                seen = [read(place + i * columns) for i in range(rows)]
                for i, value in enumerate(_combine(self.down.output_transform[: inside[0]], seen)):
                    b.store(half(i, place), value)
        for i in range(inside[0]):
            seen = [half(i, j) for j in range(columns)]
            for j, value in enumerate(_combine(self.across.output_transform[: inside[1]], seen)):
                write(i, j, value)

    @property
    def _is_long(self) -> bool:
        """Whether transforms are loops over columns and rows, for registers cannot hold their intermediate results."""
        return self.points > _UNROLLED

    def _half(self, b: Builder, rows: int, lane: Var) -> Callable[[IndexLike, IndexLike], Load | TileRead]:
        """Where a tile lies whose columns have been transformed to so many rows."""
        if self._is_long:
            kept = b.scratch_once("half", (*self.sides, lane.extent))
            return lambda i, j: kept[i, j, lane]
        tile = b.tile("half", rows, self.sides[1])
        return lambda i, j: tile[i, j]

    @contextmanager
    def _each(self, b: Builder, name: str, count: int) -> Iterator[Iterable[Affine]]:
        if not self._is_long:
            yield map(Affine.of, range(count))
            return
        with b.serial(name, count) as place:
            yield [Affine.of(place)]


_line = cache(Line)
"""Always the same object, which computes its transforms once."""


@cache
def filtering(
    outputs: Pair, taps: Pair, strides: Pair = (1, 1), dilations: Pair = (1, 1), added: bool = False
) -> Filtering:  # fmt: skip
    """The one of tiles with these outputs, for filters with these taps; always the same object.

    If phases are `added`, those along both axes.

    Raises UnsupportedError where there are too few points to interpolate.
    """
    down, across = (_line(*each, added) for each in zip(outputs, taps, strides, dilations, strict=True))
    for line in (down, across):
        if min(line.outputs, line.taps) < 1 or line.taps < line.stride or 1 not in (line.stride, line.dilation):
            raise UnsupportedError(
                f"no tiles of {line.outputs} outputs for {line.taps} taps, stride {line.stride}, dilation "
                f"{line.dilation}: a stride is no longer than the taps are many, and not with dilation"
            )
        if line.most_points > len(_POINTS):
            raise UnsupportedError(
                f"no tiles of {outputs} outputs for filters of {taps} taps: along each axis, outputs and taps together "
                f"are at most {len(_POINTS) + 2}"
            )
    return Filtering(down, across)


def _combine(matrix: Matrix, xs: Sequence[Expr]) -> list[Expr]:
    """The matrix times a vector of expressions."""
    return [_dot(row, xs) for row in matrix.tolist()]


def _operations(matrix: Matrix) -> int:
    """Instructions of that: one for each term but the first, which may need a factor."""
    return sum(int(np.count_nonzero(row)) - (1 in np.abs(row)) for row in matrix)


def _dot(row: Sequence[float], xs: Sequence[Expr]) -> Expr:
    terms = sorted(((float(k), x) for k, x in zip(row, xs, strict=True) if k), key=lambda term: abs(term[0]) != 1)
    (k, x), *rest = terms
    start = x if k == 1 else -x if k == -1 else x * k
    return reduce(_add_term, rest, start)


def _add_term(total: Expr, term: tuple[float, Expr]) -> Expr:
    k, x = term
    if k == 1:
        return total + x
    if k == -1:
        return total - x
    return Fma(x, Const(k), total)
