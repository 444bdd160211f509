"""Running sums and products along an axis of a plain tensor."""

from __future__ import annotations

import math

from glulam.compiler.kernels.context import Context, Lowered
from glulam.compiler.kernels.indexing import dense
from glulam.compiler.loops import expr as ex
from glulam.compiler.loops.expr import Const
from glulam.compiler.loops.ir import Affine, IndexLike


def build(ctx: Context, op: str, axis: int, *, exclusive: bool, reverse: bool) -> Lowered:
    """Input 0 folded by `op` ("add" or "mul") along the axis; each lane has a line of its own if there are several."""
    if not ctx.output.type.size:
        return ctx.finished()
    shape = ctx.output.shape
    outer, extent, inner = math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :])
    x, y = dense(ctx, 0, (outer, extent, inner)), ctx.memory("output", 0, (outer, extent, inner))
    b = ctx.builder

    def line(o: IndexLike, column: IndexLike) -> None:
        total = b.tile("total", 1, dtype=y.dtype)
        b.store(total[0], Const(0 if op == "add" else 1, y.dtype))
        with b.serial("i", extent) as i:
            at = (o, Affine.of(extent - 1) - i if reverse else i, column)
            if exclusive:
                element = b.tile("element", 1, dtype=y.dtype)
                b.store(element[0], x[at])
                b.store(y[at], total[0])
                b.store(total[0], ex.binary(op, total[0], element[0]))
            else:
                b.store(total[0], ex.binary(op, total[0], x[at]))
                b.store(y[at], total[0])

    lanes = ctx.target.vector_bytes // y.dtype.size
    full, rest = divmod(inner, lanes)
    if inner == 1:
        with b.section(o=outer) as (o,):
            line(o, 0)
        return ctx.finished()
    for first, count, width in ((0, full, lanes), (full * lanes, min(rest, 1), rest)):
        if count:
            with b.section(o=outer, w=count) as (o, w), b.vector("v", width) as v:
                line(o, w * lanes + v + first)
    return ctx.finished()
