"""Pooling on plain tensors: rows of the input are folded onto each other, then the windows along the folded rows.

The lanes are neighbouring pixels. What lies between the two steps is a few rows in the first-level cache, with room for
the padding around them, so that the input needs none: rows of the input that a window does not meet are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product

from glulam.compiler.kernels.context import Context, Lowered, Point, vectors
from glulam.compiler.kernels.nest import even_length, overlapping_vectors
from glulam.compiler.kernels.ranges import pieces
from glulam.compiler.kernels.windows import Fold, PoolGeometry, Scale, Window
from glulam.compiler.loops.builder import Builder
from glulam.compiler.loops.expr import Expr
from glulam.compiler.loops.index import Affine, IndexLike, Var
from glulam.compiler.loops.ir import Buffer

Head = tuple[Var, Var]

_ROWS_BYTES = 12 << 10  # of the folded rows that one iteration works on


@dataclass(frozen=True)
class _Run:
    """Neighbouring places of a dimension whose windows meet the input by the same taps."""

    first: int
    count: int
    tap: int
    taps: int

    def moved(self, by: int) -> _Run:
        return _Run(self.first + by, self.count, self.tap, self.taps)


@dataclass(frozen=True)
class _Chunks:
    """`count` equal chunks of rows, the first of which begins at `first`; `runs` count from a chunk's beginning."""

    first: int
    count: int
    length: int
    runs: tuple[_Run, ...]


class PlainPool:
    """One pool; the geometry gets a first dimension of one row if there is only one."""

    def __init__(self, ctx: Context, window: Window) -> None:
        self.ctx = ctx
        self.b: Builder = ctx.builder
        self.fold = Fold(window, ctx.operand(0).type.dtype)
        self.scale = Scale(ctx, self.fold)
        self.x = ctx.input_view(0)
        self.ctx.output_view()
        self.lanes = ctx.target.vector_bytes // self.fold.dtype.size
        self.flat = len(ctx.output.spatial) == 1
        one = (1,) if self.flat else ()
        geo = window.geometry
        self.geometry = PoolGeometry(
            one + geo.kernel, one + geo.strides, one + geo.dilations, (0,) * len(one) + geo.before
        )
        self.inputs, self.outputs = one + ctx.operand(0).spatial, one + ctx.output.spatial
        self.left = -(-self.geometry.before[-1] // self.lanes) * self.lanes  # so that folded pixels are aligned

    def build(self) -> Lowered:
        *_, rows, width = self.outputs
        if not rows or not width:
            return self.ctx.finished()
        columns = self.left - self.geometry.before[-1] + self.geometry.span(-1, width)
        pitch = -(-columns // self.lanes) * self.lanes
        length = even_length(rows, min(rows, max(1, _ROWS_BYTES // (pitch * self.fold.dtype.size))))
        folded = self.b.scratch("rows", (length, pitch), self.fold.dtype)
        outer = [self._runs(d, 0, extent) for d, extent in enumerate(self.outputs[:-2])]
        for volume, chunks in product(product(*outer), self._chunks(rows, length)):
            self._section(folded, volume, chunks)
        return self.ctx.finished()

    # ---- which taps meet the input

    def _met(self, d: int, place: int) -> tuple[int, int]:
        """The first tap that meets the input, and how many do."""
        geo = self.geometry
        start = place * geo.strides[d] - geo.before[d]
        met = [k for k in range(geo.kernel[d]) if 0 <= start + k * geo.dilations[d] < self.inputs[d]]
        return (met[0], len(met)) if met else (0, 0)

    def _runs(self, d: int, first: int, count: int) -> list[_Run]:
        """Runs that cover `count` places from the first one."""
        runs: list[_Run] = []
        for place in range(first, first + count):
            met = self._met(d, place)
            if runs and (runs[-1].tap, runs[-1].taps) == met:
                runs[-1] = _Run(runs[-1].first, runs[-1].count + 1, *met)
            else:
                runs.append(_Run(place, 1, *met))
        return runs

    def _chunks(self, rows: int, length: int) -> list[_Chunks]:
        """Chunks of rows, neighbours together that are alike."""
        found: list[_Chunks] = []
        for first, times, size in pieces(rows, length):
            for begin in range(first, first + times * size, size):
                runs = tuple(run.moved(-begin) for run in self._runs(len(self.outputs) - 2, begin, size))
                last = found[-1] if found else None
                if last is not None and (last.length, last.runs) == (size, runs):
                    found[-1] = _Chunks(last.first, last.count + 1, size, runs)
                else:
                    found.append(_Chunks(begin, 1, size, runs))
        return found

    # ---- loops

    def _section(self, folded: Buffer, volume: Sequence[_Run], chunks: _Chunks) -> None:
        n, c = self.ctx.output.shape[:2]
        extents = {f"o{d}": run.count for d, run in enumerate(volume)}
        with self.b.section(n=n, c=c, **extents, h=chunks.count) as (image, channel, *others, h):
            head, begin = (image, channel), h * chunks.length + chunks.first
            places = [o + run.first for o, run in zip(others, volume, strict=True)]
            self._pad(folded, chunks.length)
            for run in chunks.runs:
                with self.b.serial("r", run.count) as r:
                    at = r + run.first
                    self._fold_row(folded, at, head, [*places, begin + at], [*volume, run])
            with self.b.serial("r", chunks.length) as r:
                self._windows(folded, Affine.of(r), head, [*places, begin + r])

    def _pad(self, folded: Buffer, rows: int) -> None:
        """The neutral value beside the folded rows."""
        before, first = self.geometry.before[-1], self.left + self.inputs[-1]
        for start, end in ((self.left - before, self.left), (first, folded.shape[1])):
            if start >= end:
                continue

            def store(p: Affine, start: int = start, r: Affine | Var | int = 0) -> None:
                self.b.store(folded[r, p + start], self.fold.neutral)

            with self.b.serial("r", rows) as r:
                vectors(self.b, end - start, self.lanes, partial(store, r=r))

    def _fold_row(
        self, folded: Buffer, row: Affine, head: Head, places: Sequence[Affine], runs: Sequence[_Run]
    ) -> None:
        """The rows of the input that windows in these places meet, folded into one."""
        geo, width = self.geometry, min(self.inputs[-1], folded.shape[1] - self.left)

        def seen(tap: Sequence[IndexLike], column: Affine) -> Expr:
            spatial = [
                place * geo.strides[d] + (Affine.of(k) + run.tap) * geo.dilations[d] - geo.before[d]
                for d, (place, k, run) in enumerate(zip(places, tap, runs, strict=True))
            ]
            return self.x[(*head, *spatial[self.flat :], column)]

        def vector(start: Affine, v: Var) -> None:
            kernel = tuple(run.taps for run in runs)
            value: Expr = self.fold.neutral
            if 0 not in kernel:
                value = self.fold.taps(self.b, kernel, 1, lambda t, tap: seen(tap, start + t + v))[0]
            self.b.store(folded[row, start + v + self.left], value)

        overlapping_vectors(self.b, width, self.lanes, vector)

    def _windows(self, folded: Buffer, row: Affine, head: Head, places: Sequence[Affine]) -> None:
        """A row of results."""
        geo, width = self.geometry, self.outputs[-1]
        shift = self.left - geo.before[-1]

        def pixels(place: Affine) -> None:
            column = place * geo.strides[-1] + shift
            acc = self.fold.taps(
                self.b,
                geo.kernel[-1:],
                1,
                lambda t, tap: folded[row, column + t + Affine.of(tap[0]) * geo.dilations[-1]],
            )
            spatial = [*places, place][self.flat :]
            point: Point = (*head, *spatial)
            self.ctx.write(point, self.ctx.finish(self.scale(acc[0], spatial), point))

        if self.ctx.epilogue.inputs:  # whose memory may be the output's: each pixel is written once
            vectors(self.b, width, self.lanes, pixels)
        else:
            overlapping_vectors(self.b, width, self.lanes, lambda start, v: pixels(start + v))
