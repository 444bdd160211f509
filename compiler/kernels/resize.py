"""Resampling: each output element is a weighted sum of input elements, whose places and weights are known per axis.

Nearest neighbours at an integer scale are loaded once and stored several times. All else reads places and weights from
tables. Where it saves work, a row of the input is first interpolated along all other axes. What a
vector of a plain row is made of lies near each other in the row of the input, so lanes of a few vectors are picked;
where the processor has no instruction for that, or they lie too far apart, elements are gathered.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from glulam.compiler.graph.types import Array, DType
from glulam.compiler.kernels.context import Context, Lowered, Point, vectors
from glulam.compiler.kernels.ranges import unroll_factor
from glulam.compiler.loops import expr as ex
from glulam.compiler.loops.expr import Const, Expr, Fma
from glulam.compiler.loops.index import Affine, Bounded, IndexLike, Var
from glulam.compiler.loops.ir import Buffer, LanePick, LaneShuffle, Tile
from glulam.compiler.targets import Target

_UNROLLED_TAPS = 4
_GATHERED = 16  # elements that lie together are read in the time of one that is gathered
_WINDOW = 3  # vectors whose lanes are picked in less time than as many elements are gathered
_COPIES = 16  # stores of one loaded element that are written out


@dataclass(frozen=True)
class AxisTaps:
    """How one axis is resampled. For each output index: input indices [size, taps] and weights, None for a copy.

    `outside` marks output indices that show the fill value, None if there are none.
    """

    index: Array
    weights: Array | None = None
    outside: Array | None = None

    @property
    def count(self) -> int:
        return int(self.index.shape[1])

    @property
    def step(self) -> int | None:
        """How far each output's taps lie from those of the one before; None where that, or the weights, differ."""
        steps = np.unique(np.diff(self.index, axis=0))
        same = self.weights is None or (self.weights == self.weights[0]).all()
        return int(steps[0]) if len(steps) == 1 and same and self.count <= _UNROLLED_TAPS else None


@dataclass(frozen=True)
class Windows:
    """What the vectors of a resampled row read: each `count` vectors of the input's row, side by side.

    They begin at `first` [vectors], and lanes pick their elements `lanes` [vectors, taps, width], counted from there.
    Of a row that is no whole vectors, the last one of those that `begins` names ends with the row.
    """

    begins: tuple[int, ...]
    first: Array
    lanes: Array
    count: int

    @classmethod
    def of(cls, axis: AxisTaps, width: int) -> Windows | None:
        """None if there is no whole vector, or a window would be too wide."""
        size = len(axis.index)
        if size < width or axis.count > _UNROLLED_TAPS:
            return None
        begins = [*range(0, size - width + 1, width)] + [size - width] * (size % width > 0)
        index = np.stack([axis.index[begin : begin + width].T for begin in begins])
        first = index.min(axis=(1, 2))
        lanes = index - first[:, None, None]
        count = int(lanes.max()) // width + 1
        return cls(tuple(begins), first, lanes, count) if count <= _WINDOW else None

    def runs(self, width: int) -> Iterator[tuple[int, int, int]]:
        """(first vector, how many, where the first one begins) of vectors side by side."""
        whole = sum(begin == k * width for k, begin in enumerate(self.begins))
        yield 0, whole, 0
        if whole < len(self.begins):
            yield whole, 1, self.begins[-1]


def windows(target: Target, axis: AxisTaps, dtype: DType) -> Windows | None:
    """How plain rows are resampled by picking lanes; None if they are not."""
    if axis.step is not None or dtype is not DType.F32 or not target.permutes_lanes:
        return None
    return Windows.of(axis, target.lanes)


def build(ctx: Context, axes: Sequence[AxisTaps | None], fill: float) -> Lowered:
    """Input 0 to output 0; None for an axis that stays as it is. On channel blocks only spatial axes may change."""
    if not ctx.output.type.size:
        return ctx.finished()
    factors = _factors(ctx, axes)
    if factors is not None:
        return _repeat(ctx, factors) if ctx.output.layout.block > 1 else _repeat_rows(ctx, factors)
    return _Tables(ctx, axes, fill).build()


def _factors(ctx: Context, axes: Sequence[AxisTaps | None]) -> tuple[int, ...] | None:
    """How often each element is repeated along the spatial axes, None if that does not describe the problem."""
    factors = []
    for axis, extent, size in zip(axes, ctx.operand(0).shape, ctx.output.shape, strict=True):
        factor, rest = divmod(size, extent)
        if rest:
            return None
        factors.append(factor)
        if axis is None:
            continue
        repeated = np.arange(size) // factor
        if axis.weights is not None or axis.outside is not None or not np.array_equal(axis.index[:, 0], repeated):
            return None
    if math.prod(factors) > _COPIES or factors[:2] != [1, 1] or len(factors) < 3:
        return None
    return tuple(factors[2:])


def _repeat(ctx: Context, factors: tuple[int, ...]) -> Lowered:
    b, x, block = ctx.builder, ctx.input_view(0), ctx.output.layout.block
    *outer, width = x.operand.spatial
    together = unroll_factor(width, max(1, 4 // math.prod(factors)))
    ctx.output_view()
    with (
        ctx.image_section(ctx.output.blocks, outer or (1,)) as (n, c, at),
        b.serial("w", width // together) as w,
        b.vector("v", block) as v,
        b.unrolled("u", together) as u,
    ):
        place = [*(at if outer else ()), w * together + u]
        element = b.tile("element", 1)
        b.store(element[0], x[(n, c, *place, v)])
        for shift in itertools.product(*map(range, factors)):
            moved = [p * f + s for p, f, s in zip(place, factors, shift, strict=True)]
            point: Point = (n, c, *moved, v)
            ctx.write(point, ctx.finish(element[0], point))
    return ctx.finished()


def _repeat_rows(ctx: Context, factors: tuple[int, ...]) -> Lowered:
    """The same on plain rows: a vector becomes several, each of which is stored in several rows."""
    b, x, (*rows, along) = ctx.builder, ctx.input_view(0), factors
    *outer, width = x.operand.shape
    lanes = ctx.target.vector_bytes // max(x.operand.type.dtype.size, 4)
    ctx.output_view()
    with b.section(**{f"d{d}": extent for d, extent in enumerate(outer)}) as (n, c, *at):
        for first, count, size in ((0, width // lanes, lanes), (width // lanes * lanes, 1, width % lanes)):
            if not count or not size:
                continue
            with b.serial("w", count) as w, b.vector("v", size) as v:
                element = b.tile("element", 1, dtype=x.operand.type.dtype)
                b.store(element[0], x[(n, c, *at, w * size + first + v)])
                for part in range(along):
                    order = tuple((part * size + lane) // along for lane in range(size))
                    value = element[0] if along == 1 else LaneShuffle(element[0], element[0], order)
                    column = (w * size + first) * along + part * size + v
                    for shift in itertools.product(*map(range, rows)):
                        moved = [p * f + s for p, f, s in zip(at, rows, shift, strict=True)]
                        point: Point = (n, c, *moved, column)
                        ctx.write(point, ctx.finish(value, point))
    return ctx.finished()


class _Tables:
    """Places and weights from tables. `lane` is the channel lane of a block; plain vectors run along the last axis."""

    def __init__(self, ctx: Context, axes: Sequence[AxisTaps | None], fill: float) -> None:
        self.ctx, self.b, self.axes, self.fill = ctx, ctx.builder, axes, fill
        self.x = ctx.input_view(0)
        ctx.output_view()
        self.dtype = ctx.operand(0).type.dtype
        self.block = ctx.output.layout.block
        self.width = ctx.target.vector_bytes // max(self.dtype.size, 4)
        last = axes[-1] if axes and self.block == 1 else None
        self.windows = None if last is None else windows(ctx.target, last, self.dtype)
        self.scratch = self.first_along_rows()
        self.index: dict[int, Buffer] = {}
        self.weights: dict[int, Buffer] = {}
        self.outside: dict[int, Buffer] = {}
        for d, axis in enumerate(axes):
            if axis is None:
                continue
            if d == len(axes) - 1 and self.windows is not None:
                self.window_tables(axis, self.windows)
            elif axis.step is None:
                self.index[d] = ctx.constant(axis.index.astype(np.int64) + self.origin(d), "i")
                if axis.weights is not None:
                    self.weights[d] = ctx.constant(axis.weights.astype(self.dtype.numpy), "w")
            if axis.outside is not None:
                self.outside[d] = ctx.constant(axis.outside, "o")

    def origin(self, d: int) -> int:
        """Where what is read along an axis begins: the tensor in its padding, or a row of its own."""
        return 0 if self.scratch is not None and d == len(self.axes) - 1 else self.x.origin[d]

    def window_tables(self, axis: AxisTaps, windows: Windows) -> None:
        ctx, width = self.ctx, self.width
        self.firsts = ctx.constant(windows.first.astype(np.int64), "f")
        self.lanes = ctx.constant(windows.lanes.astype(np.int32), "l")
        self.lane_weights: Buffer | None = None
        if axis.weights is not None:
            weights = np.stack([axis.weights[begin : begin + width].T for begin in windows.begins])
            self.lane_weights = ctx.constant(weights.astype(self.dtype.numpy), "w")

    def first_along_rows(self) -> Buffer | None:
        """Private memory for a row interpolated along all axes but the last, if that takes fewer operations.

        Of a row whose lanes are picked, the second dimension runs through the vectors from each place on.
        """
        if not self.axes or self.axes[-1] is None:
            return None
        if self.windows is not None:
            room = self.windows.count * self.width
            return self.b.scratch("row", (self.x.operand.shape[-1], room), self.dtype, strides=(1, 1))
        taps = math.prod(1 if axis is None else axis.count for axis in self.axes[:-1])
        extent, size, along = self.x.operand.shape[-1], self.ctx.output.shape[-1], self.axes[-1].count
        if self.block == 1 and self.axes[-1].step is None:
            along *= _GATHERED
        if extent * (taps + 1) + size * along >= size * taps * along:
            return None
        lane = (self.block,) if self.block > 1 else ()
        return self.b.scratch("row", (extent, *lane), self.dtype)

    def build(self) -> Lowered:
        ctx, b = self.ctx, self.b
        shape = [*ctx.output.shape]
        if self.block > 1:
            shape[1] = ctx.output.blocks
        if not shape:
            with b.section(one=1):
                ctx.write((), ctx.finish(self.x[()], ()))
            return ctx.finished()
        *outer, width = shape
        with b.section(**{f"d{d}": extent for d, extent in enumerate(outer)} or {"one": 1}) as at:
            head = tuple(map(Affine.of, at)) if outer else ()
            taps = [self.row_taps(d, place) for d, place in enumerate(head)]
            if self.scratch is not None:
                row = self.scratch
                self.along(self.x.operand.shape[-1], lambda p, lane: self.fill_row(row, taps, p, lane))
            if self.windows is not None:
                self.pick_row(self.windows, head)
            else:
                self.along(width, lambda p, lane: self.element(head, taps, p, lane))
        return ctx.finished()

    def along(self, extent: int, body: Callable[[Affine, tuple[Var, ...]], None]) -> None:
        """`body` for all places of the last axis, with the lanes of a block or vectors of places."""
        if self.block == 1:
            vectors(self.b, extent, self.width, lambda p: body(p, ()))
            return
        together = unroll_factor(extent, 2)
        with (
            self.b.serial("i", extent // together) as i,
            self.b.vector("v", self.block) as v,
            self.b.unrolled("u", together) as u,
        ):
            body(i * together + u, (v,))

    # ---- one axis

    def taps(self, d: int, place: Affine) -> _Fixed | _Regular | _Tabled:
        """The taps of an axis at a place."""
        axis = self.axes[d]
        if axis is None:
            return _Fixed(place + self.x.origin[d])
        return _Tabled(self, d, place) if axis.step is None else _Regular(self, d, place * axis.step)

    def row_taps(self, d: int, place: Affine) -> _Taps:
        """The taps of an outer axis at a place; a few of them are kept in registers for the whole row."""
        taps = self.taps(d, place)
        return _Kept(self, taps) if isinstance(taps, _Tabled) and taps.count <= _UNROLLED_TAPS else taps

    def fold(self, taps: _Taps, element: Callable[[IndexLike], Expr]) -> Expr:
        """The weighted sum of element(index) over the taps."""
        if taps.count <= _UNROLLED_TAPS:
            total: Expr | None = None
            for t in range(taps.count):
                value, weight = element(taps.index(t)), taps.weight(t)
                if weight is not None:
                    value = value * weight if total is None else Fma(value, weight, total)
                total = value
            assert total is not None
            return total
        acc = self.b.tile("acc", 1, dtype=self.dtype)
        self.b.store(acc[0], 0.0)
        with self.b.serial("t", taps.count) as tap:
            weight = taps.weight(tap)
            assert weight is not None
            self.b.store(acc[0], Fma(element(taps.index(tap)), weight, acc[0]))
        return acc[0]

    # ---- elements

    def sampled(self, taps: Sequence[_Taps], load: Callable[[list[IndexLike]], Expr]) -> Expr:
        """The weighted sum of load(indices) over the taps of several axes."""

        def descend(done: list[IndexLike], rest: Sequence[_Taps]) -> Expr:
            if not rest:
                return load(done)
            return self.fold(rest[0], lambda index: descend([*done, index], rest[1:]))

        return descend([], taps)

    def fill_row(self, row: Buffer, taps: Sequence[_Taps], place: Affine, lane: tuple[Var, ...]) -> None:
        column = place + self.x.origin[len(self.axes) - 1]
        value = self.sampled(taps, lambda index: self.x.buffer[(*index, column, *lane)])
        self.b.store(row[(place, 0) if self.windows is not None else (place, *lane)], value)

    def element(self, head: tuple[Affine, ...], taps: Sequence[_Taps], place: Affine, lane: tuple[Var, ...]) -> None:
        along = self.taps(len(self.axes) - 1, place)
        if self.scratch is not None:
            row = self.scratch
            value = self.fold(along, lambda index: row[(index, *lane)])
        else:
            value = self.sampled([*taps, along], lambda index: self.x.buffer[(*index, *lane)])
        self.write((*head, place, *lane), value)

    def write(self, point: Point, value: Expr) -> None:
        for d, table in self.outside.items():
            value = ex.where(table[point[d]], self.fill if self.dtype.is_float else int(self.fill), value)
        self.ctx.write(point, self.ctx.finish(value, point))

    # ---- lanes picked

    def pick_row(self, windows: Windows, head: tuple[Affine, ...]) -> None:
        for first, count, begin in windows.runs(self.width):
            with self.b.serial("i", count) as i, self.b.vector("v", self.width) as v:
                value = self.picked(windows, i + first, v)
                self.write((*head, i * self.width + begin + v), value)

    def picked(self, windows: Windows, vector: Affine, v: Var) -> Expr:
        """The weighted sum over the taps of one vector."""
        row, total = self.scratch, None
        assert row is not None
        start = Bounded(self.firsts[vector], row.shape[0])
        parts = [row[start, v + k * self.width] for k in range(windows.count)]
        for t in range(windows.lanes.shape[1]):
            lane = self.lanes[vector, t, v]
            value: Expr = LanePick(parts[0], lane)
            for k, part in enumerate(parts[1:], 1):
                value = ex.where(lane >= k * self.width, LanePick(part, lane), value)
            if self.lane_weights is not None:
                weight = self.lane_weights[vector, t, v]
                value = value * weight if total is None else Fma(value, weight, total)
            total = value
        assert total is not None
        return total


class _Fixed:
    """An axis that is not resampled."""

    count = 1

    def __init__(self, place: Affine) -> None:
        self.place = place

    def index(self, t: int | Var) -> IndexLike:
        return self.place

    def weight(self, t: int | Var) -> Expr | None:
        return None


class _Regular:
    """Taps that move by the same step from place to place, with the same weights everywhere."""

    def __init__(self, work: _Tables, d: int, start: Affine) -> None:
        axis = work.axes[d]
        assert axis is not None
        self.axis, self.count, self.dtype = axis, axis.count, work.dtype
        self.start = start + work.origin(d)

    def index(self, t: int | Var) -> IndexLike:
        assert isinstance(t, int)
        return self.start + int(self.axis.index[0, t])

    def weight(self, t: int | Var) -> Expr | None:
        assert isinstance(t, int)
        return None if self.axis.weights is None else Const(float(self.axis.weights[0, t]), self.dtype)


class _Tabled:
    """Taps read from the tables."""

    def __init__(self, work: _Tables, d: int, place: Affine) -> None:
        axis = work.axes[d]
        assert axis is not None
        self.work, self.d, self.place, self.count = work, d, place, axis.count
        inner = work.scratch is not None and d == len(work.axes) - 1
        self.extent = work.x.operand.shape[d] if inner else work.x.buffer.shape[d]

    def index(self, t: int | Var) -> IndexLike:
        return Bounded(self.work.index[self.d][self.place, t], self.extent)

    def weight(self, t: int | Var) -> Expr | None:
        table = self.work.weights.get(self.d)
        return None if table is None else table[self.place, t]


class _Kept:
    """Taps in registers, since stores to the output could change tables for all that the machine's compiler knows."""

    def __init__(self, work: _Tables, taps: _Tabled) -> None:
        b, self.count, self.extent = work.b, taps.count, taps.extent
        self.places: Tile = b.tile("place", taps.count, dtype=DType.I64)
        self.weights: Tile | None = None
        for t in range(taps.count):
            index = taps.index(t)
            assert isinstance(index, Bounded)
            b.store(self.places[t], index.value)
        if taps.weight(0) is not None:
            self.weights = b.tile("weight", taps.count, dtype=work.dtype)
            for t in range(taps.count):
                weight = taps.weight(t)
                assert weight is not None
                b.store(self.weights[t], weight)

    def index(self, t: int | Var) -> IndexLike:
        return Bounded(self.places[t], self.extent)

    def weight(self, t: int | Var) -> Expr | None:
        return None if self.weights is None else self.weights[t]


_Taps = _Fixed | _Regular | _Tabled | _Kept
