"""Direct convolution with a pool behind it, as one kernel: its rows go into scratch memory and are pooled there.

One iteration makes a chunk of pooled rows for a group of channel blocks: first the rows of the convolution that their
windows need, with epilogue and with the pool's padding around them, then the pooled rows. Where windows of neighbouring
chunks overlap, the rows in between are computed twice, so chunks are made long enough for that to cost little.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from glulam.compiler.graph.types import DType
from glulam.compiler.kernels.context import Context, Lowered
from glulam.compiler.kernels.conv_geometry import ConvGeometry
from glulam.compiler.kernels.conv_template import constant_weights
from glulam.compiler.kernels.conv_tile import ConvTile, Spot, Where
from glulam.compiler.kernels.operand import Operand
from glulam.compiler.kernels.ranges import Parts
from glulam.compiler.kernels.tiling import Tiling, tilings
from glulam.compiler.kernels.windows import Window
from glulam.compiler.loops import expr as ex
from glulam.compiler.loops.expr import Expr
from glulam.compiler.loops.index import Affine, IndexLike, Var
from glulam.compiler.loops.ir import Buffer

_SCRATCH_BYTES = 384 * 1024
_WASTE = 0.05  # share of the convolution's rows that may be computed twice
_UNROLLED_TAPS = 16


@dataclass(frozen=True)
class Chunks:
    """`count` chunks of `rows` pooled rows from chunk `first` on, whose scratch rows [low, high) are computed ones."""

    first: int
    count: int
    rows: int
    low: int
    high: int


def accepts(window: Window, conv_extents: Sequence[int], pooled: Sequence[int], block_bytes: int) -> str | None:
    """None if the kernel pays, else why not."""
    if len(conv_extents) != 2:
        return "only pools over two dimensions are computed in the convolution in front of them"
    if 0 in pooled:
        return "the result is empty"
    rows = chunk_rows(window, pooled[0])
    if window.span(0, rows) * window.span(1, pooled[1]) * block_bytes > _SCRATCH_BYTES:
        return "the rows that its windows need at once do not stay in the cache"
    return None


def chunk_rows(window: Window, pooled_rows: int) -> int:
    """Pooled rows of a chunk: few, but enough that the rows computed twice are a small share."""
    stride = window.geometry.strides[0]
    overlap = max(0, window.span(0, 1) - stride)
    enough = max(1, math.ceil(overlap / (_WASTE * stride))) if overlap else 1
    if enough >= pooled_rows:
        return pooled_rows
    return min((r for r in range(enough, pooled_rows + 1) if pooled_rows % r == 0), default=enough)


def build(ctx: Context, geometry: ConvGeometry, window: Window, anchor: Operand) -> Lowered:
    """The kernel. Inputs as for the direct convolution, whose own result would be `anchor`; output 0 is pooled."""
    return _ConvPool(ctx, geometry, window, anchor).build()


class _ConvPool(ConvTile):
    def __init__(self, ctx: Context, geometry: ConvGeometry, window: Window, anchor: Operand) -> None:
        super().__init__(ctx, geometry, constant_weights(ctx))
        self.window, self.anchor = window, anchor
        self.scratch: Buffer | None = None
        self.row = Affine.of(0)  # scratch row that the tile in hand is part of
        if window.counts:
            places = np.multiply.outer(*(np.array(row, np.float64) for row in window.counts))
            self.divisors = 1.0 / places

    def build(self) -> Lowered:
        ctx, (height, width) = self.ctx, self.anchor.spatial
        pooled_rows, pooled_width = ctx.output.spatial
        taps = math.prod(self.geometry.kernel)
        tiling, rows = self.cut(width, pooled_rows, self.in_channels * taps)
        ctx.output_view()
        columns = self.window.span(1, pooled_width)
        for each in tiling.channel_groups(self.group_blocks):
            group = self.group(each)
            shape = (self.window.span(0, rows), columns, group.blocks, self.block)
            self.scratch = self.b.scratch(f"rows{group.first}", shape)
            for chunks in self.classes(pooled_rows, rows, height):
                space = {"n": ctx.output.shape[0], "q": self.groups, "g": group.count, "c": chunks.count}
                with self.b.section(**space) as (n, q, g, c):
                    chunk = c + chunks.first
                    self.fill_padding(chunks, width, group.blocks)
                    self.convolve(chunks, chunk * rows, Where(group, n, q, g), tiling)
                    block = q * self.group_blocks + g * group.blocks + group.first
                    self.pool(chunks, chunk * rows, n, block, group.blocks)
        return ctx.finished()

    def cut(self, width: int, pooled_rows: int, depth: int) -> tuple[Tiling, int]:
        """The register tile, and the pooled rows of a chunk: few where many threads share them."""
        target, most = self.ctx.target, chunk_rows(self.window, pooled_rows)
        found = []
        for rows in range(most, 0, -1) if target.threads > 1 else [most]:
            count = self.ctx.output.shape[0] * self.groups * -(-pooled_rows // rows)
            again = self.window.span(0, rows) / (rows * self.window.geometry.strides[0])
            for cycles, _, tiling in tilings(target, width, self.group_blocks, depth):
                parts = Parts(count * -(-self.group_blocks // tiling.blocks))
                found.append((cycles * again * parts.busiest(target.threads), -tiling.pixels, tiling, rows))
        return min(found, key=lambda entry: entry[:2])[2:]

    def classes(self, pooled_rows: int, rows: int, height: int) -> list[Chunks]:
        """The chunks in order, equal neighbours together: those at the edges meet padding."""
        geo = self.window.geometry
        found = []
        for i in range(-(-pooled_rows // rows)):
            size = min(rows, pooled_rows - i * rows)
            start = i * rows * geo.strides[0] - geo.before[0]
            span = self.window.span(0, size)
            found.append((size, min(max(0, -start), span), max(0, min(span, height - start))))
        grouped = []
        first = 0
        for (size, low, high), members in groupby(found):
            count = len(list(members))
            grouped.append(Chunks(first, count, size, low, high))
            first += count
        return grouped

    def fill_padding(self, chunks: Chunks, width: int, per_group: int) -> None:
        """Write what the windows find around the convolution's result."""
        scratch = self.scratch
        assert scratch is not None
        left, columns = self.window.geometry.before[1], scratch.shape[1]
        span = self.window.span(0, chunks.rows)
        right = min(columns, left + width)
        inner = (chunks.low, chunks.high - chunks.low)
        boxes = [
            ((0, chunks.low), (0, columns)),
            ((chunks.high, span - chunks.high), (0, columns)),
            (inner, (0, min(left, columns))),
            (inner, (right, columns - right)),
        ]
        for (row, rows), (column, length) in boxes:
            if rows <= 0 or length <= 0:
                continue
            b = self.b
            with (
                b.vector("v", self.block) as v,
                b.serial("r", rows) as r,
                b.serial("w", length) as w,
                b.unrolled("j", per_group) as j,
            ):
                b.store(scratch[r + row, w + column, j, v], self.window.pad_value)

    def convolve(self, chunks: Chunks, pooled_row: Affine, where: Where, tiling: Tiling) -> None:
        """The rows of the convolution, tile by tile; columns that no window reads are left out."""
        scratch, geo = self.scratch, self.window.geometry
        assert scratch is not None
        width = min(self.anchor.spatial[1], scratch.shape[1] - geo.before[1])
        with self.b.serial("r", chunks.high - chunks.low) as r:
            self.row = r + chunks.low
            row = pooled_row * geo.strides[0] + r + (chunks.low - geo.before[0])
            for tiles in self.columns(width, tiling):
                with self.b.serial("s", tiles.count) as s:
                    self.tile(Spot(where, (row,), s * tiles.pixels + tiles.first, tiles.pixels, met=tiles.met))

    def put(self, point: tuple[IndexLike, ...], j: Var, value: Expr) -> None:
        assert self.scratch is not None
        column = Affine.of(point[3]) + self.window.geometry.before[1]
        self.b.store(self.scratch[self.row, column, j, point[-1]], value)

    def pool(self, chunks: Chunks, pooled_row: Affine, n: Var, block: Affine, per_group: int) -> None:
        """Fold the windows of the chunk's pooled rows."""
        b, geo, width = self.b, self.window.geometry, self.ctx.output.spatial[1]
        reciprocal = self.reciprocals() if self.window.counts else None
        with b.serial("r", chunks.rows) as r, b.serial("w", width) as w, b.vector("v", self.block) as v:
            best = b.tile("best", per_group)
            with b.unrolled("j", per_group) as j:
                b.store(best[j], self.window.pad_value)
            unrolled = geo.taps <= _UNROLLED_TAPS
            loop = b.unrolled if unrolled else b.serial
            with loop("kh", geo.kernel[0]) as kh, loop("kw", geo.kernel[1]) as kw, b.unrolled("j", per_group) as j:
                assert self.scratch is not None
                row = r * geo.strides[0] + kh * geo.dilations[0]
                column = w * geo.strides[1] + kw * geo.dilations[1]
                element = self.scratch[row, column, j, v]
                folded = best[j] + element if self.window.counts else ex.maximum(best[j], element)
                b.store(best[j], folded)
            with b.unrolled("j", per_group) as j:
                value: Expr = best[j]
                if reciprocal is not None:
                    value = value * (reciprocal if isinstance(reciprocal, Expr) else reciprocal[pooled_row + r, w])
                self.ctx.write((n, block + j, pooled_row + r, w, v), value)

    def reciprocals(self) -> Expr | Buffer:
        """One over the number of elements of a window: a number, or a table where windows differ."""
        if np.ptp(self.divisors) == 0:
            return ex.Const(float(self.divisors.flat[0]), DType.F32)
        return self.ctx.constant_once(("window",), lambda: self.divisors.astype(np.float32), "r", table=True)
