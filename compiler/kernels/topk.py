"""The largest or smallest elements along an axis of a plain tensor, in order.

Elements become integers of the same order (keys). If the axis is the last one, the lanes run along a line. Where many
of few elements are wanted, those that come before each element are counted, which says where it goes. Else the keys are
kept in blocks with the largest of each beside them, and what is found is struck out. If the axis is another one, each
lane has a line of its own, and each pass over it finds the best key that comes after the one found before.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from glulam.compiler.graph.types import DType
from glulam.compiler.kernels.context import Context, Lowered, vectors
from glulam.compiler.kernels.indexing import dense
from glulam.compiler.kernels.ranges import pieces
from glulam.compiler.loops import expr as ex
from glulam.compiler.loops.expr import Bitcast, Cast, Const, Expr
from glulam.compiler.loops.index import Affine, Bounded, IndexLike, Var
from glulam.compiler.loops.ir import Buffer, IndexValue, LaneReduce, Tile

_WIDE = (DType.F64, DType.I64, DType.I32, DType.U64, DType.U32)
"""Types whose keys are I64; those of the others are I32. Of smaller integers and floats no key is the lowest one."""
_VECTORS = 8
"""Vectors of keys in a block."""
_COMPARISON, _PLACING, _FINDING = 2, 10, 150
"""Cycles, roughly: to compare a key with a vector of others, to put an element in its place, to find the next one."""
_AT_ONCE = 4
"""Vectors of keys that are compared with one at once."""


def build(ctx: Context, axis: int, k: int, *, largest: bool) -> Lowered:
    """Outputs: the k first elements of input 0 along the axis, and their indices; among equals the lower index first.

    NaN counts as larger than everything.
    """
    shape = ctx.operand(0).shape
    if not ctx.output.type.size:
        return ctx.finished()
    outer, extent, inner = math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :])
    search = _Search(ctx, (outer, extent, inner), k, largest)
    if inner == 1 and search.counts_all:
        search.counted(outer)
    elif inner == 1 and ctx.operand(0).type.dtype not in (DType.I64, DType.U64):
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
        self.key_type = DType.I64 if ctx.operand(0).type.dtype in _WIDE else DType.I32
        self.lanes = ctx.target.vector_bytes // self.key_type.size
        self.lowest = Const(-(1 << (8 * self.key_type.size - 1)), self.key_type)
        self.highest = Const((1 << (8 * self.key_type.size - 1)) - 1, self.key_type)

    def key(self, x: Expr) -> Expr:
        """An integer that is larger the earlier the element comes."""
        if x.dtype.is_float:
            bits = Bitcast(ex.where(ex.equal(x, x), x + 0.0, math.nan), self.key_type)  # -0 becomes 0
            key: Expr = ex.where(bits < 0, bits ^ self.highest, bits)
        else:
            key = x if x.dtype is self.key_type else Cast(x, self.key_type)
            if x.dtype is DType.U64:
                key = key ^ self.lowest
        return key if self.largest else key ^ Const(-1, self.key_type)

    def put(self, o: Affine, j: Affine, column: Affine, index: Expr) -> None:
        self.b.store(self.values[o, j, column], self.x[o, Bounded(index, self.extent), column])
        self.b.store(self.indices[o, j, column], index)

    # ---- the axis is the last one

    @property
    def counts_all(self) -> bool:
        """Whether counting is estimated to take less than finding one after the other."""
        counting = self.extent * (_COMPARISON * self.extent // self.lanes + _PLACING)
        return counting < _FINDING * self.k

    def counted(self, outer: int) -> None:
        """Puts each element where so many come before it."""
        b, zero, size = self.b, Affine.of(0), self.lanes * _AT_ONCE
        padded = -(-self.extent // self.lanes) * self.lanes
        keys, places = (b.scratch(name, (padded,), self.key_type) for name in ("keys", "places"))
        order = b.scratch("order", (self.extent,), DType.I64)
        with b.section(o=outer) as (o,):
            vectors(b, self.extent, self.lanes, lambda at: b.store(keys[at], self.key(self.x[o, at, zero])))
            vectors(b, padded - self.extent, self.lanes, lambda at: b.store(keys[at + self.extent], self.lowest))
            for first, count, length in pieces(padded, size):
                with b.serial("s", count) as s:
                    self.count_before(keys, places, s * size + first, length // self.lanes)
            with b.serial("i", self.extent) as i:
                place = places[i] if self.key_type is DType.I64 else Cast(places[i], DType.I64)
                b.store(order[Bounded(place, self.extent)], IndexValue(Affine.of(i)))
            with b.serial("j", self.k) as j:
                self.put(Affine.of(o), Affine.of(j), zero, order[j])

    def count_before(self, keys: Buffer, places: Buffer, first: Affine, count: int) -> None:
        """How many elements come before each of some vectors of them."""
        b = self.b
        with b.vector("v", self.lanes) as v:
            before = b.tile("before", count, dtype=self.key_type)
            with b.unrolled("u", count) as u:
                b.store(before[u], Const(0, self.key_type))
            with b.serial("j", self.extent) as j, b.unrolled("u", count) as u:
                at = first + u * self.lanes + v
                earlier = Cast(IndexValue(Affine.of(j)), self.key_type) < Cast(IndexValue(at), self.key_type)
                comes = (keys[j] > keys[at]) | (ex.equal(keys[j], keys[at]) & earlier)
                b.store(before[u], before[u] + ex.where(comes, Const(1, self.key_type), Const(0, self.key_type)))
            with b.unrolled("u", count) as u:
                b.store(places[first + u * self.lanes + v], before[u])

    def along(self, outer: int) -> None:
        b, lanes, zero = self.b, self.lanes, Affine.of(0)
        size = _VECTORS * lanes
        blocks = -(-self.extent // size)
        padded = -(-blocks // lanes) * lanes
        keys = b.scratch("keys", (blocks, size), self.key_type)
        best = b.scratch("best", (padded,), self.key_type)
        full = self.extent // size
        with b.section(o=outer) as (o,):
            with b.serial("f", full) as f:
                vectors(b, size, lanes, lambda at: b.store(keys[f, at], self.key(self.x[o, f * size + at, zero])))
            rest = self.extent - full * size
            vectors(b, rest, lanes, lambda at: b.store(keys[full, at], self.key(self.x[o, at + full * size, zero])))
            if rest:
                vectors(b, size - rest, lanes, lambda at: b.store(keys[full, at + rest], self.lowest))
            vectors(b, padded - blocks, lanes, lambda at: b.store(best[at + blocks], self.lowest))
            with b.serial("s", blocks) as s:
                self.measure(keys, best, s)
            with b.serial("j", self.k) as j:
                self.next_key(keys, best, Affine.of(o), Affine.of(j))

    def next_key(self, keys: Buffer, best: Buffer, o: Affine, j: Affine) -> None:
        """Finds the best key that is left, writes its element, and strikes it out."""
        b, (blocks, size), padded = self.b, keys.shape, best.shape[0]
        top = b.tile("top", 1, dtype=self.key_type)
        block, place = b.tile("block", 1, dtype=DType.I64), b.tile("place", 1, dtype=DType.I64)
        with b.vector("v", self.lanes) as v:
            b.store(top[0], LaneReduce("maximum", self.folded(padded, v, lambda at: best[at])))
        with b.vector("v", self.lanes) as v:
            b.store(block[0], self.first(top[0], padded, v, lambda at: best[at]))
        chosen = Bounded(block[0], blocks)
        with b.vector("v", self.lanes) as v:
            b.store(place[0], self.first(top[0], size, v, lambda at: keys[chosen, at]))
        self.put(o, j, Affine.of(0), block[0] * size + place[0])
        b.store(keys[chosen, Bounded(place[0], size)], self.lowest)
        self.measure(keys, best, chosen)

    def measure(self, keys: Buffer, best: Buffer, block: IndexLike) -> None:
        """Note the largest key of a block."""
        with self.b.vector("v", self.lanes) as v:
            largest = self.folded(keys.shape[1], v, lambda at: keys[block, at])
            self.b.store(best[block], LaneReduce("maximum", largest))

    def folded(self, count: int, v: Var, load: Callable[[Affine], Expr]) -> Expr:
        """The largest of every so many keys, inside a vector loop."""
        largest = self.b.tile("largest", 1, dtype=self.key_type)
        self.b.store(largest[0], load(Affine.of(v)))
        with self.b.serial("i", count // self.lanes - 1) as i:
            self.b.store(largest[0], ex.maximum(largest[0], load((i + 1) * self.lanes + v)))
        return largest[0]

    def first(self, top: Expr, count: int, v: Var, load: Callable[[Affine], Expr]) -> Expr:
        """The first index at which `top` stands, inside a vector loop."""
        found = self.b.tile("found", 1, dtype=DType.I64)
        self.b.store(found[0], Const(count, DType.I64))
        with self.b.serial("i", count // self.lanes) as i:
            at = i * self.lanes + v
            index = ex.where(ex.equal(load(at), top), IndexValue(at), count)
            self.b.store(found[0], ex.minimum(found[0], index))
        return LaneReduce("minimum", found[0])

    # ---- a line for each lane

    def across(self, outer: int, inner: int) -> None:
        b = self.b
        for start, count, lanes in pieces(inner, self.lanes):
            with b.section(o=outer, w=count) as (o, w), b.vector("v", lanes) as v:
                column = w * self.lanes + v + start
                last = self.register(self.highest, -1)
                with b.serial("j", self.k) as j:
                    best = self.register(self.lowest, self.extent)
                    with b.serial("i", self.extent) as i:
                        self.challenge(best, last, self.key(self.x[o, i, column]), IndexValue(Affine.of(i)))
                    b.store(last.key[0], best.key[0])
                    b.store(last.index[0], best.index[0])
                    self.put(Affine.of(o), Affine.of(j), column, last.index[0])

    def register(self, key: Const, index: int) -> _Best:
        best = _Best(self.b.tile("key", 1, dtype=self.key_type), self.b.tile("index", 1, dtype=DType.I64))
        self.b.store(best.key[0], key)
        self.b.store(best.index[0], Const(index, DType.I64))
        return best

    def challenge(self, best: _Best, last: _Best, key: Expr, index: Expr) -> None:
        """The element takes over if it comes after the last one found and before the best."""
        after = (key < last.key[0]) | (ex.equal(key, last.key[0]) & (index > last.index[0]))
        better = (key > best.key[0]) | (ex.equal(key, best.key[0]) & (index < best.index[0]))
        taken = self.b.tile("taken", 1, dtype=DType.BOOL)
        self.b.store(taken[0], after & better)
        self.b.store(best.key[0], ex.where(taken[0], key, best.key[0]))
        self.b.store(best.index[0], ex.where(taken[0], index, best.index[0]))
