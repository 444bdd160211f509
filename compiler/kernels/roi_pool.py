"""Maxima of regions: bins are found once for a region, then for each channel rows are pooled, and columns of those."""

from __future__ import annotations

import math

from glulam.compiler.graph.types import DType
from glulam.compiler.kernels.context import Context, Lowered
from glulam.compiler.kernels.indexing import dense
from glulam.compiler.kernels.nest import overlapping_vectors
from glulam.compiler.loops import expr as ex
from glulam.compiler.loops.builder import Builder
from glulam.compiler.loops.expr import Cast, Const, Expr
from glulam.compiler.loops.index import Affine, Bounded, Var
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
    down, across = (b.scratch(name, (2, bins), dtype) for name, bins in (("down", rows), ("across", columns)))
    line = b.scratch("line", (width,), dtype)
    lowest = Const(-math.inf, dtype)

    def number(index: Var) -> Expr:
        return Cast(IndexValue(Affine.of(index)), dtype)

    def within(bounds: Buffer, bin_: Affine, place: Var) -> Expr:
        return (bounds[0, bin_] <= number(place)) & (number(place) < bounds[1, bin_])

    with b.section(r=count) as (r,):
        _bins(b, boxes, Affine.of(r), 1, scale, height, down)
        _bins(b, boxes, Affine.of(r), 0, scale, width, across)
        chosen = b.tile("image", 1, dtype=DType.I64)
        b.store(chosen[0], Cast(ex.minimum(ex.maximum(boxes[r, 0], 0.0), float(images - 1)), DType.I64))
        image = Bounded(chosen[0], images)
        with b.serial("c", channels) as c, b.serial("i", rows) as i:

            def row(start: Affine, v: Var) -> None:
                best = b.tile("best", 1, dtype=dtype)
                b.store(best[0], lowest)
                with b.serial("h", height) as h:
                    larger = ex.maximum(best[0], x[image, c, h, start + v])
                    b.store(best[0], ex.where(within(down, Affine.of(i), h), larger, best[0]))
                b.store(line[start + v], best[0])

            def column(start: Affine, v: Var) -> None:
                best = b.tile("best", 1, dtype=dtype)
                b.store(best[0], lowest)
                with b.serial("w", width) as w:
                    larger = ex.maximum(best[0], line[w])
                    b.store(best[0], ex.where(within(across, start + v, w), larger, best[0]))
                full = (down[0, i] < down[1, i]) & (across[0, start + v] < across[1, start + v])
                b.store(y[r, c, i, start + v], ex.where(full, best[0], 0.0))

            overlapping_vectors(b, width, lanes, row)
            overlapping_vectors(b, columns, lanes, column)
    return ctx.finished()


def _bins(b: Builder, boxes: Buffer, r: Affine, axis: int, scale: float, extent: int, bounds: Buffer) -> None:
    """The first element of each bin along an axis, and the one behind its last."""
    dtype, (_, count) = bounds.dtype, bounds.shape
    start, size = b.tile("start", 1, dtype=dtype), b.tile("size", 1, dtype=dtype)
    b.store(start[0], _rounded(b, boxes[r, 1 + axis] * scale))
    end = _rounded(b, boxes[r, 3 + axis] * scale)
    b.store(size[0], ex.maximum(end - start[0] + 1.0, 1.0) / float(count))
    with b.serial("b", count) as bin_:
        place = Cast(IndexValue(Affine.of(bin_)), dtype)
        first = start[0] + ex.unary("floor", place * size[0])
        behind = start[0] + ex.unary("ceil", (place + 1.0) * size[0])
        for which, edge in enumerate((first, behind)):
            b.store(bounds[which, bin_], ex.minimum(ex.maximum(edge, 0.0), float(extent)))


def _rounded(b: Builder, x: Expr) -> Expr:
    """The nearest whole number, halves away from 0."""
    size, whole = b.tile("abs", 1, dtype=x.dtype), b.tile("whole", 1, dtype=x.dtype)
    b.store(size[0], ex.absolute(x))
    b.store(whole[0], ex.unary("floor", size[0]))
    b.store(whole[0], ex.where(size[0] - whole[0] >= 0.5, whole[0] + 1.0, whole[0]))
    b.store(whole[0], ex.where(x < 0.0, -whole[0], whole[0]))
    return whole[0]
