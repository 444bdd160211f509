"""The register tile of a matrix product: some rows of some column blocks, over the whole depth.

`gemm` says which tiles there are, and in what order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

from glulam.compiler.graph.types import DType
from glulam.compiler.kernels.context import Context, Point, View
from glulam.compiler.kernels.fixed_point import Digits, FixedPoint
from glulam.compiler.kernels.gemm_operands import batch_point, multiply_add, zero
from glulam.compiler.kernels.partial_sums import PartialSums, parts
from glulam.compiler.kernels.ranges import Pieces, unroll_factor
from glulam.compiler.kernels.rates import LINE
from glulam.compiler.kernels.tiling import TOGETHER
from glulam.compiler.loops.expr import Expr
from glulam.compiler.loops.index import Affine, Var
from glulam.compiler.loops.ir import Buffer, ByteDot

_UNROLL = 4  # steps of the depth in one round of the loop
_ROUNDS_AHEAD = 8  # weights that are read once are asked for
_LOOK_AHEAD = 2  # passes over the weights of a group in which those of the next one can be fetched


@dataclass(frozen=True)
class Chunk:
    """Neighbouring columns from `first`: `count` groups of `blocks` blocks of `lanes`, in tiles of `rows` rows.

    `split` are the partial sums of each element.
    """

    first: int
    count: int
    blocks: int
    lanes: int
    rows: int
    split: int

    @property
    def columns(self) -> slice:
        return slice(self.first, self.first + self.count * self.blocks * self.lanes)


class Panel(NamedTuple):
    """Columns with the right operand, if it is packed, and the bias, if it is known, for them."""

    chunk: Chunk
    weights: Buffer | FixedPoint | None
    bias: Buffer | None


@dataclass(frozen=True)
class Place:
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
class Product:
    """What all tiles of left[*batch, M, K] @ right[*batch, K, N] have in common.

    right: where it lies, None if it is packed in `packed_bytes`, perhaps in fewer `digits`. bias: its input's number.
    With `of_bytes` elements are words of four bytes, all of which are multiplied.
    """

    ctx: Context
    left: View | Buffer
    right: View | Buffer | None
    packed_bytes: int
    digits: Digits | None
    bias: int | None
    of_bytes: bool = False
    _sums: dict[tuple[int, ...], Buffer] = field(default_factory=dict)

    @property
    def dtype(self) -> DType:
        """Of the sums; the epilogue may give another one."""
        return self.ctx.operand(0).type.dtype

    @property
    def depth(self) -> int:
        return self.ctx.operand(0).shape[-1]

    @property
    def parts(self) -> list[Pieces]:
        """Of the rounds of the loop over the depth."""
        return parts(self.depth // _UNROLL, _UNROLL)

    @property
    def part_starts(self) -> list[int]:
        """Where the parts of a sum start, and what is left of the depth."""
        starts = [(first + p * length) * _UNROLL for first, count, length in self.parts for p in range(count) if length]
        full = self.depth // _UNROLL * _UNROLL
        return [*starts, full] if full < self.depth else starts

    def sums(self, rows: int, blocks: int, lanes: int) -> Buffer:
        """Memory for the sums of a tile; tiles of the same shape share it."""
        shape = (rows, blocks, lanes)
        if shape not in self._sums:
            self._sums[shape] = self.ctx.builder.scratch(f"sums{len(self._sums)}", shape, self.dtype)
        return self._sums[shape]


@dataclass(frozen=True)
class _LookAhead:
    """`fetch(n)` is called in the n-th of the times that `every` rounds over the depth make."""

    every: int = 1
    fetch: Callable[[Affine], None] = lambda number: None


class RegisterTile:
    """Writes the code of one tile."""

    def __init__(self, product: Product, panel: Panel, place: Place) -> None:
        self.product, self.place, (self.chunk, self.weights, self.bias) = product, place, panel
        self.ctx, self.b = product.ctx, product.ctx.builder
        self.rows, self.blocks, self.split = place.rows, self.chunk.blocks, self.chunk.split

    def emit(self) -> None:
        with self.b.vector("v", self.chunk.lanes) as self.v:
            self.acc = self.b.tile("acc", self.split, self.rows, self.blocks, dtype=self.product.dtype)
            self.kept = self.partial_sums()
            self.start()
            self.fetch_extras()
            self.reduce()
            if self.ctx.epilogue.is_long and self.rows * self.blocks > TOGETHER:
                self.finish_apart()
            else:
                self.finish()

    @contextmanager
    def elements(self) -> Iterator[tuple[Var, Var]]:
        """Row and block of each vector of the tile."""
        with self.b.unrolled("r", self.rows) as r, self.b.unrolled("j", self.blocks) as j:
            yield r, j

    def column(self, j: Var) -> Affine:
        return (self.place.group * self.blocks + j) * self.chunk.lanes + self.v + self.chunk.first

    def point(self, r: Var, j: Var) -> Point:
        return (*self.place.batch, self.place.row + r, self.column(j))

    # ---- sums

    def partial_sums(self) -> PartialSums | None:
        """Where the tile's sums go part by part, if they are long."""
        long = sum(count for _, count, _ in self.product.parts) > 1
        if not (long and self.product.dtype is DType.F32 and self.split == 1) and self.product.digits is None:
            return None
        sums = self.product.sums(self.rows, self.blocks, self.v.extent)
        return PartialSums(self.b, sums, lambda r, j: self.acc[0, r, j], self.v, self.rows)

    def start(self) -> None:
        """The first partial sum starts from the bias."""
        if self.kept is not None:
            self.kept.start(lambda r, j: self.first_term(j))
            return
        with self.elements() as (r, j):
            self.b.store(self.acc[0, r, j], self.first_term(j))
            for u in range(1, self.split):
                self.b.store(self.acc[u, r, j], zero(self.product.dtype))

    def first_term(self, j: Var) -> Expr:
        if self.bias is not None:
            return self.bias[self.place.group, j, self.v]
        number = self.product.bias
        return zero(self.product.dtype) if number is None else self.ctx.input_view(number)[(self.column(j),)]

    def reduce(self) -> None:
        """Add up the products of all of the depth, and ask for weights that are needed later on the way."""
        b, ahead, ended = self.b, self.look_ahead(), 0
        full, rest = divmod(self.product.depth, _UNROLL)
        for first, count, length in self.product.parts if full else []:
            turns = length // ahead.every
            with b.serial("p", count) as p:
                with b.serial("a", turns) as a:
                    ahead.fetch(p * turns + a + first // ahead.every)
                    with b.serial("k", ahead.every) as k:
                        self.steps((p * length + a * ahead.every + k + first) * _UNROLL, _UNROLL)
                self.end_part(p + ended)
            ended += count
        if rest:
            self.steps(Affine.of(full * _UNROLL), rest)
            self.end_part(Affine.of(ended))

    def steps(self, first: Affine, count: int) -> None:
        """A few steps one after the other; fixed-point weights must know which of those that share a byte they are."""
        if self.product.digits is not None:
            for number in range(count):
                self.step(first + number, 0)
            return
        with self.b.unrolled("u", count) as u:
            self.step(first + u, 0 if self.split == 1 else Affine.of(u))

    def step(self, k: Affine, u: int | Affine) -> None:
        """Add column k of the left operand times row k of the right one to partial sum `u` of each element."""
        with self.elements() as (r, j):
            x: Expr = self.product.left[batch_point(self.ctx, 0, self.place.batch, self.place.row + r, k)]
            if isinstance(self.weights, FixedPoint):
                x = self.weights.scaled(x)
            combine = ByteDot if self.product.of_bytes else multiply_add
            self.b.store(self.acc[u, r, j], combine(x, self.weight(k, j), self.acc[u, r, j]))

    def weight(self, k: Affine, j: Var) -> Expr:
        if self.weights is not None:
            return self.weights[self.place.group, k, j, self.v]
        assert self.product.right is not None
        return self.product.right[batch_point(self.ctx, 1, self.place.batch, k, self.column(j))]

    def end_part(self, number: Affine) -> None:
        if self.kept is None:
            return
        weights = self.weights
        if isinstance(weights, FixedPoint):
            self.kept.flush(lambda j: weights.scale((self.place.group,), number, j, self.v))
        else:
            self.kept.flush()

    # ---- results

    def total(self, r: Var, j: Var) -> Expr:
        """The partial sums of an element added up."""
        if self.kept is not None:
            return self.kept.total(r, j)
        total: Expr = self.acc[0, r, j]
        for u in range(1, self.split):
            total = total + self.acc[u, r, j]
        return total

    def finish(self) -> None:
        """The epilogue, and the result to its place."""
        with self.elements() as (r, j):
            self.ctx.write(self.point(r, j), self.ctx.finish(self.total(r, j), self.point(r, j)))

    def finish_apart(self) -> None:
        """The epilogue in a loop of its own over the tile in memory.

        In one block of code with the reduction its constants would take the registers of the sums.
        """
        sums = self.product.sums(self.rows, self.blocks, self.v.extent)
        if self.kept is None:
            with self.elements() as (r, j):
                self.b.store(sums[r, j, self.v], self.total(r, j))
        with self.b.serial("r", self.rows) as r, self.b.unrolled("j", self.blocks) as j:
            self.ctx.write(self.point(r, j), self.ctx.finish(sums[r, j, self.v], self.point(r, j)))

    # ---- what is needed later

    def look_ahead(self) -> _LookAhead:
        """Has the next group's weights come nearer, a share in each pass, if they come from afar.

        Weights that one pass reads are asked for some rows ahead where hardware does so too late; those in few digits,
        whose rows are short, in any case.
        """
        passes, target, packed = self.place.passes, self.ctx.target, self.product.packed_bytes
        weights = self.weights
        if weights is None or packed <= target.l2_bytes // 2:
            return _LookAhead()
        short = isinstance(weights, FixedPoint) and target.asks_ahead
        early = target.l3_is_slow or (target.asks_ahead and packed > target.l3_bytes)
        if (short or (passes == 1 and early)) and self.product.depth >= _UNROLL:
            return self.next_rows(weights)
        if passes < _LOOK_AHEAD or isinstance(weights, FixedPoint):
            return _LookAhead()
        rounds = self.product.depth // _UNROLL
        together = math.gcd(*(length for *_, length in self.product.parts))
        every = unroll_factor(together, max(1, passes // _UNROLL)) if rounds else 1
        at_once = -(-_UNROLL * every // passes)
        share = rounds // every * at_once

        def fetch(number: Affine) -> None:
            with self.b.unrolled("p", at_once) as p, self.b.unrolled("j", self.blocks) as j:
                row = self.place.turn * share + number * at_once + p
                self.b.prefetch(weights[self.place.group + 1, row, j, 0])

        return _LookAhead(every, fetch)

    def next_rows(self, weights: Buffer | FixedPoint) -> _LookAhead:
        """Has weights that are read once come nearer.

        Hardware asks for no more than the rest of a page of 4 KB (Intel 64 and IA-32 Architectures Optimization
        Reference Manual, on data prefetching).
        """
        if isinstance(weights, FixedPoint):
            buffer, rows = weights.numbers, weights.digits.rows_of(_UNROLL)
        else:
            buffer, rows = weights, _UNROLL
        blocks = max(1, LINE // (self.chunk.lanes * buffer.dtype.size))

        def fetch(number: Affine) -> None:
            with self.b.unrolled("p", rows) as p, self.b.unrolled("j", -(-self.blocks // blocks)) as j:
                row = (number + _ROUNDS_AHEAD) * rows + p
                self.b.prefetch(buffer[self.place.group, row, j * blocks, 0], level=2)

        return _LookAhead(fetch=fetch)

    def fetch_extras(self) -> None:
        """Has what the epilogue will read of other tensors come nearer while the sums are made."""
        for i in self.ctx.epilogue.inputs:
            operand = self.ctx.operand(i)
            if operand.data is not None or operand.shape != self.ctx.output.shape:
                continue
            view = self.ctx.input_view(i)
            with self.elements() as (r, j):
                column = (self.place.group * self.blocks + j) * self.chunk.lanes + self.chunk.first
                self.b.prefetch(view[(*self.place.batch, self.place.row + r, column)])
