"""Matrix products as dot products: for operands whose depth is the contiguous axis on both sides."""

from __future__ import annotations

import math

from glulam.compiler.kernels.context import Context, Lowered, Point
from glulam.compiler.kernels.gemm_operands import batch_point, multiply_add, source, zero
from glulam.compiler.kernels.ranges import Pieces, pieces
from glulam.compiler.loops.expr import Expr
from glulam.compiler.loops.index import Affine, IndexLike, Var
from glulam.compiler.loops.ir import ByteDot, LaneReduce, Tile

_ROWS, _COLUMNS = 4, 4  # dot products at once: each vector loaded serves four of them
_ROWS_OF_VECTOR = 8  # with a single column


def build(ctx: Context, transposed: bool, bias: int | None, of_bytes: bool = False) -> Lowered:
    """Left [*, M, K] times right [N, K] (`transposed`) or [*, K, 1], plus input `bias` [N].

    With `of_bytes` elements are words of four bytes, all of which are multiplied.
    """
    return _Dots(ctx, transposed, bias, of_bytes).build()


class _Dots:
    def __init__(self, ctx: Context, transposed: bool, bias: int | None, of_bytes: bool) -> None:
        self.ctx, self.b = ctx, ctx.builder
        self.transposed, self.combine = transposed, ByteDot if of_bytes else multiply_add
        self.dtype = ctx.operand(0).type.dtype  # the epilogue may give another one
        self.left, self.right = source(ctx, 0), source(ctx, 1)
        self.bias = None if bias is None else source(ctx, bias)
        self.depth = ctx.operand(0).shape[-1]
        self.width = ctx.target.vector_bytes // self.dtype.size

    def build(self) -> Lowered:
        ctx = self.ctx
        *batch, rows, columns = ctx.output.shape
        ctx.output_view()
        if math.prod(ctx.output.shape):
            extents = {f"d{i}": extent for i, extent in enumerate(batch)}
            for first_row, row_count, height in pieces(rows, _ROWS if columns > 1 else _ROWS_OF_VECTOR):
                for first_column, column_count, width in pieces(columns, _COLUMNS):
                    with self.b.section(**extents, r=row_count, c=column_count) as (*outer, r, c):
                        self.tile(outer, r * height + first_row, c * width + first_column, height, width)
        return ctx.finished()

    def tile(self, batch: list[Var], row: Affine, column: Affine, height: int, width: int) -> None:
        b = self.b
        total = b.tile("total", height, width, dtype=self.dtype)
        with b.unrolled("r", height) as r, b.unrolled("c", width) as c:
            b.store(total[r, c], zero(self.dtype) if self.bias is None else self.bias[(column + c,)])
        for part in pieces(self.depth, self.width):
            self.lanes(batch, (row, column), total, part)
        with b.unrolled("r", height) as r, b.unrolled("c", width) as c:
            point: Point = (*batch, row + r, column + c)
            self.ctx.write(point, self.ctx.finish(total[r, c], point))

    def lanes(self, batch: list[Var], at: tuple[Affine, Affine], total: Tile, part: Pieces) -> None:
        """Add the products of a part of the depth: from its first element, vectors of some lanes."""
        b, (row, column), (first, count, lanes) = self.b, at, part
        height, width = total.shape
        with b.vector("v", lanes) as v:
            acc = b.tile("acc", height, width, dtype=self.dtype)
            with b.unrolled("r", height) as r, b.unrolled("c", width) as c:
                b.store(acc[r, c], zero(self.dtype))
            with b.serial("k", count) as k, b.unrolled("r", height) as r, b.unrolled("c", width) as c:
                depth = k * lanes + v + first
                x = self.left[batch_point(self.ctx, 0, batch, row + r, depth)]
                b.store(acc[r, c], self.combine(x, self.weight(batch, depth, column + c), acc[r, c]))
            with b.unrolled("r", height) as r, b.unrolled("c", width) as c:
                b.store(total[r, c], total[r, c] + LaneReduce("add", acc[r, c]))

    def weight(self, batch: list[Var], depth: IndexLike, column: IndexLike) -> Expr:
        if self.transposed:
            return self.right[(column, depth)]
        return self.right[batch_point(self.ctx, 1, batch, depth, column)]
