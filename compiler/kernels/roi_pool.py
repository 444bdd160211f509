"""Maxima of regions: bins are found once for a region, then for each channel rows are pooled, and columns of those."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from glulam.compiler.graph.types import DType
from glulam.compiler.kernels.context import Context, Lowered
from glulam.compiler.kernels.indexing import dense
from glulam.compiler.kernels.nest import overlapping_vectors
from glulam.compiler.loops import expr as ex
from glulam.compiler.loops.builder import Builder
from glulam.compiler.loops.expr import Cast, Const, Expr
from glulam.compiler.loops.index import Affine, Bounded, IndexLike, Var
from glulam.compiler.loops.ir import Buffer, IndexValue


def build(ctx: Context, scale: float) -> Lowered:
    """Inputs x[N, C, H, W] and boxes[R, 5] (image, x1, y1, x2, y2); y[R, C, *bins]."""
    if not ctx.output.type.size:
        return ctx.finished()
    b = ctx.builder
    images, channels, height, width = ctx.operand(0).shape
    count, _, rows, columns = ctx.output.shape
    x, boxes = dense(ctx, 0, (images, channels, height, width)), dense(ctx, 1, (count, 5))
    y = ctx.memory("output", 0, (count, channels, rows, columns))
    dtype = y.dtype
    lanes = ctx.target.vector_bytes // dtype.size
    down, across = (_Bins(b, b.scratch(name, (2, bins), dtype)) for name, bins in (("down", rows), ("across", columns)))
    line = b.scratch("line", (width,), dtype)
    with b.section(r=count) as (r,):
        down.find(boxes[r, 2] * scale, boxes[r, 4] * scale, height)
        across.find(boxes[r, 1] * scale, boxes[r, 3] * scale, width)
        chosen = b.tile("image", 1, dtype=DType.I64)
        b.store(chosen[0], Cast(ex.minimum(ex.maximum(boxes[r, 0], 0.0), float(images - 1)), DType.I64))
        image = Bounded(chosen[0], images)
        with b.serial("c", channels) as c, b.serial("i", rows) as i:

            def row(start: Affine, v: Var) -> None:
                b.store(line[start + v], down.largest(i, "h", height, lambda h: x[image, c, h, start + v]))

            def column(start: Affine, v: Var) -> None:
                found = across.largest(start + v, "w", width, lambda w: line[w])
                full = down.holds_any(i) & across.holds_any(start + v)
                b.store(y[r, c, i, start + v], ex.where(full, found, 0.0))

            overlapping_vectors(b, width, lanes, row)
            overlapping_vectors(b, columns, lanes, column)
    return ctx.finished()


@dataclass(frozen=True)
class _Bins:
    """Parts of a box along an axis: in `bounds` the first element of each, and the one behind its last."""

    b: Builder
    bounds: Buffer

    def find(self, first: Expr, last: Expr, extent: int) -> None:
        """Cut the elements from the first to the last, of which those beyond the extent belong to no bin."""
        b, dtype, (_, count) = self.b, self.bounds.dtype, self.bounds.shape
        start, size = b.tile("start", 1, dtype=dtype), b.tile("size", 1, dtype=dtype)
        b.store(start[0], _rounded(b, first))
        b.store(size[0], ex.maximum(_rounded(b, last) - start[0] + 1.0, 1.0) / float(count))
        with b.serial("b", count) as bin_:
            place = _number(bin_, dtype)
            begin = start[0] + ex.unary("floor", place * size[0])
            end = start[0] + ex.unary("ceil", (place + 1.0) * size[0])
            for which, edge in enumerate((begin, end)):
                b.store(self.bounds[which, bin_], ex.minimum(ex.maximum(edge, 0.0), float(extent)))

    def holds_any(self, bin_: IndexLike) -> Expr:
        return self.bounds[0, bin_] < self.bounds[1, bin_]

    def holds(self, bin_: IndexLike, place: Var) -> Expr:
        dtype = self.bounds.dtype
        return (self.bounds[0, bin_] <= _number(place, dtype)) & (_number(place, dtype) < self.bounds[1, bin_])

    def largest(self, bin_: IndexLike, name: str, extent: int, value: Callable[[Var], Expr]) -> Expr:
        """Of the values at the bin's places, found in a loop over all places of the axis; -inf if there is none."""
        b, dtype = self.b, self.bounds.dtype
        best = b.tile("best", 1, dtype=dtype)
        b.store(best[0], Const(-math.inf, dtype))
        with b.serial(name, extent) as place:
            larger = ex.maximum(best[0], value(place))
            b.store(best[0], ex.where(self.holds(bin_, place), larger, best[0]))
        return best[0]


def _number(var: Var, dtype: DType) -> Expr:
    return Cast(IndexValue(Affine.of(var)), dtype)


def _rounded(b: Builder, x: Expr) -> Expr:
    """The nearest whole number, halves away from 0."""
    size, whole = b.tile("abs", 1, dtype=x.dtype), b.tile("whole", 1, dtype=x.dtype)
    b.store(size[0], ex.absolute(x))
    b.store(whole[0], ex.unary("floor", size[0]))
    b.store(whole[0], ex.where(size[0] - whole[0] >= 0.5, whole[0] + 1.0, whole[0]))
    b.store(whole[0], ex.where(x < 0.0, -whole[0], whole[0]))
    return whole[0]
