"""Determinants of square matrices, by elimination with row pivots; an iteration owns one matrix."""

from __future__ import annotations

import math

from glulam.compiler.graph.types import DType
from glulam.compiler.kernels.context import Context, Lowered, vectors
from glulam.compiler.kernels.indexing import dense
from glulam.compiler.loops import expr as ex
from glulam.compiler.loops.builder import Builder
from glulam.compiler.loops.expr import Const, Expr
from glulam.compiler.loops.index import Affine, Bounded, Var
from glulam.compiler.loops.ir import Buffer, IndexValue


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
    x, rows = dense(ctx, 0, (count, n, n)), b.scratch("rows", (n, n), dtype)
    lanes = ctx.target.vector_bytes // dtype.size
    with b.section(m=count) as (m,):
        with b.serial("r", n) as r:
            vectors(b, n, lanes, lambda j: b.store(rows[r, j], x[m, r, j]))
        product = b.tile("product", 1, dtype=dtype)
        b.store(product[0], Const(1.0, dtype))
        with b.serial("k", n) as k:
            largest = _largest_from(b, rows, k)
            _swap(b, rows, k, largest, lanes)
            pivot = b.tile("pivot", 1, dtype=dtype)
            b.store(pivot[0], rows[k, k])
            moved = ex.not_equal(largest, _number(k))
            b.store(product[0], product[0] * ex.where(moved, -pivot[0], pivot[0]))
            _eliminate(b, rows, k, pivot[0], lanes)
        b.store(y[m], product[0])
    return ctx.finished()


def _number(var: Var) -> Expr:
    return IndexValue(Affine.of(var))


def _largest_from(b: Builder, rows: Buffer, k: Var) -> Expr:
    """The row, number k or behind it, whose element in column k is the largest."""
    best, row = b.tile("best", 1, dtype=rows.dtype), b.tile("row", 1, dtype=DType.I64)
    b.store(best[0], Const(-1.0, rows.dtype))
    b.store(row[0], _number(k))
    with b.serial("i", k.extent) as i:
        size = ex.absolute(rows[i, k])
        taken = (_number(i) >= _number(k)) & (size > best[0])
        b.store(row[0], ex.where(taken, _number(i), row[0]))
        b.store(best[0], ex.where(taken, size, best[0]))
    return row[0]


def _swap(b: Builder, rows: Buffer, k: Var, other: Expr, lanes: int) -> None:
    """Row k and another one change places."""

    def swap(j: Affine) -> None:
        held, mine, theirs = b.tile("held", 2, dtype=rows.dtype), rows[k, j], rows[Bounded(other, k.extent), j]
        b.store(held[0], mine)
        b.store(held[1], theirs)
        b.store(mine, held[1])
        b.store(theirs, held[0])

    vectors(b, k.extent, lanes, swap)


def _eliminate(b: Builder, rows: Buffer, k: Var, pivot: Expr, lanes: int) -> None:
    """Subtract multiples of row k from those below it, whose elements in column k become zero."""
    with b.serial("e", k.extent) as e:
        factor = b.tile("factor", 1, dtype=rows.dtype)
        below = (_number(e) > _number(k)) & ex.not_equal(pivot, 0.0)
        b.store(factor[0], ex.where(below, rows[e, k] / pivot, 0.0))
        vectors(b, k.extent, lanes, lambda j: b.store(rows[e, j], rows[e, j] - factor[0] * rows[k, j]))
