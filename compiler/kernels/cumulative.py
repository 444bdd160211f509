"""Running sums and products along an axis of a plain tensor."""

from __future__ import annotations

import math

from glulam.compiler.kernels.context import Context, Lowered
from glulam.compiler.kernels.indexing import dense
from glulam.compiler.kernels.ranges import pieces
from glulam.compiler.loops import expr as ex
from glulam.compiler.loops.expr import Const
from glulam.compiler.loops.index import Affine, IndexLike

_TOGETHER = 4  # vectors of an iteration: lines of the cache that follow each other


def build(ctx: Context, op: str, axis: int, *, exclusive: bool, reverse: bool) -> Lowered:
    """Input 0 folded by `op` ("add" or "mul") along the axis; each lane has a line of its own if there are several."""
    if not ctx.output.type.size:
        return ctx.finished()
    shape = ctx.output.shape
    outer, extent, inner = math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :])
    x, y = dense(ctx, 0, (outer, extent, inner)), ctx.memory("output", 0, (outer, extent, inner))
    b = ctx.builder

    def lines(o: IndexLike, column: Affine | int, count: int = 1, apart: int = 0) -> None:
        """`count` neighbouring lines, or vectors of lines."""
        total = b.tile("total", count, dtype=y.dtype)
        element = b.tile("element", count, dtype=y.dtype)
        for t in range(count):
            b.store(total[t], Const(0 if op == "add" else 1, y.dtype))
        with b.serial("i", extent) as i:
            for t in range(count):
                at = (o, Affine.of(extent - 1) - i if reverse else i, Affine.of(column) + t * apart)
                b.store(element[t], x[at])
                if exclusive:
                    b.store(y[at], total[t])
                b.store(total[t], ex.binary(op, total[t], element[t]))
                if not exclusive:
                    b.store(y[at], total[t])

    lanes = ctx.target.vector_bytes // y.dtype.size
    full, rest = divmod(inner, lanes)
    if inner == 1:
        with b.section(o=outer) as (o,):
            lines(o, 0)
        return ctx.finished()
    for first, count, together in pieces(full, _TOGETHER):
        with b.section(o=outer, w=count) as (o, w), b.vector("v", lanes) as v:
            lines(o, (w * together + first) * lanes + v, together, lanes)
    if rest:
        with b.section(o=outer) as (o,), b.vector("v", rest) as v:
            lines(o, v + full * lanes)
    return ctx.finished()
