"""Pooling on channel blocks: a run of output pixels stays in registers while their windows are folded.

Serves maximum and average, every kernel size, stride, dilation and rank. The lanes are channels, and windows that
overlap share the folded columns of the input: in registers, or those of a row in memory where that saves more. All read
past the edge: the input carries padding that does not change the result. Plain tensors go to `pool_rows`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from glulam.compiler.kernels.context import Context, Lowered, Point
from glulam.compiler.kernels.pool_rows import PlainPool
from glulam.compiler.kernels.windows import Fold, Scale, Window
from glulam.compiler.loops.builder import Builder
from glulam.compiler.loops.expr import Expr
from glulam.compiler.loops.index import Affine, IndexLike, Var
from glulam.compiler.loops.ir import Buffer, Tile

Head = tuple[Var, Var]
Rows = tuple[Affine, ...]

_TASK_PIXELS = 64  # pixels of a row that one iteration takes where there are no other rows to share out
_OTHER_REGISTERS = 6  # beside the folded columns
_SAVES = 0.8  # of the work, what is left of it must be less to fold columns apart


def build(ctx: Context, window: Window) -> Lowered:
    """Each window of input 0 folded: its largest element, NaN if any is, or its sum over the number that counts.

    On channel blocks the input carries padding: zeros for averages, for maxima what does not exceed any element.
    """
    return (_BlockedPool if ctx.output.layout.block > 1 else PlainPool)(ctx, window).build()


class _BlockedPool:
    def __init__(self, ctx: Context, window: Window) -> None:
        self.ctx, self.geometry = ctx, window.geometry
        self.b: Builder = ctx.builder
        self.fold = Fold(window, ctx.operand(0).type.dtype)
        self.block = ctx.output.layout.block
        self.x = ctx.input_view(0)
        self.ctx.output_view()
        self.scale = Scale(ctx, self.fold)
        self.width = ctx.output.spatial[-1]
        self.columns = window.span(-1, self.width)
        self.size, work = self._tile()
        self.row: Buffer | None = None
        if self.width and self._row_work() < _SAVES * work:
            self.row = self.b.scratch("row", (self.columns, self.block), self.fold.dtype)

    # ---- what is shared

    def _shared(self, pixels: int) -> int | None:
        """Columns that the windows of so many neighbours consist of, if each is in some, and registers hold all."""
        geo, columns = self.geometry, self.geometry.span(-1, pixels)
        used = {t * geo.strides[-1] + k * geo.dilations[-1] for t in range(pixels) for k in range(geo.kernel[-1])}
        fits = columns + _OTHER_REGISTERS <= self.ctx.target.vector_registers
        return columns if fits and len(used) == columns and self._heights > 1 else None

    @property
    def _heights(self) -> int:
        """Taps of a column."""
        return self.geometry.taps // self.geometry.kernel[-1]

    def _work(self, pixels: int) -> float:
        """Elements that are folded for so many neighbours."""
        columns, last = self._shared(pixels), self.geometry.kernel[-1]
        direct = pixels * self._heights * last
        return direct if columns is None else min(direct, columns * self._heights + pixels * last)

    def _row_work(self) -> float:
        """Elements that are folded for a row if its columns lie in memory; storing one counts like folding one."""
        return self.columns * (self._heights + 1) + self.width * self.geometry.kernel[-1]

    def _tile(self) -> tuple[int, float]:
        """How many pixels stay in registers, and the elements that are folded for a row of the output."""

        def work(pixels: int) -> float:
            full, rest = divmod(self.width, pixels)
            return full * self._work(pixels) + (self._work(rest) if rest else 0)

        usual = min(max(self.width, 1), self.ctx.target.vector_registers // 4)
        sharing = [n for n in range(1, self.width + 1) if self._shared(n) is not None]
        best = min((usual, *sharing), key=lambda n: (work(n), -n))
        return (best, work(best)) if work(best) < _SAVES * work(usual) else (usual, work(usual))

    # ---- loops

    def build(self) -> Lowered:
        *outer, width = self.ctx.output.spatial
        if not width:
            return self.ctx.finished()
        if outer:
            with self.ctx.image_section(self.ctx.output.blocks, outer) as (n, c, at):
                rows = tuple(at)
                if self.row is not None:
                    size = min(self.columns, self.ctx.target.vector_registers // 4)
                    self.run(self.columns, size, Affine.of(0), partial(self.fill_row, self.row, (n, c), rows))
                self.run(width, self.size, Affine.of(0), partial(self.pixels, (n, c), rows))
            return self.ctx.finished()
        full, rest = divmod(width, _TASK_PIXELS)
        head = {"n": self.ctx.output.shape[0], "c": self.ctx.output.blocks}
        for first, count, length in ((0, full, _TASK_PIXELS), (full * _TASK_PIXELS, 1, rest)):
            with self.b.section(**head, w=count) as (n, c, w):
                self.run(length, self.size, w * length + first, partial(self.pixels, (n, c), ()))
        return self.ctx.finished()

    def run(self, extent: int, size: int, first: Affine, body: Callable[[Affine, int, Var], None]) -> None:
        """`body` for tiles of `size` places of the last dimension, and for what is left."""
        with self.b.serial("s", extent // size) as s, self.b.vector("v", self.block) as v:
            body(first + s * size, size, v)
        if extent % size:
            with self.b.vector("v", self.block) as v:
                body(first + extent // size * size, extent % size, v)

    # ---- windows

    def pixels(self, head: Head, rows: Rows, start: Affine, count: int, lane: Var) -> None:
        """`count` neighbouring results."""
        acc = self.folded(head, rows, start, count, lane)
        with self.b.unrolled("t", count) as t:
            places = (*rows, start + t)
            point: Point = (*head, *places, lane)
            self.ctx.write(point, self.ctx.finish(self.scale(acc[t], places), point))

    def folded(self, head: Head, rows: Rows, start: Affine, count: int, lane: Var) -> Tile:
        geo = self.geometry
        stride, dilation = geo.strides[-1], geo.dilations[-1]
        if (row := self.row) is not None:

            def from_row(t: Var, tap: Sequence[IndexLike]) -> Expr:
                return row[(start + t) * stride + Affine.of(tap[0]) * dilation, lane]

            return self.fold.taps(self.b, geo.kernel[-1:], count, from_row)
        shared = self._shared(count)
        if shared is not None and self._work(count) < count * geo.taps:
            columns = self.folded_columns(head, rows, start * stride, shared, lane)
            acc = self.b.tile("acc", count, dtype=self.fold.dtype)
            with self.b.unrolled("t", count) as t:
                self.fold.into(self.b, acc[t], [columns[t * stride + k * dilation] for k in range(geo.kernel[-1])])
            return acc

        def from_memory(t: Var, tap: Sequence[IndexLike]) -> Expr:
            column = (start + t) * stride + Affine.of(tap[-1]) * dilation
            return self.seen(head, rows, tap[:-1], column, lane)

        return self.fold.taps(self.b, geo.kernel, count, from_memory)

    def fill_row(self, row: Buffer, head: Head, rows: Rows, start: Affine, count: int, lane: Var) -> None:
        """Columns of the padded input, each folded, into the row."""
        acc = self.folded_columns(head, rows, start, count, lane)
        with self.b.unrolled("t", count) as t:
            self.b.store(row[start + t, lane], acc[t])

    def folded_columns(self, head: Head, rows: Rows, start: Affine, count: int, lane: Var) -> Tile:
        """`count` columns of the padded input folded over all dimensions but the last."""
        return self.fold.taps(
            self.b, self.geometry.kernel[:-1], count, lambda t, tap: self.seen(head, rows, tap, start + t, lane)
        )

    def seen(self, head: Head, rows: Rows, tap: Sequence[IndexLike], column: Affine, lane: Var) -> Expr:
        """What the windows in the rows see in a column of the padded input through a tap of the other dimensions."""
        geo = self.geometry
        spatial = [
            place * geo.strides[d] + Affine.of(k) * geo.dilations[d] - geo.before[d]
            for d, (place, k) in enumerate(zip(rows, tap, strict=True))
        ]
        return self.x[(*head, *spatial, column - geo.before[-1], lane)]
