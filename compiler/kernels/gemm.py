"""Matrix products: a register tile of rows x column blocks over the whole depth.

`linear` has weights [N, K], `matmul` numpy's semantics. A right operand known at compile time is packed into groups of
column blocks in the order the reduction reads them; any other is read where it lies. The sum of an element has the same
order whatever the number of rows, so a row's bits do not depend on the batch around it; and the same order in every
column, so equal columns give equal bits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from glulam.compiler.graph.types import Array, DType, TensorType
from glulam.compiler.kernels import gemm_dots
from glulam.compiler.kernels.byte_words import in_words, start_of_sums, words
from glulam.compiler.kernels.context import Context, Lowered
from glulam.compiler.kernels.fixed_point import Digits, FixedPoint
from glulam.compiler.kernels.gemm_operands import merged_rows, source, with_columns, with_rows, without_batch
from glulam.compiler.kernels.gemm_tile import Chunk, Panel, Place, Product, RegisterTile
from glulam.compiler.kernels.operand import Operand
from glulam.compiler.kernels.packing import Packing
from glulam.compiler.kernels.ranges import ENOUGH, Run, pieces, runs
from glulam.compiler.kernels.rates import most_rows
from glulam.compiler.kernels.tiling import Tiling, choose_tiling
from glulam.compiler.loops.index import Affine, Var
from glulam.compiler.loops.ir import Buffer, Partner
from glulam.compiler.targets import Target

_ROW_BLOCKS = 8  # column blocks of a tile of one row: as many sums as hide the latency of an addition
_FEW_BLOCKS = 2  # the fewest, where there are more threads than tiles; memory is what they wait for then
_NARROW_SPLIT = 4  # partial sums of each element where all columns together fill no block, for the same reason
_SHALLOW, _SHALLOW_ROWS = 8, 2  # sums up to that length, and rows of a tile for them


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


def linear_of_bytes(ctx: Context, zero_point: int) -> Lowered:
    """The kernel of (x[..., K] - zero_point) @ w[N, K].T + bias[N], of U8, I8 and I32; K is a multiple of four."""
    weights = ctx.data(1)
    assert weights is not None
    inputs = [
        in_words(ctx.operand(0)),
        *map(_constant, (words(weights), start_of_sums(weights, ctx.data(2), zero_point))),
    ]
    flat = with_rows(Context(ctx.name, ctx.target, [*inputs, *ctx.inputs[3:]], ctx.outputs, ctx.epilogue))
    flat = merged_rows(flat) or flat
    right = flat.data(1)
    assert right is not None
    if len(right) == 1:
        return gemm_dots.build(flat, transposed=True, bias=2, of_bytes=True)
    return _Columns(flat, right.T, 2, of_bytes=True).build()


def _constant(data: Array) -> Operand:
    return Operand(TensorType.of(data), data=data)


def row_limit(target: Target, depth: int, dtype: DType) -> int:
    """Rows of a left operand of so many columns that a tile should not exceed, or they drive each other out.

    Short sums are mostly stores, which are fastest along a row.
    """
    most = most_rows(target, depth * dtype.size)
    return min(most, _SHALLOW_ROWS) if depth <= _SHALLOW else most


def matmul(ctx: Context, of_bytes: bool = False) -> Lowered:
    """The kernel of numpy's a @ b: batch axes broadcast, a vector loses its axis. Or `of_bytes`, see `Product`."""
    flat = with_rows(with_columns(ctx))
    if math.prod(flat.operand(1).shape[:-2]) == 1 and flat.operand(1).type.rank <= flat.operand(0).type.rank:
        flat = without_batch(flat)
        flat = merged_rows(flat) or flat
    if flat.operand(1).shape[-1] == 1 and not of_bytes:
        return gemm_dots.build(flat, transposed=False, bias=None)
    weights = flat.data(1)
    packed = weights if weights is not None and weights.ndim == 2 else None
    return _Columns(flat, packed, None, of_bytes=of_bytes).build()


def chunks(product: Product, rows: int, tiling: Tiling | None = None) -> list[Chunk]:
    """The product's columns, in tiles for so many rows."""
    target, columns = product.ctx.target, product.ctx.output.shape[-1]
    width = target.vector_bytes // product.dtype.size
    full, rest = divmod(columns, width)
    found = []
    if full:
        tall, blocks = _tile_shape(product, rows, full, tiling)
        for first, count, per_group in pieces(full, blocks):
            found.append(Chunk(first * width, count, per_group, width, tall, 1))
    if rest:
        split = 1 if full or product.digits is not None else _NARROW_SPLIT
        found.append(Chunk(full * width, 1, 1, rest, min(rows, target.vector_registers // (split + 1)), split))
    return found


def _tile_shape(product: Product, rows: int, blocks: int, tiling: Tiling | None) -> tuple[int, int]:
    """Rows and blocks of columns of a register tile."""
    target = product.ctx.target
    if rows == 1:
        return 1, min(blocks, _ROW_BLOCKS, max(_FEW_BLOCKS, -(-blocks // target.threads)))
    limit = row_limit(target, product.depth, product.dtype)
    tiling = tiling or choose_tiling(target, rows, blocks, product.depth, limit=limit)
    return tiling.pixels, tiling.blocks


class _Rows(NamedTuple):
    """Tiles of rows that go through all groups of columns before others do, and `rest` more rows behind them."""

    tiles: Run
    rest: int


class _Columns:
    """Vectors along the columns; `packed` is the right operand [K, N] if it is known."""

    def __init__(
        self, ctx: Context, packed: Array | None, bias: int | None, tiling: Tiling | None = None,
        digits: Digits | None = None, of_bytes: bool = False,
    ) -> None:  # fmt: skip
        self.ctx, self.b, self.packed, self.tiling = ctx, ctx.builder, packed, tiling
        left, right = source(ctx, 0), None if packed is not None else source(ctx, 1)
        keeps_all = packed is None or packed.size == 0 or ctx.operand(0).type.dtype is not DType.F32
        packed_bytes = 0 if packed is None else packed.nbytes
        self.product = Product(ctx, left, right, packed_bytes, None if keeps_all else digits, bias, of_bytes)
        *self.batch, self.rows, _ = ctx.output.shape

    def build(self) -> Lowered:
        self.ctx.output_view()
        if self.ctx.output.type.size:
            for chunk in chunks(self.product, self.rows, self.tiling):
                panel = Panel(chunk, self.weights(chunk), self.bias_of(chunk))
                for run in self.row_runs(chunk):
                    self.sections(panel, run)
        return self.ctx.finished()

    def row_runs(self, chunk: Chunk) -> list[_Rows]:
        """All rows, or each half of them where two threads had better take one each."""
        full, rest = divmod(self.rows, chunk.rows)
        weights = self.packed.nbytes if self.packed is not None else self.ctx.operand(1).type.nbytes
        halved = full > 1 and math.prod(self.batch) == 1 and self.ctx.run(2, weights) == 1
        length = -(-full // 2) if halved else max(1, full)
        found = runs(full, length, together=True) or [Run(0, 1, 0)]
        if rest and found[-1].times > 1 and self.inside(chunk, length):  # only the second one has the rest
            found = [Run(0, 1, length, Partner.FIRST), Run(length, 1, length, Partner.SECOND)]
        return [*(_Rows(run, 0) for run in found[:-1]), _Rows(found[-1], rest)]

    def inside(self, chunk: Chunk, tiles: int) -> bool:
        """Whether an iteration has all tiles of a run, so that its weights stay cached: not if too few are left."""
        return tiles <= 1 or math.prod(self.batch) * chunk.count >= ENOUGH

    def sections(self, panel: Panel, rows: _Rows) -> None:
        """A run of rows of a chunk."""
        chunk, ((first, times, length, partner), rest) = panel.chunk, rows
        batch = {f"d{i}": extent for i, extent in enumerate(self.batch)}
        passes = length + (rest > 0)

        def tile(outer: Sequence[Var], g: Var, number: Affine, turn: Affine, rows: int) -> None:
            place = Place(outer, g, number * chunk.rows, rows, turn, passes)
            RegisterTile(self.product, panel, place).emit()

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

    def weights(self, chunk: Chunk) -> Buffer | FixedPoint | None:
        """[groups, K, blocks, lanes] of the chunk's columns."""
        if self.packed is None:
            return None
        shape = (self.product.depth, chunk.count, chunk.blocks, chunk.lanes)
        packing = Packing.copy(self.packed[:, chunk.columns].reshape(shape).transpose(1, 0, 2, 3))
        if self.product.digits is not None:
            # Hardware follows several streams at once, code that asks ahead one.
            apart = not (self.ctx.target.l3_is_slow or self.ctx.target.asks_ahead)
            return FixedPoint.of(self.ctx, packing, self.product.part_starts, "w", self.product.digits, apart)
        return self.ctx.constant(packing, "w")

    def bias_of(self, chunk: Chunk) -> Buffer | None:
        data = None if self.product.bias is None else self.ctx.data(self.product.bias)
        if data is None:
            return None
        return self.ctx.constant(data[chunk.columns].reshape(chunk.count, chunk.blocks, chunk.lanes), "b")
