"""Determinants of square matrices, by elimination with row pivots; an iteration owns one matrix."""

from __future__ import annotations

import math

from glulam.compiler.graph.types import DType
from glulam.compiler.kernels.context import Context, Lowered, vectors
from glulam.compiler.kernels.indexing import dense
from glulam.compiler.loops import expr as ex
from glulam.compiler.loops.expr import Const
from glulam.compiler.loops.index import Affine, Bounded
from glulam.compiler.loops.ir import IndexValue


def build(ctx: Context) -> Lowered:
    """Input 0 [..., n, n] to output 0 [...]."""
    *batch, n, _ = ctx.operand(0).shape
    count = math.prod(batch)
    y = ctx.memory("output", 0, (count,))
    b, dtype = ctx.builder, y.dtype
    if not n:
        with b.section(m=count) as (m,):
            b.store(y[m], Const(1.0, dtype))
        return ctx.finished()
    x = dense(ctx, 0, (count, n, n))
    rows, lanes = b.scratch("rows", (n, n), dtype), ctx.target.vector_bytes // dtype.size
    with b.section(m=count) as (m,):
        with b.serial("r", n) as r:
            vectors(b, n, lanes, lambda j: b.store(rows[r, j], x[m, r, j]))
        product = b.tile("product", 1, dtype=dtype)
        b.store(product[0], Const(1.0, dtype))
        with b.serial("k", n) as k:
            best, row = b.tile("best", 1, dtype=dtype), b.tile("row", 1, dtype=DType.I64)
            b.store(best[0], Const(-1.0, dtype))
            b.store(row[0], IndexValue(Affine.of(k)))
            with b.serial("i", n) as i:
                size = ex.absolute(rows[i, k])
                taken = (IndexValue(Affine.of(i)) >= IndexValue(Affine.of(k))) & (size > best[0])
                b.store(row[0], ex.where(taken, IndexValue(Affine.of(i)), row[0]))
                b.store(best[0], ex.where(taken, size, best[0]))

            def swap(j: Affine) -> None:
                held = b.tile("held", 2, dtype=dtype)
                other = rows[Bounded(row[0], n), j]
                b.store(held[0], rows[k, j])
                b.store(held[1], other)
                b.store(rows[k, j], held[1])
                b.store(other, held[0])

            vectors(b, n, lanes, swap)
            pivot = b.tile("pivot", 1, dtype=dtype)
            b.store(pivot[0], rows[k, k])
            moved = ex.not_equal(row[0], IndexValue(Affine.of(k)))
            b.store(product[0], product[0] * ex.where(moved, -pivot[0], pivot[0]))
            with b.serial("e", n) as e:
                factor = b.tile("factor", 1, dtype=dtype)
                below = (IndexValue(Affine.of(e)) > IndexValue(Affine.of(k))) & ex.not_equal(pivot[0], 0.0)
                b.store(factor[0], ex.where(below, rows[e, k] / pivot[0], 0.0))
                vectors(b, n, lanes, lambda j: b.store(rows[e, j], rows[e, j] - factor[0] * rows[k, j]))
        b.store(y[m], product[0])
    return ctx.finished()
