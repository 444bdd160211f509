"""The place of the largest or smallest element along an axis of a plain tensor."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from glulam.compiler.graph.types import DType
from glulam.compiler.kernels.context import Context, Lowered
from glulam.compiler.kernels.ranges import pieces
from glulam.compiler.loops import expr as ex
from glulam.compiler.loops.expr import Const, Expr
from glulam.compiler.loops.index import Affine
from glulam.compiler.loops.ir import IndexValue, LaneReduce, Tile


def build(ctx: Context, kind: str, axis: int, *, last: bool) -> Lowered:
    """The index of the element that wins by `kind` ("max" or "min"), the first or the last of equals; NaN beats all."""
    x = ctx.operand(0)
    if not x.type.size:
        return ctx.finished()
    merged = (math.prod(x.shape[:axis]), x.shape[axis], math.prod(x.shape[axis + 1 :]))
    source = replace(x, type=x.type.with_shape(merged))
    target = replace(ctx.output, type=ctx.output.type.with_shape((merged[0], merged[2])))
    return _Search(Context(ctx.name, ctx.target, [source], [target]), kind, last).build()


class _Search:
    """The best element so far and its index, in two registers."""

    def __init__(self, ctx: Context, kind: str, last: bool) -> None:
        self.ctx, self.b, self.kind, self.last = ctx, ctx.builder, kind, last
        self.x, self.y = ctx.input_view(0), ctx.output_view()
        self.dtype = ctx.operand(0).type.dtype
        self.lanes = ctx.target.vector_bytes // max(self.dtype.size, 4)

    def build(self) -> Lowered:
        outer, length, inner = self.ctx.operand(0).shape
        if inner == 1 and (length >= 2 * self.lanes or outer < self.lanes):
            with self.b.section(o=outer) as (o,):
                self.along(Affine.of(o), length)
            return self.ctx.finished()
        head, across = (1, outer) if inner == 1 else (outer, inner)
        for first, count, lanes in pieces(across, self.lanes):
            with self.b.section(o=head, w=count) as (o, w), self.b.vector("v", lanes) as v:
                column = w * lanes + v + first
                self.across(length, *((column, Affine.of(0)) if inner == 1 else (Affine.of(o), column)))
        return self.ctx.finished()

    def across(self, length: int, outer: Affine, inner: Affine) -> None:
        """Each lane searches a line of its own."""
        _, index = self.scan(length, Affine.of(0), 1, lambda i: self.x[(outer, i, inner)])
        self.b.store(self.y[(outer, inner)], index[0])

    def scan(self, count: int, start: Affine, step: int, load: Callable[[Affine], Expr]) -> tuple[Tile, Tile]:
        """The best of load(start + i * step) for i < count, and its index."""
        best, index = self.b.tile("best", 1, dtype=self.dtype), self.b.tile("index", 1, dtype=DType.I64)
        self.b.store(best[0], load(start))
        self.b.store(index[0], IndexValue(start))
        with self.b.serial("i", count - 1) as i:
            place = start + (i + 1) * step
            self.challenge(best, index, load(place), IndexValue(place))
        return best, index

    def challenge(self, best: Tile, index: Tile, value: Expr, place: Expr) -> None:
        """An element that comes later takes over if it wins."""
        taken = self.wins(value, best[0])
        winner = self.b.tile("winner", 1, dtype=DType.BOOL)
        self.b.store(winner[0], taken)
        self.b.store(best[0], ex.where(winner[0], value, best[0]))
        self.b.store(index[0], ex.where(winner[0], place, index[0]))

    def wins(self, value: Expr, best: Expr) -> Expr:
        strict = ("gt" if self.kind == "max" else "lt") if not self.last else ("ge" if self.kind == "max" else "le")
        better = ex.compare(strict, value, best)
        if not self.dtype.is_float:
            return better
        is_nan = ex.not_equal(value, value)
        return better | (is_nan if self.last else is_nan & ex.equal(best, best))

    def along(self, row: Affine, length: int) -> None:
        """Each lane searches every so many elements; then the lanes are compared, and the rest follows one by one."""
        b = self.b
        count, rest = divmod(length, self.lanes)
        if count < 2:
            self.across(length, row, Affine.of(0))
            return
        total, found = b.tile("total", 1, dtype=self.dtype), b.tile("found", 1, dtype=DType.I64)
        with b.vector("v", self.lanes) as v:
            best, index = self.scan(count, Affine.of(v), self.lanes, lambda i: self.x[(row, i, 0)])
            b.store(total[0], LaneReduce("maximum" if self.kind == "max" else "minimum", best[0]))
            # NaN in any lane makes the total NaN, and only lanes with NaN may then answer.
            same = ex.equal(best[0], total[0])
            if self.dtype.is_float:
                same = same | (ex.not_equal(best[0], best[0]) & ex.not_equal(total[0], total[0]))
            other = Const(-1 if self.last else length, DType.I64)
            b.store(found[0], LaneReduce("maximum" if self.last else "minimum", ex.where(same, index[0], other)))
        with b.serial("r", rest) as r:
            place = r + count * self.lanes
            self.challenge(total, found, self.x[(row, place, 0)], IndexValue(place))
        b.store(self.y[(row, 0)], found[0])
