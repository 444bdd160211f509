"""Attention as one kernel: the scores of some rows, their softmax, and its product with the values.

An iteration makes some rows of one product of the batch, all columns of the scores included. So the scores, which are
quadratic in the length of a sequence, are never in memory together: those in hand fit the second-level cache. Every
element is computed as by kernels of their own, to the bit. The softmax needs whole rows: what FlashAttention (Dao et
al., 2022) does to do without would be of use for rows only that are too long for that cache.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from glulam.compiler.graph.types import TensorType
from glulam.compiler.kernels.context import Context, Lowered, Point, View
from glulam.compiler.kernels.gemm import chunks
from glulam.compiler.kernels.gemm_operands import source
from glulam.compiler.kernels.gemm_tile import Panel, Place, Product, RegisterTile
from glulam.compiler.kernels.operand import Operand
from glulam.compiler.kernels.ranges import Parts, pieces
from glulam.compiler.kernels.rates import LINE
from glulam.compiler.kernels.rows import is_short, softmax_of_row
from glulam.compiler.loops.index import Affine, Var
from glulam.compiler.loops.ir import Load
from glulam.compiler.targets import Target

_SHARE = 4  # part of the second-level cache that the scores in hand may take
_ROWS = 8  # so many at least, or the other operands would be read again for too little


def accepts(target: Target, scores: TensorType, rights: Sequence[TensorType]) -> str | None:
    """None if one kernel is better than three for scores[*batch, M, N] and such right operands, else why not."""
    *batch, rows, columns = scores.shape
    if is_short(columns):
        return "its rows are too short for a vector each"
    if _ROWS * _stride(scores) * scores.dtype.size > target.l2_bytes // _SHARE:
        return "rows of scores are too long to be kept in the second-level cache"
    if any(right.shape[-1] == 1 for right in rights):
        return "a product of one column is computed by lanes along the sum"
    if rows < _ROWS and math.prod(batch) > 1 and any(math.prod(right.shape[:-2]) == 1 for right in rights):
        return "so few rows are better multiplied together with those of the rest of the batch"
    return None


def build(ctx: Context, parts: Sequence[Context], numbers: Sequence[Sequence[int]]) -> Lowered:
    """The kernel of two matrix products, whose inputs have these `numbers` among those of `ctx`.

    Inputs of the first one: left [*batch, M, K], right [*batch, K, N], then what its epilogue reads; of the second one:
    the softmax of what the first one gives, right [*batch, N, L], then what its epilogue reads.
    """
    first, second = parts
    scores = first.output
    *batch, height, width = scores.shape
    band = _band_rows(ctx.target, scores.type)
    buffer = ctx.builder.scratch("scores", (band, width, 1), strides=(_stride(scores.type), 1, 1))
    line = Operand(scores.type.with_shape((band, width, 1)))
    softmax = Context(ctx.name, ctx.target, [line], [line])
    softmax.join(ctx, (), View(line, buffer), View(line, buffer))
    products: tuple[Product, Product] | None = None
    for begin, times, length in pieces(height, band):
        outer = {f"d{i}": extent for i, extent in enumerate(batch)}
        with ctx.builder.section(**outer, h=times) as (*place, h):
            row = h * length + begin
            rows = _Rows(scores, buffer, row)
            first.join(ctx, numbers[0], result=rows)
            second.join(ctx, numbers[1], rows)
            one, other = products = products or (_product(first), _product(second))
            _tiles(one, place, row, length)
            with ctx.builder.serial("r", length) as r:
                softmax_of_row(softmax, Affine.of(r))
            _tiles(replace(other, left=rows), place, row, length)
    return second.finished()


def _stride(scores: TensorType) -> int:
    """Elements from row to row: an odd number of cache lines, so that rows meet different sets of the caches."""
    return (-(-scores.shape[-1] * scores.dtype.size // LINE) | 1) * LINE // scores.dtype.size


def _band_rows(target: Target, scores: TensorType) -> int:
    """Rows of an iteration: as many as stay in the cache and leave each thread its share.

    All columns of the right operands are read again for each iteration.
    """
    *batch, height, _ = scores.shape
    most = max(1, min(height, target.l2_bytes // _SHARE // (_stride(scores) * scores.dtype.size)))

    def cost(rows: int) -> float:
        count, rest = divmod(height, rows)
        times = math.prod(batch)
        parts = Parts(times * count, times if rest else 0, rest / rows)
        return parts.busiest(target.threads) * (1 + 1 / rows)

    return min(range(min(_ROWS, most), most + 1), key=cost)


def _product(ctx: Context) -> Product:
    return Product(ctx, source(ctx, 0), source(ctx, 1), packed_bytes=0, digits=None, bias=None)


def _tiles(product: Product, place: Sequence[Var], row: Affine, rows: int) -> None:
    """All columns of so many rows from row `row` on."""
    b = product.ctx.builder
    for chunk in chunks(product, rows):
        with b.serial("g", chunk.count) as g:
            for first, count, tall in pieces(rows, chunk.rows):
                with b.serial("s", count) as s:
                    spot = Place(place, g, row + s * tall + first, tall, Affine.of(0), 1)
                    RegisterTile(product, Panel(chunk, None, None), spot).emit()


@dataclass(frozen=True)
class _Rows(View):
    """Rows of a tensor [*batch, M, N] from row `start` of the matrix in hand on, as [rows, N, 1]."""

    start: Affine

    def __getitem__(self, point: Point) -> Load:
        *_, row, column = point
        return self.buffer[Affine.of(row) - self.start, column, 0]
