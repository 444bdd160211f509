"""Copies of boxes: the elements of one strided array to the places of another, in vectors wherever memory allows.

Every kernel that only moves elements is a few such copies. The dimensions are merged first; then the way is chosen by
the strides of what is left: rows, rows read or written a few elements apart, tiles transposed in registers, or single
elements.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from typing import NamedTuple

import numpy as np

from glulam.compiler.graph.types import Array, DType
from glulam.compiler.kernels.context import Context, copied_as
from glulam.compiler.kernels.nest import nest, overlapping_vectors, row_chunks, tasks
from glulam.compiler.kernels.operand import pack_channels
from glulam.compiler.kernels.ranges import pieces
from glulam.compiler.kernels.shuffles import assembled, transposed
from glulam.compiler.loops.expr import Expr
from glulam.compiler.loops.index import Affine, IndexLike, Var
from glulam.compiler.loops.ir import Buffer, Load, Partner

_CLOSE = 8  # strides up to this many elements are read as whole vectors
_SAME_SET = 4096  # bytes between places that fall into one set of a first-level cache, of 8 or 12 lines
_CACHED = 0.6  # of the last cache: beyond that, rows a page apart are written faster in turn, a line of each
_LONG_ROW = 64  # elements of rows that need not be copied together with their neighbours
_RUN = 8  # tiles that are transposed before their rows are written, where those would drive out each other


@dataclass(frozen=True)
class Side:
    """One side of a copy: where a box starts in a one-dimensional buffer, and the stride of each dimension."""

    buffer: Buffer
    start: int
    strides: tuple[int, ...]

    def moved(self, axis: int, by: int) -> Side:
        """The box `by` elements further along an axis."""
        return replace(self, start=self.start + by * self.strides[axis])

    def scaled(self, steps: Sequence[int]) -> Side:
        """The box of every step-th element."""
        return replace(self, strides=tuple(s * k for s, k in zip(self.strides, steps, strict=True)))

    def at(self, *coords: IndexLike) -> Affine:
        place = Affine.of(self.start)
        for coord, stride in zip(coords, self.strides, strict=True):
            assert not isinstance(coord, tuple)
            place = place + Affine.of(coord) * stride
        return place


Move = Callable[[Affine, Affine, Affine, Var], None]
"""What is done to one vector: the places of the row on both sides, the start of the vector in the row, its variable."""


@dataclass(frozen=True)
class Dim:
    """A dimension of a copy, with its strides on both sides."""

    extent: int
    source: int
    target: int


def source(ctx: Context, i: int, block: int = 1) -> Side:
    """Input `i`, with a dimension per axis; for channel blocks (n, block, *spatial, lane). Constants are packed."""
    operand = ctx.operand(i)
    if operand.data is not None:
        data = operand.data if block == 1 else pack_channels(operand.data, block)
        return constant(ctx, data)
    return Side(
        ctx.memory("input", i), _origin(operand.physical_strides, operand.layout.halo), operand.physical_strides
    )


def target(ctx: Context, i: int = 0) -> Side:
    """Output `i`, like `source`."""
    operand = ctx.outputs[i]
    return Side(
        ctx.memory("output", i), _origin(operand.physical_strides, operand.layout.halo), operand.physical_strides
    )


def constant(ctx: Context, data: Array) -> Side:
    """An array that is packed into the weights."""
    dtype = DType.of(data.dtype)
    flat = np.ascontiguousarray(data).reshape(-1).view(copied_as(dtype).numpy)
    strides = tuple(math.prod(data.shape[d + 1 :]) for d in range(data.ndim))
    return Side(ctx.constant(flat, "c"), 0, strides)


def _origin(strides: Sequence[int], halo: Sequence[tuple[int, int]]) -> int:
    return sum(before * stride for (before, _), stride in zip(halo, strides[2:], strict=False))


def fill(ctx: Context, extents: Sequence[int], value: float, place: Side, dtype: DType) -> None:
    """Put one value everywhere in a box; `dtype` is what the value is rounded to."""
    if 0 not in extents:
        only = constant(ctx, np.asarray([value]).astype(dtype.numpy))
        copy(ctx, extents, replace(only, strides=(0,) * len(extents)), place)


def copy(ctx: Context, extents: Sequence[int], source: Side, target: Side, rows: int | None = None) -> None:
    """Sections that copy a box of `extents`; two threads take half of axis `rows` each, or half of the box's places.

    Else they share it in the order of the target's memory; also where each of an odd number of rows is short.
    """
    if 0 in extents:
        return
    dims, head = [Dim(*d) for d in zip(extents, source.strides, target.strides, strict=True)], list[Dim]()
    if rows is not None and (extents[rows] % 2 == 0 or math.prod(extents[rows + 1 :]) >= _LONG_ROW):
        (parts, length), axis = row_parts(extents[rows]), dims[rows]
        head = [Dim(parts, axis.source * length, axis.target * length)]
        dims[rows] = replace(axis, extent=length)
    *outer, inner = merged(dims)
    outer = head + outer
    with ctx.builder.of_partner(Partner.BOTH if head else None):
        _Copier(ctx, source, target).copy(outer, inner)


def interleave(ctx: Context, count: int, sources: Sequence[Side], lengths: Sequence[int], target: Side) -> None:
    """Sections that put `count` records together, of the next so many elements of each source, one at least.

    A thread writes whole records, which lie one after the other. Separate copies would have several threads write to
    one cache line at a time.
    """
    if count:
        _Copier(ctx, sources[0], target).pieces(count, sources, lengths)


def row_parts(rows: int) -> tuple[int, int]:
    """Parts of which, one after the other, two threads have half each, and how many rows they have: halves, or rows."""
    return (2, rows // 2) if rows % 2 == 0 else (rows, 1)


def merged(dims: Sequence[Dim]) -> list[Dim]:
    """Fewest dimensions, in the order of the target's memory; at least one."""
    result: list[Dim] = []
    for dim in sorted((d for d in dims if d.extent > 1), key=lambda d: -d.target):
        last = result[-1] if result else None
        if last is not None and last.source == dim.source * dim.extent and last.target == dim.target * dim.extent:
            result[-1] = Dim(last.extent * dim.extent, dim.source, dim.target)
        else:
            result.append(dim)
    return result or [Dim(1, 1, 1)]


class _Copier:
    """The ways to copy between two buffers. `outer` are loops around what a method's own dimensions say."""

    def __init__(self, ctx: Context, source: Side, target: Side) -> None:
        self.b, self.source, self.target = ctx.builder, source, target
        self.dtype = target.buffer.dtype
        self.size = self.dtype.size
        self.lanes = ctx.target.vector_bytes // self.size
        self.cached = _CACHED * ctx.target.l3_bytes
        self.shuffled = min(self.lanes, 16) if self.lanes > 2 else 4
        """Lanes of vectors that are taken apart; many narrow ones cost more than they bring."""

    def copy(self, outer: Sequence[Dim], inner: Dim) -> None:
        """In the way that suits the strides."""
        along = next((d for d in outer if d.source == 1 and d.extent > 1), None)
        if inner.target == 1 and inner.source in (0, 1):
            self.rows(outer, inner)
        elif inner.target == 1 and along is not None and inner.source != 0:
            others = [d for d in outer if d is not along]
            if inner.source == along.extent <= _CLOSE:
                self.take_apart(others, along, inner)
            elif along.target == inner.extent <= _CLOSE:
                self.put_together(others, along, inner)
            else:
                _Tiles(self, others, along, inner).sections()
        elif inner.target == 1 and abs(inner.source) <= _CLOSE and (room := self.room([*outer, inner])) is not None:
            self.strided_rows(outer, inner, room)
        else:
            self.elements([*outer, inner])

    def base(self, outer: Sequence[Dim], coords: Sequence[Affine]) -> tuple[Affine, Affine]:
        x, y = Affine.of(self.source.start), Affine.of(self.target.start)
        for dim, at in zip(outer, coords, strict=True):
            x, y = x + at * dim.source, y + at * dim.target
        return x, y

    def load(self, place: Affine) -> Load:
        return self.source.buffer[place]

    def store(self, place: Affine, value: Expr) -> None:
        self.b.store(self.target.buffer[place], value)

    def row_loops(self, outer: Sequence[Dim], length: int, width: int, cost: int, move: Move) -> None:
        """`move` in vectors over rows of `length` elements, each of them `cost` bytes of traffic."""
        extents = [d.extent for d in outer]
        for first, count, piece in row_chunks(math.prod(extents), length, width, cost):

            def rows(point: list[Affine], first: int = first, piece: int = piece) -> None:
                x, y = self.base(outer, point[:-1])
                begin = point[-1] * piece + first
                overlapping_vectors(self.b, piece, width, lambda start, v: move(x, y, begin + start, v))

            nest(self.b, [*extents, count], cost * piece, rows)

    def rows(self, outer: Sequence[Dim], row: Dim) -> None:
        def move(x: Affine, y: Affine, start: Affine, v: Var) -> None:
            self.store(y + start + v, self.load(x + (start + v) * row.source))

        self.row_loops(outer, row.extent, self.lanes, 2 * self.size, move)

    def take_apart(self, outer: Sequence[Dim], along: Dim, row: Dim) -> None:
        """Records of `along.extent` elements, each field to a row of its own."""
        fields = along.extent

        def move(x: Affine, y: Affine, start: Affine, v: Var) -> None:
            lanes = range(v.extent)
            loads = [self.load(x + start * fields + v + k * v.extent) for k in range(fields)]
            for j in range(fields):
                picks = [divmod(fields * i + j, v.extent) for i in lanes]
                self.store(y + start + v + j * along.target, assembled(loads, picks))

        self.row_loops(outer, row.extent, self.shuffled, 2 * self.size * fields, move)

    def put_together(self, outer: Sequence[Dim], along: Dim, row: Dim) -> None:
        """Rows that become the fields of records of `row.extent` elements."""
        fields = row.extent

        def move(x: Affine, y: Affine, start: Affine, v: Var) -> None:
            self.records([self.load(x + start + v + j * row.source) for j in range(fields)], y + start * fields, v)

        self.row_loops(outer, along.extent, self.shuffled, 2 * self.size * fields, move)

    def records(self, fields: Sequence[Load], y: Affine, v: Var) -> None:
        """Vectors with a field each of some records, which are written one after the other."""
        for k in range(len(fields)):
            places = range(k * v.extent, (k + 1) * v.extent)
            value = assembled(fields, [(place % len(fields), place // len(fields)) for place in places])
            self.store(y + v + k * v.extent, value)

    def pieces(self, count: int, sources: Sequence[Side], lengths: Sequence[int]) -> None:
        """Records of the pieces that lie one after the other in the sources, from each so many elements."""
        whole = sum(lengths)
        if whole == len(sources) <= _CLOSE:

            def move(_: Affine, y: Affine, start: Affine, v: Var) -> None:
                loads = [each.buffer[start + each.start + v] for each in sources]
                self.records(loads, y + start * whole, v)

            self.row_loops([], count, self.shuffled, 2 * self.size * whole, move)
            return

        def record(point: list[Affine]) -> None:
            place = point[0] * whole + self.target.start
            for each, length in zip(sources, lengths, strict=True):
                self.piece(each, point[0] * length + each.start, place, length)
                place = place + length

        nest(self.b, [count], 2 * self.size * whole, record)

    def piece(self, source: Side, x: Affine, y: Affine, length: int) -> None:
        def move(start: Affine, v: Var) -> None:
            self.store(y + start + v, source.buffer[x + start + v])

        overlapping_vectors(self.b, length, self.lanes, move)

    def room(self, dims: Sequence[Dim]) -> int | None:
        """Elements before the first one that whole vectors may start at, so that they stay in the buffer."""
        step = abs(dims[-1].source)
        lowest = self.source.start + sum(min(d.source, 0) * (d.extent - 1) for d in dims)
        highest = self.source.start + sum(max(d.source, 0) * (d.extent - 1) for d in dims)
        if highest + step - 1 < self.source.buffer.shape[0]:
            return 0
        return step - 1 if lowest >= step - 1 else None

    def strided_rows(self, outer: Sequence[Dim], row: Dim, before: int) -> None:
        """Rows of elements a few places apart, forwards or backwards."""
        step = abs(row.source)

        def move(x: Affine, y: Affine, start: Affine, v: Var) -> None:
            places = [row.source * i for i in range(v.extent)]
            low = min(places) - before
            loads = [self.load(x + start * row.source + v + (low + k * v.extent)) for k in range(step)]
            self.store(y + start + v, assembled(loads, [divmod(place - low, v.extent) for place in places]))

        self.row_loops(outer, row.extent, self.shuffled, 2 * self.size, move)

    def elements(self, dims: Sequence[Dim]) -> None:
        """One by one."""

        def element(coords: list[Affine]) -> None:
            x, y = self.base(dims, coords)
            self.store(y, self.load(x))

        nest(self.b, [d.extent for d in dims], 8 * self.size, element)


class _Grid(NamedTuple):
    """Tiles side by side: so many along the target's rows, and along the source's, from these elements on."""

    t_first: int
    t_count: int
    s_first: int
    s_count: int


class _Tiles:
    """A transposition by square tiles in registers: the source is dense along `along`, the target along `row`.

    With `real`, only that many elements of `row` exist in the source and zeros follow; with `kept`, only that many of
    `along` are stored. Both need extents that whole tiles cover.
    """

    def __init__(
        self, copier: _Copier, outer: Sequence[Dim], along: Dim, row: Dim, real: int | None = None,
        kept: int | None = None,
    ) -> None:  # fmt: skip
        self.copier, self.b = copier, copier.b
        self.outer, self.along, self.row, self.real, self.kept = outer, along, row, real, kept
        self.width = copier.shuffled
        while self.width > min(along.extent, row.extent):
            self.width //= 2
        self.cost = 2 * copier.size * self.width * self.width

    def sections(self) -> None:
        """A box of `along` and `row` is one thread's, for its tiles may overlap, unless there are too few of them."""
        covers = product(_cover(self.row.extent, self.width), _cover(self.along.extent, self.width))
        grids = [_Grid(*across, *down) for across, down in covers]
        extents = [dim.extent for dim in self.outer]
        boxes, box_cost = math.prod(extents), sum(grid.t_count * grid.s_count for grid in grids) * self.cost
        in_runs = self.rows_collide(boxes * box_cost)
        if len(grids) > 1 and not in_runs and boxes >= tasks(boxes, box_cost):
            nest(self.b, extents, box_cost, partial(self.box, grids))
            return
        for grid in grids:
            if in_runs and grid.t_count >= _RUN:
                self.runs(grid)
            else:
                nest(self.b, [*extents, grid.t_count, grid.s_count], self.cost, partial(self.tile, grid))

    def rows_collide(self, total: int) -> bool:
        """Whether a tile's rows, parts of long ones that stay in the last cache, all go to one set of the first."""
        copier = self.copier
        in_one_set = self.along.target * copier.size % _SAME_SET == 0 and total <= copier.cached
        return self.kept is None and in_one_set and self.row.extent >= _RUN * self.width

    def box(self, grids: Sequence[_Grid], head: list[Affine]) -> None:
        for grid in grids:
            with self.b.serial("t", grid.t_count) as t, self.b.serial("s", grid.s_count) as s:
                self.tile(grid, [*head, Affine.of(t), Affine.of(s)])

    def tile(self, grid: _Grid, point: list[Affine]) -> None:
        *head, t, s = point
        x, y = self.copier.base(self.outer, head)
        t, s = t * self.width + grid.t_first, s * self.width + grid.s_first
        with self.b.vector("v", self.width) as v:
            for j, column in enumerate(self.columns(x, t, s, v)[: self.kept]):
                self.copier.store(y + t + v + (s + j) * self.along.target, column)

    def runs(self, grid: _Grid) -> None:
        """Several tiles side by side are kept, then written row by row."""
        b, width = self.b, self.width
        kept = b.scratch(f"kept{len(b.scratch_buffers)}", (width, _RUN * width), self.copier.dtype)
        for begin, count, length in pieces(grid.t_count, _RUN):

            def run(point: list[Affine], begin: int = begin, length: int = length) -> None:
                *head, s, t = point
                x, y = self.copier.base(self.outer, head)
                t, s = (t * length + begin) * width + grid.t_first, s * width + grid.s_first
                with b.serial("i", length) as i, b.vector("v", width) as v:
                    for number, column in enumerate(self.columns(x, t + i * width, s, v)):
                        b.store(kept[number, i * width + v], column)
                with b.serial("j", width) as j, b.serial("i", length) as i, b.vector("v", width) as v:
                    self.copier.store(y + t + i * width + v + (s + j) * self.along.target, kept[j, i * width + v])

            nest(b, [*(dim.extent for dim in self.outer), grid.s_count, count], self.cost * length, run)

    def columns(self, x: Affine, t: Affine, s: Affine, v: Var) -> list[Expr]:
        """Of the tile at element `t` of the target's rows and `s` of the source's, in a box that starts at `x`."""
        places = [x + (t + i) * self.row.source + s + v for i in range(self.width)]
        rows = [self.copier.load(at) if self.real is None or i < self.real else None for i, at in enumerate(places)]
        return transposed(self.b, rows, self.copier.dtype)


def transpose_blocks(
    ctx: Context, outer: Sequence[Dim], along: Dim, row: Dim, source: Side, target: Side, *,
    real: int | None = None, kept: int | None = None,
) -> bool:  # fmt: skip
    """Tiles as wide as a channel block that is not full (see `_Tiles`); False if the extents do not allow it."""
    copier = _Copier(ctx, source, target)
    block = row.extent if real is not None else along.extent
    dense = along.source == row.target == 1
    if not dense or copier.shuffled != block or min(along.extent, row.extent) < block:
        return False
    _Tiles(copier, outer, along, row, real, kept).sections()
    return True


def _cover(extent: int, width: int) -> list[tuple[int, int]]:
    """(first, count) of tiles: whole ones, and one more that ends with the extent if they leave something."""
    full = extent // width
    return [(0, full), (extent - width, 1)] if extent % width else [(0, full)]
