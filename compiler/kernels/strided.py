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

import numpy as np

from glulam.compiler.graph.types import Array, DType
from glulam.compiler.kernels.context import COPIED_AS, Context
from glulam.compiler.kernels.nest import nest, overlapping_vectors, row_chunks, tasks
from glulam.compiler.kernels.operand import pack_channels
from glulam.compiler.kernels.shuffles import assembled, transposed
from glulam.compiler.kernels.tiling import pieces
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
    flat = np.ascontiguousarray(data).reshape(-1).view(COPIED_AS.get(dtype, dtype).numpy)
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
                self.tiles(others, along, inner)
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

    def tiles(
        self, outer: Sequence[Dim], along: Dim, row: Dim, real: int | None = None, kept: int | None = None
    ) -> None:
        """Transpose: the source is dense along `along`, the target along `row`.

        With `real`, only that many elements of `row` exist in the source and zeros follow; with `kept`, only that many
        of `along` are stored. Both need extents that whole tiles cover.
        """
        width = self.shuffled
        while width > min(along.extent, row.extent):
            width //= 2
        covers = list(product(_cover(row.extent, width), _cover(along.extent, width)))
        extents, cost = [d.extent for d in outer], 2 * self.size * width * width

        def tile(coords: list[Affine], t_first: int, s_first: int) -> None:
            *head, t, s = coords
            x, y = self.base(outer, head)
            t, s = t * width + t_first, s * width + s_first
            with self.b.vector("v", width) as v:
                columns = self.turned(x + t * row.source + s, row.source, v, real)
                for j in range(width if kept is None else kept):
                    self.store(y + t + v + (s + j) * along.target, columns[j])

        def all_tiles(head: list[Affine]) -> None:
            for (t_first, t_count), (s_first, s_count) in covers:
                with self.b.serial("t", t_count) as t, self.b.serial("s", s_count) as s:
                    tile([*head, Affine.of(t), Affine.of(s)], t_first, s_first)

        whole = sum(t_count * s_count for (_, t_count), (_, s_count) in covers) * cost
        in_one_set = along.target * self.size % _SAME_SET == 0 and math.prod(extents) * whole <= self.cached
        in_runs = kept is None and in_one_set and row.extent >= _RUN * width
        if len(covers) > 1 and not in_runs and math.prod(extents) >= tasks(math.prod(extents), whole):
            nest(self.b, extents, whole, all_tiles)  # those that overlap are one thread's
            return
        for (t_first, t_count), (s_first, s_count) in covers:
            if in_runs and t_count >= _RUN:
                self.runs_of_tiles(outer, along, row, (t_first, t_count), (s_first, s_count), width, real)
                continue
            each = partial(tile, t_first=t_first, s_first=s_first)
            nest(self.b, [*extents, t_count, s_count], cost, each)

    def runs_of_tiles(
        self, outer: Sequence[Dim], along: Dim, row: Dim, across: tuple[int, int], down: tuple[int, int], width: int,
        real: int | None,
    ) -> None:  # fmt: skip
        """Tiles whose rows would all go to one set of a cache: several side by side, then row by row."""
        (t_first, t_count), (s_first, s_count) = across, down
        kept = self.b.scratch(f"kept{len(self.b.scratch_buffers)}", (width, _RUN * width), self.dtype)
        for begin, count, length in pieces(t_count, _RUN):

            def run(coords: list[Affine], begin: int = begin, length: int = length) -> None:
                *head, s, t = coords
                x, y = self.base(outer, head)
                t, s = (t * length + begin) * width + t_first, s * width + s_first
                with self.b.serial("i", length) as i, self.b.vector("v", width) as v:
                    columns = self.turned(x + (t + i * width) * row.source + s, row.source, v, real)
                    for number, column in enumerate(columns):
                        self.b.store(kept[number, i * width + v], column)
                with self.b.serial("j", width) as j, self.b.serial("i", length) as i, self.b.vector("v", width) as v:
                    self.store(y + t + i * width + v + (s + j) * along.target, kept[j, i * width + v])

            extents = [*(d.extent for d in outer), s_count, count]
            nest(self.b, extents, 2 * self.size * width * width * length, run)

    def turned(self, corner: Affine, step: int, v: Var, real: int | None) -> list[Expr]:
        """The columns of a tile whose rows begin `step` elements apart; those from number `real` on are zeros."""
        rows = [self.load(corner + i * step + v) if real is None or i < real else None for i in range(v.extent)]
        return transposed(self.b, rows, self.dtype)

    def elements(self, dims: Sequence[Dim]) -> None:
        """One by one."""

        def element(coords: list[Affine]) -> None:
            x, y = self.base(dims, coords)
            self.store(y, self.load(x))

        nest(self.b, [d.extent for d in dims], 8 * self.size, element)


def transpose_blocks(
    ctx: Context, outer: Sequence[Dim], along: Dim, row: Dim, source: Side, target: Side, *,
    real: int | None = None, kept: int | None = None,
) -> bool:  # fmt: skip
    """Tiles as wide as a channel block that is not full (see `_Copier.tiles`); False if the extents do not allow it."""
    copier = _Copier(ctx, source, target)
    block = row.extent if real is not None else along.extent
    dense = along.source == row.target == 1
    if not dense or copier.shuffled != block or min(along.extent, row.extent) < block:
        return False
    copier.tiles(outer, along, row, real, kept)
    return True


def _cover(extent: int, width: int) -> list[tuple[int, int]]:
    """(first, count) of tiles: whole ones, and one more that ends with the extent if they leave something."""
    full = extent // width
    return [(0, full), (extent - width, 1)] if extent % width else [(0, full)]
