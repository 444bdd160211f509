"""Matrix products: a register tile of rows x column blocks over the whole depth.

`linear` has weights [N, K], `matmul` numpy's semantics. A right operand known at compile time is packed into groups of
column blocks in the order the reduction reads them; any other is read where it lies. The sum of an element has the same
order whatever the number of rows, so a row's bits do not depend on the batch around it; and the same order in every
column, so equal columns give equal bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from glulam.compiler.graph.types import Array, DType
from glulam.compiler.kernels import gemm_dots
from glulam.compiler.kernels.context import Context, Lowered, Point, View
from glulam.compiler.kernels.fixed_point import Digits, FixedPoint
from glulam.compiler.kernels.gemm_operands import (
    batch_point,
    merged_rows,
    multiply_add,
    source,
    with_columns,
    with_rows,
    without_batch,
    zero,
)
from glulam.compiler.kernels.packing import Packing
from glulam.compiler.kernels.partial_sums import PartialSums, parts
from glulam.compiler.kernels.tiling import (
    LINE,
    TOGETHER,
    Run,
    Tiling,
    choose_tiling,
    most_rows,
    pieces,
    runs,
    unroll_factor,
)
from glulam.compiler.loops.expr import Expr
from glulam.compiler.loops.index import Affine, IndexLike, Var
from glulam.compiler.loops.ir import Buffer, Partner, Tile
from glulam.compiler.targets import Target

_ROW_BLOCKS = 8  # column blocks of a tile of one row: as many sums as hide the latency of an addition
_FEW_BLOCKS = 2  # the fewest, where there are more threads than tiles; memory is what they wait for then
_NARROW_SPLIT = 4  # partial sums of each element where all columns together fill no block, for the same reason
_SHALLOW, _SHALLOW_ROWS = 8, 2  # sums up to that length, and rows of a tile for them
_UNROLL = 4  # steps of the depth in one round of the loop
_ROUNDS_AHEAD = 8  # weights that are read once are asked for
_LOOK_AHEAD = 2  # passes over the weights of a group in which those of the next one can be fetched
_ENOUGH = 16  # iterations of a parallel space that need no finer split


def linear(ctx: Context, tiling: Tiling | None = None, digits: Digits | None = None) -> Lowered:
    """The kernel of x[..., K] @ w[N, K].T + bias?[N], in tiles of rows x blocks of columns if they are given.

    Constant weights may be kept in fewer `digits`, see `fixed_point`.
    """
    bias = 2 if ctx.has(2) else None
    flat = with_rows(ctx)
    flat = merged_rows(flat) or flat
    weights = flat.data(1)
    if weights is None or len(weights) == 1:
        return gemm_dots.build(flat, transposed=True, bias=bias)
    return _Columns(flat, weights.T, bias, tiling, digits).build()


def row_limit(target: Target, depth: int, dtype: DType) -> int:
    """Rows of a left operand of so many columns that a tile should not exceed, or they drive each other out.

    Short sums are mostly stores, which are fastest along a row.
    """
    most = most_rows(target, depth * dtype.size)
    return min(most, _SHALLOW_ROWS) if depth <= _SHALLOW else most


def matmul(ctx: Context) -> Lowered:
    """The kernel of numpy's a @ b: batch axes broadcast, a vector loses its axis."""
    flat = with_rows(with_columns(ctx))
    if math.prod(flat.operand(1).shape[:-2]) == 1 and flat.operand(1).type.rank <= flat.operand(0).type.rank:
        flat = without_batch(flat)
        flat = merged_rows(flat) or flat
    if flat.operand(1).shape[-1] == 1:
        return gemm_dots.build(flat, transposed=False, bias=None)
    weights = flat.data(1)
    return _Columns(flat, weights if weights is not None and weights.ndim == 2 else None, None).build()


@dataclass(frozen=True)
class _Chunk:
    """Neighbouring columns from `first`: `count` groups of `blocks` blocks of `lanes`, in tiles of `rows` rows."""

    first: int
    count: int
    blocks: int
    lanes: int
    rows: int
    split: int


class _Panel(NamedTuple):
    """Columns with the right operand, if it is packed, and the bias, if it is known, for them."""

    chunk: _Chunk
    weights: Buffer | FixedPoint | None
    bias: Buffer | None


class _Rows(NamedTuple):
    """Tiles of rows that go through all groups of columns before others do, and `rest` more rows behind them."""

    tiles: Run
    rest: int


@dataclass(frozen=True)
class _Place:
    """Where a register tile lies: batch indices, group of column blocks, first row, number of rows.

    `turn` is which of the `passes` over the group's weights it is.
    """

    batch: Sequence[Var]
    group: Var
    row: Affine
    rows: int
    turn: Affine
    passes: int


@dataclass(frozen=True)
class _LookAhead:
    """`fetch(n)` is called in the n-th of the times that `every` rounds over the depth make."""

    every: int
    fetch: Callable[[Affine], None]


class _Columns:
    """Vectors along the columns; `packed` is the right operand [K, N] if it is known."""

    def __init__(
        self, ctx: Context, packed: Array | None, bias: int | None, tiling: Tiling | None = None,
        digits: Digits | None = None,
    ) -> None:  # fmt: skip
        self.ctx, self.b = ctx, ctx.builder
        self.left = source(ctx, 0)
        self.packed, self.tiling = packed, tiling
        self.right = None if packed is not None else source(ctx, 1)
        self.bias = bias
        self.dtype = ctx.operand(0).type.dtype  # the epilogue may give another one
        keeps_all = packed is None or packed.size == 0 or self.dtype is not DType.F32
        self.digits = None if keeps_all else digits
        *self.batch, self.rows, self.columns = ctx.output.shape
        self.depth = ctx.operand(0).shape[-1]
        self.sums: dict[tuple[int, ...], Buffer] = {}

    def build(self) -> Lowered:
        self.ctx.output_view()
        if self.ctx.output.type.size:
            for chunk in self.chunks():
                panel = _Panel(chunk, self.weights(chunk), self.bias_of(chunk))
                for run in self.row_runs(chunk):
                    self.sections(panel, run)
        return self.ctx.finished()

    def chunks(self) -> list[_Chunk]:
        width = self.ctx.target.vector_bytes // self.dtype.size
        full, rest = divmod(self.columns, width)
        chunks = []
        if full:
            rows, blocks = self.tile_shape(full)
            for first, count, per_group in pieces(full, blocks):
                chunks.append(_Chunk(first * width, count, per_group, width, rows, 1))
        if rest:
            split = 1 if full or self.digits is not None else _NARROW_SPLIT
            rows = min(self.rows, self.ctx.target.vector_registers // (split + 1))
            chunks.append(_Chunk(full * width, 1, 1, rest, rows, split))
        return chunks

    def tile_shape(self, blocks: int) -> tuple[int, int]:
        if self.rows == 1:
            return 1, min(blocks, _ROW_BLOCKS, max(_FEW_BLOCKS, -(-blocks // self.ctx.target.threads)))
        limit = row_limit(self.ctx.target, self.depth, self.dtype)
        tiling = self.tiling or choose_tiling(self.ctx.target, self.rows, blocks, self.depth, limit=limit)
        return tiling.pixels, tiling.blocks

    def row_runs(self, chunk: _Chunk) -> list[_Rows]:
        """All rows, or each half of them where two threads had better take one each."""
        full, rest = divmod(self.rows, chunk.rows)
        weights = self.packed.nbytes if self.packed is not None else self.ctx.operand(1).type.nbytes
        halved = full > 1 and math.prod(self.batch) == 1 and self.ctx.run(2, weights) == 1
        length = -(-full // 2) if halved else max(1, full)
        found = runs(full, length, together=True) or [Run(0, 1, 0)]
        if rest and found[-1].times > 1 and self.inside(chunk, length):  # only the second one has the rest
            found = [Run(0, 1, length, Partner.FIRST), Run(length, 1, length, Partner.SECOND)]
        return [*(_Rows(run, 0) for run in found[:-1]), _Rows(found[-1], rest)]

    def inside(self, chunk: _Chunk, tiles: int) -> bool:
        """Whether an iteration has all tiles of a run, so that its weights stay cached: not if too few are left."""
        return tiles <= 1 or math.prod(self.batch) * chunk.count >= _ENOUGH

    def sections(self, panel: _Panel, rows: _Rows) -> None:
        """A run of rows of a chunk."""
        chunk, ((first, times, length, partner), rest) = panel.chunk, rows
        batch = {f"d{i}": extent for i, extent in enumerate(self.batch)}
        passes = length + (rest > 0)

        def tile(outer: Sequence[Var], g: Var, number: Affine, turn: Affine, rows: int) -> None:
            self.tile(panel, _Place(outer, g, number * chunk.rows, rows, turn, passes))

        if self.inside(chunk, length):
            with self.b.of_partner(partner), self.b.section(**batch, h=times, g=chunk.count) as (*outer, h, g):
                if length:
                    with self.b.serial("s", length) as s:
                        tile(outer, g, h * length + s + first, Affine.of(s), chunk.rows)
                if rest:
                    tile(outer, g, Affine.of(first + length), Affine.of(length), rest)
            return
        with self.b.of_partner(partner), self.b.section(**batch, h=times, g=chunk.count, s=length) as (*outer, h, g, s):
            tile(outer, g, h * length + s + first, Affine.of(s), chunk.rows)
        if rest:
            with self.b.of_partner(partner and Partner.SECOND), self.b.section(**batch, g=chunk.count) as (*outer, g):
                tile(outer, g, Affine.of(first + times * length), Affine.of(length), rest)

    def weights(self, chunk: _Chunk) -> Buffer | FixedPoint | None:
        """[groups, K, blocks, lanes] of the chunk's columns."""
        if self.packed is None:
            return None
        width = chunk.blocks * chunk.lanes
        part = self.packed[:, chunk.first : chunk.first + chunk.count * width]
        packing = Packing.copy(part.reshape(self.depth, chunk.count, chunk.blocks, chunk.lanes).transpose(1, 0, 2, 3))
        if self.digits is not None:
            # Hardware follows several streams at once, code that asks ahead one: on a Zen 4 layers of 4096 outputs take
            # 0.62 to 0.97 of the time with a stream for each block; of float32 weights, on one thread, more.
            apart = not (self.ctx.target.l3_is_slow or self.ctx.target.asks_ahead)
            return FixedPoint.of(self.ctx, packing, self.part_starts, "w", self.digits, apart)
        return self.ctx.constant(packing, "w")

    def bias_of(self, chunk: _Chunk) -> Buffer | None:
        data = None if self.bias is None else self.ctx.data(self.bias)
        if data is None:
            return None
        width = chunk.count * chunk.blocks * chunk.lanes
        part = data[chunk.first : chunk.first + width]
        return self.ctx.constant(part.reshape(chunk.count, chunk.blocks, chunk.lanes), "b")

    def tile(self, panel: _Panel, place: _Place) -> None:
        chunk, weights, bias = panel
        b, rows, blocks, split = self.b, place.rows, chunk.blocks, chunk.split

        def column(j: Var, v: Var) -> Affine:
            return (place.group * blocks + j) * chunk.lanes + v + chunk.first

        with b.vector("v", chunk.lanes) as v:
            acc = b.tile("acc", split, rows, blocks, dtype=self.dtype)
            kept = self.partial_sums(acc, v)
            if kept is not None:
                kept.start(lambda r, j: self.start(bias, (place.group, j, v), column(j, v)))
            else:
                with b.unrolled("r", rows) as r, b.unrolled("j", blocks) as j:
                    b.store(acc[0, r, j], self.start(bias, (place.group, j, v), column(j, v)))
                    for u in range(1, split):
                        b.store(acc[u, r, j], zero(self.dtype))

            def step(k: Affine, u: int | Affine) -> None:
                with b.unrolled("r", rows) as r, b.unrolled("j", blocks) as j:
                    x = self.element(self.left, 0, place.batch, place.row + r, k)
                    if isinstance(weights, FixedPoint):
                        x = weights.scaled(x)
                    if weights is not None:
                        w: Expr = weights[place.group, k, j, v]
                    else:
                        assert self.right is not None
                        w = self.element(self.right, 1, place.batch, k, column(j, v))
                    b.store(acc[u, r, j], multiply_add(x, w, acc[u, r, j]))

            self.fetch_extras(chunk, place)
            ahead = None if weights is None else self.look_ahead(chunk, weights, place)
            self.reduce(split, step, ahead, None if kept is None else self.flush(kept, weights, place, v))
            if self.ctx.epilogue.is_long and rows * blocks > TOGETHER:
                self.finish_apart(acc, kept, place, v, column)
                return
            with b.unrolled("r", rows) as r, b.unrolled("j", blocks) as j:
                point: Point = (*place.batch, place.row + r, column(j, v))
                total = self.total(acc, r, j) if kept is None else kept.total(r, j)
                self.ctx.write(point, self.ctx.finish(total, point))

    def partial_sums(self, acc: Tile, v: Var) -> PartialSums | None:
        """Where the tile's sums go part by part, if they are long."""
        long = self.dtype is DType.F32 and acc.shape[0] == 1 and sum(count for _, count, _ in self.parts) > 1
        if not long and self.digits is None:
            return None
        return PartialSums(self.b, self.sums_buffer(acc, v), lambda r, j: acc[0, r, j], v, acc.shape[1])

    @staticmethod
    def flush(
        kept: PartialSums, weights: Buffer | FixedPoint | None, place: _Place, v: Var
    ) -> Callable[[Affine], None]:
        """What ends a part of the tile's sums, given its number."""
        if not isinstance(weights, FixedPoint):
            return lambda part: kept.flush()
        return lambda part: kept.flush(lambda j: weights.scale((place.group,), part, j, v))

    @property
    def parts(self) -> list[tuple[int, int, int]]:
        """Of the rounds of the loop over the depth: (first, count, length)."""
        return parts(self.depth // _UNROLL, _UNROLL)

    @property
    def part_starts(self) -> list[int]:
        """Where the parts of a sum start, and what is left of the depth."""
        starts = [(first + p * length) * _UNROLL for first, count, length in self.parts for p in range(count) if length]
        full = self.depth // _UNROLL * _UNROLL
        return [*starts, full] if full < self.depth else starts

    def sums_buffer(self, acc: Tile, v: Var) -> Buffer:
        """Memory for a tile."""
        shape = (*acc.shape[1:], v.extent)
        if shape not in self.sums:
            self.sums[shape] = self.b.scratch(f"sums{len(self.sums)}", shape, self.dtype)
        return self.sums[shape]

    def total(self, acc: Tile, r: Var, j: Var) -> Expr:
        """The partial sums of an element added up."""
        total: Expr = acc[0, r, j]
        for u in range(1, acc.shape[0]):
            total = total + acc[u, r, j]
        return total

    def finish_apart(
        self, acc: Tile, kept: PartialSums | None, place: _Place, v: Var, column: Callable[[Var, Var], Affine]
    ) -> None:
        """The epilogue in a loop of its own over the tile in memory.

        In one block of code with the reduction its constants would take the registers of the sums.
        """
        b, (_, rows, blocks) = self.b, acc.shape
        sums = self.sums_buffer(acc, v)
        if kept is None:
            with b.unrolled("r", rows) as r, b.unrolled("j", blocks) as j:
                b.store(sums[r, j, v], self.total(acc, r, j))
        with b.serial("r", rows) as r, b.unrolled("j", blocks) as j:
            point: Point = (*place.batch, place.row + r, column(j, v))
            self.ctx.write(point, self.ctx.finish(sums[r, j, v], point))

    def start(self, bias: Buffer | None, packed: Point, column: Affine) -> Expr:
        """What the first partial sum of an element starts from."""
        if bias is not None:
            return bias[packed]
        return zero(self.dtype) if self.bias is None else self.ctx.input_view(self.bias)[(column,)]

    def look_ahead(self, chunk: _Chunk, weights: Buffer | FixedPoint, place: _Place) -> _LookAhead | None:
        """Has the next group's weights come nearer, a share in each pass, if they come from afar.

        Weights that one pass reads are asked for some rows ahead where hardware does so too late.
        """
        passes, target = place.passes, self.ctx.target
        if self.packed is None or self.packed.nbytes <= target.l2_bytes // 2:
            return None
        early = target.l3_is_slow or (target.asks_ahead and self.packed.nbytes > target.l3_bytes)
        if passes == 1 and early and self.depth >= _UNROLL:
            return self.next_rows(chunk, weights, place)
        if passes < _LOOK_AHEAD or isinstance(weights, FixedPoint):
            return None
        rounds = self.depth // _UNROLL
        together = math.gcd(*(length for *_, length in self.parts))
        every = unroll_factor(together, max(1, passes // _UNROLL)) if rounds else 1
        at_once = -(-_UNROLL * every // passes)
        share = rounds // every * at_once

        def fetch(number: Affine) -> None:
            with self.b.unrolled("p", at_once) as p, self.b.unrolled("j", chunk.blocks) as j:
                self.b.prefetch(weights[place.group + 1, place.turn * share + number * at_once + p, j, 0])

        return _LookAhead(every, fetch)

    def next_rows(self, chunk: _Chunk, weights: Buffer | FixedPoint, place: _Place) -> _LookAhead:
        """Has weights that are read once come nearer.

        Hardware asks for no more than the rest of a page of 4 KB (Intel 64 and IA-32 Architectures Optimization
        Reference Manual, on data prefetching).
        """
        if isinstance(weights, FixedPoint):
            buffer, rows = weights.numbers, weights.digits.rows_of(_UNROLL)
        else:
            buffer, rows = weights, _UNROLL
        blocks = max(1, LINE // (chunk.lanes * buffer.dtype.size))

        def fetch(number: Affine) -> None:
            with self.b.unrolled("p", rows) as p, self.b.unrolled("j", -(-chunk.blocks // blocks)) as j:
                row = (number + _ROUNDS_AHEAD) * rows + p
                self.b.prefetch(buffer[place.group, row, j * blocks, 0], level=2)

        return _LookAhead(1, fetch)

    def fetch_extras(self, chunk: _Chunk, place: _Place) -> None:
        """Has what the epilogue will read of other tensors come nearer while the sums are made."""
        for i in self.ctx.epilogue.inputs:
            operand = self.ctx.operand(i)
            if operand.data is not None or operand.shape != self.ctx.output.shape:
                continue
            view = self.ctx.input_view(i)
            with self.b.unrolled("r", place.rows) as r, self.b.unrolled("j", chunk.blocks) as j:
                column = (place.group * chunk.blocks + j) * chunk.lanes + chunk.first
                self.b.prefetch(view[(*place.batch, place.row + r, column)])

    def reduce(
        self, split: int, step: Callable[[Affine, int | Affine], None], ahead: _LookAhead | None,
        flush: Callable[[Affine], None] | None,
    ) -> None:  # fmt: skip
        """`step(k, partial sum)` for all of the depth; `flush(part)` at the end of each part of the sum."""
        b, ended = self.b, 0
        full, rest = divmod(self.depth, _UNROLL)
        every = 1 if ahead is None else ahead.every
        for first, count, length in self.parts if full else []:
            with b.serial("p", count) as p:
                with b.serial("a", length // every) as a:
                    if ahead is not None:
                        ahead.fetch(p * (length // every) + a + first // every)
                    with b.serial("k", every) as k:
                        self.steps((p * length + a * every + k + first) * _UNROLL, _UNROLL, split, step)
                if flush is not None:
                    flush(p + ended)
            ended += count
        if rest:
            self.steps(Affine.of(full * _UNROLL), rest, split, step)
            if flush is not None:
                flush(Affine.of(ended))

    def steps(self, first: Affine, count: int, split: int, step: Callable[[Affine, int | Affine], None]) -> None:
        """A few steps one after the other; fixed-point weights must know which of those that share a byte they are."""
        if self.digits is not None:
            for number in range(count):
                step(first + number, 0)
            return
        with self.b.unrolled("u", count) as u:
            step(first + u, 0 if split == 1 else Affine.of(u))

    def element(self, source: View | Buffer, i: int, batch: Sequence[Var], row: IndexLike, column: IndexLike) -> Expr:
        """Element of operand `i` at a batch index that may broadcast."""
        return source[batch_point(self.ctx, i, batch, row, column)]
