"""The largest or smallest elements along an axis of a plain tensor, in order.

Elements become integers of the same order (keys); then each pass over a line finds the best key that comes after the
one found before. The lanes run along a line, or each lane has a line of its own where the axis is not the last one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from glulam.compiler.graph.types import DType
from glulam.compiler.kernels.context import Context, Lowered
from glulam.compiler.kernels.indexing import dense
from glulam.compiler.loops import expr as ex
from glulam.compiler.loops.expr import Bitcast, Cast, Const, Expr
from glulam.compiler.loops.ir import Affine, Bounded, Buffer, IndexValue, LaneReduce, Tile

_KEYS = {DType.F32: DType.I32, DType.F64: DType.I64, DType.I64: DType.I64}
"""Types whose keys are not I32."""


def build(ctx: Context, axis: int, k: int, *, largest: bool) -> Lowered:
    """Outputs: the k first elements of input 0 along the axis, and their indices; among equals the lower index first.

    NaN counts as larger than everything.
    """
    shape = ctx.operand(0).shape
    if not ctx.output.type.size:
        return ctx.finished()
    outer, extent, inner = math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :])
    search = _Search(ctx, (outer, extent, inner), k, largest)
    if inner == 1:
        search.along(outer)
    else:
        search.across(outer, inner)
    return ctx.finished()


@dataclass(frozen=True)
class _Best:
    """The best key so far and its index."""

    key: Tile
    index: Tile


class _Search:
    def __init__(self, ctx: Context, shape: tuple[int, int, int], k: int, largest: bool) -> None:
        outer, extent, inner = shape
        self.ctx, self.b, self.extent, self.k, self.largest = ctx, ctx.builder, extent, k, largest
        self.x = dense(ctx, 0, shape)
        self.values = ctx.memory("output", 0, (outer, k, inner))
        self.indices = ctx.memory("output", 1, (outer, k, inner))
        self.key_type = _KEYS.get(ctx.operand(0).type.dtype, DType.I32)
        self.lanes = ctx.target.vector_bytes // self.key_type.size

    def key(self, x: Expr) -> Expr:
        """An integer that is larger the earlier the element comes."""
        if x.dtype.is_float:
            bits = Bitcast(ex.where(ex.equal(x, x), x + 0.0, math.nan), self.key_type)  # -0 becomes 0
            magnitude = Const((1 << (8 * self.key_type.size - 1)) - 1, self.key_type)
            key: Expr = ex.where(bits < 0, bits ^ magnitude, bits)
        else:
            key = x if x.dtype is self.key_type else Cast(x, self.key_type)
        return key if self.largest else key ^ Const(-1, self.key_type)

    @property
    def lowest(self) -> Const:
        return Const(-(1 << (8 * self.key_type.size - 1)), self.key_type)

    def found(self) -> _Best:
        """Registers for what was found last, before all elements at first."""
        best = _Best(self.b.tile("last", 1, dtype=self.key_type), self.b.tile("place", 1, dtype=DType.I64))
        self.b.store(best.key[0], Const((1 << (8 * self.key_type.size - 1)) - 1, self.key_type))
        self.b.store(best.index[0], Const(-1, DType.I64))
        return best

    def nothing(self) -> _Best:
        best = _Best(self.b.tile("key", 1, dtype=self.key_type), self.b.tile("index", 1, dtype=DType.I64))
        self.b.store(best.key[0], self.lowest)
        self.b.store(best.index[0], Const(self.extent, DType.I64))
        return best

    def challenge(self, best: _Best, last: _Best, key: Expr, index: Expr) -> None:
        """The element takes over if it comes after the last one found and before the best."""
        open_ = (key < last.key[0]) | (ex.equal(key, last.key[0]) & (index > last.index[0]))
        better = (key > best.key[0]) | (ex.equal(key, best.key[0]) & (index < best.index[0]))
        taken = self.b.tile("taken", 1, dtype=DType.BOOL)
        self.b.store(taken[0], open_ & better)
        self.b.store(best.key[0], ex.where(taken[0], key, best.key[0]))
        self.b.store(best.index[0], ex.where(taken[0], index, best.index[0]))

    def put(self, o: Affine, j: Affine, column: Affine, index: Expr) -> None:
        self.b.store(self.values[o, j, column], self.x[o, Bounded(index, self.extent), column])
        self.b.store(self.indices[o, j, column], index)

    # ---- the axis is the last one

    def along(self, outer: int) -> None:
        b, zero = self.b, Affine.of(0)
        keys = b.scratch("keys", (self.extent,), self.key_type)
        with b.section(o=outer) as (o,):
            self.vectors(lambda at: b.store(keys[at], self.key(self.x[o, at, zero])))
            last = self.found()
            with b.serial("j", self.k) as j:
                best = self.nothing()
                self.merge(best, last, keys)
                b.store(last.key[0], best.key[0])
                b.store(last.index[0], best.index[0])
                self.put(Affine.of(o), Affine.of(j), zero, last.index[0])

    def vectors(self, body: Callable[[Affine], None]) -> None:
        full, rest = divmod(self.extent, self.lanes)
        if full:
            with self.b.serial("i", full) as i, self.b.vector("v", self.lanes) as v:
                body(i * self.lanes + v)
        if rest:
            with self.b.vector("v", rest) as v:
                body(v + full * self.lanes)

    def merge(self, total: _Best, last: _Best, keys: Buffer) -> None:
        """The best of the line: each lane's best, then the lanes' best."""
        b = self.b
        full, rest = divmod(self.extent, self.lanes)
        for first, count, lanes in ((0, full, self.lanes), (full * self.lanes, min(rest, 1), rest)):
            if not count:
                continue
            with b.vector("v", lanes) as v:
                best = self.nothing()
                with b.serial("i", count) as i:
                    at = i * lanes + v + first
                    self.challenge(best, last, keys[at], IndexValue(at))
                key = b.tile("top", 1, dtype=self.key_type)
                b.store(key[0], best.key[0])
                one = b.tile("one", 1, dtype=DType.I64)
                b.store(one[0], best.index[0])
                self.fold(total, key, one)

    def fold(self, total: _Best, key: Tile, index: Tile) -> None:
        """Into the scalar registers, inside the vector loop."""
        top = LaneReduce("maximum", key[0])
        place = LaneReduce("minimum", ex.where(ex.equal(key[0], top), index[0], self.extent))
        better = (top > total.key[0]) | (ex.equal(top, total.key[0]) & (place < total.index[0]))
        self.b.store(total.index[0], ex.where(better, place, total.index[0]))
        self.b.store(total.key[0], ex.maximum(total.key[0], top))

    # ---- a line for each lane

    def across(self, outer: int, inner: int) -> None:
        b = self.b
        full, rest = divmod(inner, self.lanes)
        for first, count, lanes in ((0, full, self.lanes), (full * self.lanes, min(rest, 1), rest)):
            if not count:
                continue
            with b.section(o=outer, w=count) as (o, w), b.vector("v", lanes) as v:
                column = w * self.lanes + v + first
                last = self.found()
                with b.serial("j", self.k) as j:
                    best = self.nothing()
                    with b.serial("i", self.extent) as i:
                        self.challenge(best, last, self.key(self.x[o, i, column]), IndexValue(Affine.of(i)))
                    b.store(last.key[0], best.key[0])
                    b.store(last.index[0], best.index[0])
                    self.put(Affine.of(o), Affine.of(j), column, last.index[0])
