"""Reductions: many elements into one, by any of the kinds that `Reduce` knows.

Over all spatial dimensions the lanes are channels. Otherwise tensors are plain, and runs of neighbouring dimensions
that are all reduced or all kept count as one: then the lanes run along the innermost of them. A reduction is never
shared between iterations, and long sums are taken in parts, which keeps rounding errors small.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from glulam.compiler.graph.types import DType
from glulam.compiler.kernels.context import Context, Lowered, View
from glulam.compiler.kernels.operand import Operand
from glulam.compiler.kernels.ranges import ENOUGH, pieces
from glulam.compiler.loops import expr as ex
from glulam.compiler.loops.expr import Const, Expr
from glulam.compiler.loops.index import Affine, IndexLike
from glulam.compiler.loops.ir import LaneReduce, Tile

Axes = tuple[int, ...]
Place = Callable[[list[IndexLike], int], Expr]

_ROW = 64  # elements summed in a row before a partial sum is put aside
_COLUMNS = 4  # vectors of results that are computed together


@dataclass(frozen=True)
class Kind:
    """How elements are folded: `op` over `before(x, column)`, then `after(total, number of elements)`."""

    op: str
    before: Callable[[Expr, int], Expr] = lambda x, column: x
    after: Callable[[Expr, int], Expr] = lambda total, count: total

    def identity(self, dtype: DType) -> Const:
        """What nothing at all reduces to."""
        if self.op in ("add", "mul"):
            return Const(0 if self.op == "add" else 1, dtype)
        if dtype.is_float:
            return Const(-math.inf if self.op == "maximum" else math.inf, dtype)
        bits = dtype.size * 8
        low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if dtype.is_signed else (0, (1 << bits) - 1)
        return Const(low if self.op == "maximum" else high, dtype)


def _square(x: Expr, _: int) -> Expr:
    return x * x


def _absolute(x: Expr, _: int) -> Expr:
    return ex.absolute(x)


def _mean(total: Expr, count: int) -> Expr:
    return total * (1.0 / count) if count else total / 0.0


KINDS: dict[str, Kind] = {
    "sum": Kind("add"),
    "mean": Kind("add", after=_mean),
    "max": Kind("maximum"),
    "min": Kind("minimum"),
    "prod": Kind("mul"),
    "l1": Kind("add", _absolute),
    "l2": Kind("add", _square, lambda total, _: ex.sqrt(total)),
    "sum_square": Kind("add", _square),
    "log_sum": Kind("add", after=lambda total, _: ex.log(total)),
}
"""Every kind that takes one pass; log_sum_exp takes the maximum first."""


def build(ctx: Context, kind: str, axes: Axes, keepdims: bool) -> Lowered:
    """The kernel. Input 0 may be in channel blocks if the axes are exactly its spatial dimensions."""
    if ctx.operand(0).layout.block > 1:
        return _Spatial(ctx, kind, keepdims).build()
    return _Plain(*_merged(ctx, axes, keepdims), kind).build()


class _Reduction:
    """Passes over elements into a single register, whatever the loops around them are."""

    def __init__(self, ctx: Context, kind: str) -> None:
        self.ctx, self.b, self.kind = ctx, ctx.builder, kind
        self.x: View = ctx.input_view(0)
        self.dtype = self.x.operand.type.dtype
        self.count = 1
        ctx.output_view()

    def results(self, columns: int, passes: Callable[[Kind], list[Expr]]) -> list[Expr]:
        """The reduced values of some columns; `passes` folds their elements by a kind that takes one pass."""
        if self.kind != "log_sum_exp":
            kind = KINDS[self.kind]
            return [kind.after(total, self.count) for total in passes(kind)]
        shift = self.b.tile("shift", columns, dtype=self.dtype)
        for u, largest in enumerate(passes(KINDS["max"])):
            self.b.store(shift[u], ex.where(ex.absolute(largest) < math.inf, largest, 0.0))
        totals = passes(Kind("add", lambda x, u: ex.exp(x - shift[u])))
        return [ex.log(total) + shift[u] for u, total in enumerate(totals)]

    def start(self, tile: Tile, count: int, kind: Kind) -> None:
        with self.b.unrolled("t", count) as t:
            self.b.store(tile[t], kind.identity(self.dtype))

    def combined(self, parts: list[Expr], kind: Kind) -> Expr:
        """All parts folded pairwise."""
        while len(parts) > 1:
            half = len(parts) // 2
            folded = [ex.binary(kind.op, x, y) for x, y in zip(parts[:half], parts[half : 2 * half], strict=True)]
            parts = [*folded, *parts[2 * half :]]
        return parts[0]

    def elements(
        self, kind: Kind, outer: Sequence[int], inner: int, load: Place, columns: int = 1, most: int = 1
    ) -> list[Expr]:
        """Folds load([*outer, i], column) over all places, for each column. Long sums are added up in parts.

        The order depends on the `most` columns that there may be, not on how many there are.
        """
        b = self.b
        width = max(min(inner, self.ctx.target.vector_registers // (4 * most)), 1)
        rows, rest = divmod(inner, width)
        size = width * columns
        acc = b.tile("acc", size, dtype=self.dtype)
        self.start(acc, size, kind)
        apart = kind.op == "add" and self.dtype.is_float and rows > 1 and math.prod(outer) * rows > _ROW
        part = -(-rows // -(-rows // _ROW)) if apart else max(rows, 1)

        def fold(into: Tile, count: int, place: list[IndexLike], first: Affine) -> None:
            for t, u in itertools.product(range(count), range(columns)):
                element = kind.before(load([*place, first + t], u), u)
                b.store(into[t * columns + u], ex.binary(kind.op, into[t * columns + u], element))

        with ExitStack() as stack:
            place: list[IndexLike] = [stack.enter_context(b.serial("r", extent)) for extent in outer]
            for begin, parts, length in pieces(rows, part):
                with b.serial("p", parts) as p:
                    into, first = acc, (p * length + begin) * width
                    if apart:
                        into = b.tile("part", size, dtype=self.dtype)
                        self.start(into, size, kind)
                    with b.serial("i", length) as i:
                        fold(into, width, place, first + i * width)
                    if apart:
                        with b.unrolled("t", size) as t:
                            b.store(acc[t], acc[t] + into[t])
            if rest:
                fold(acc, rest, place, Affine.of(rows * width))
        return [self.combined([acc[t * columns + u] for t in range(width)], kind) for u in range(columns)]


class _Spatial(_Reduction):
    """Over all spatial dimensions of a tensor in channel blocks; the result is blocked, or plain if of rank 2."""

    def __init__(self, ctx: Context, kind: str, keepdims: bool) -> None:
        super().__init__(ctx, kind)
        self.keepdims = keepdims
        self.count = math.prod(self.x.operand.spatial)

    def build(self) -> Lowered:
        x, block = self.x.operand, self.x.operand.layout.block
        channels = x.shape[1]
        whole = self.ctx.output.layout.block > 1 or channels % block == 0
        full = x.blocks if whole else channels // block
        for first, count, lanes in ((0, full, block), (full, x.blocks - full, channels - full * block)):
            with self.b.section(n=x.shape[0], c=count) as (n, c), self.b.vector("v", max(lanes, 1)) as v:
                self.channel((n, c + first), v)
        return self.ctx.finished()

    def channel(self, head: tuple[IndexLike, Affine], lane: IndexLike) -> None:
        *outer, inner = self.x.operand.spatial

        def load(place: list[IndexLike], _: int) -> Expr:
            return self.x[(*head, *place, lane)]

        (value,) = self.results(1, lambda kind: self.elements(kind, outer, inner, load))
        spatial = (0,) * len(self.x.operand.spatial) if self.keepdims else ()
        if self.ctx.output.layout.block > 1:
            point: tuple[IndexLike, ...] = (*head, *spatial, lane)
        else:
            block = self.x.operand.layout.block
            point = (head[0], head[1] * block + Affine.of(lane), *spatial)
        self.ctx.write(point, self.ctx.finish(value, point))


class _Plain(_Reduction):
    """Over any dimensions of a plain tensor."""

    def __init__(self, ctx: Context, axes: Axes, keepdims: bool, kind: str) -> None:
        super().__init__(ctx, kind)
        self.axes, self.keepdims = axes, keepdims
        self.shape = self.x.operand.shape
        self.count = math.prod(self.shape[axis] for axis in axes)
        self.lanes = ctx.target.vector_bytes // self.dtype.size

    def build(self) -> Lowered:
        if not self.shape:
            with self.b.section(one=1):
                (value,) = self.results(1, lambda kind: [kind.before(self.x[()], 0)])
                self.ctx.write((), self.ctx.finish(value, ()))
        elif len(self.shape) - 1 in self.axes:
            self.along_reduced()
        else:
            self.along_kept()
        return self.ctx.finished()

    def along_reduced(self) -> None:
        """The lanes share one result: they are folded onto each other in the end."""
        inner = self.shape[-1]
        kept = {f"d{d}": n for d, n in enumerate(self.shape) if d not in self.axes}
        outer = [self.shape[axis] for axis in self.axes[:-1]]
        with self.b.section(**kept or {"one": 1}) as at:
            where: tuple[IndexLike, ...] = at if kept else ()

            def passes(kind: Kind) -> list[Expr]:
                total = self.b.tile("total", 1, dtype=self.dtype)
                self.start(total, 1, kind)
                for first, count, lanes in pieces(inner, self.lanes):
                    with self.b.vector("v", lanes) as v:
                        load = self.loader(where, v + first, lanes)
                        folded = LaneReduce(kind.op, *self.elements(kind, outer, count, load))
                        self.b.store(total[0], ex.binary(kind.op, total[0], folded))
                return [total[0]]

            point = self.point(where, [0] * len(self.axes)) if self.keepdims else where
            (value,) = self.results(1, passes)
            self.ctx.write(point, self.ctx.finish(value, point))

    def loader(self, where: tuple[IndexLike, ...], start: Affine, lanes: int) -> Place:
        """Loads every so many elements from `start` of the last dimension, which is reduced."""

        def load(place: list[IndexLike], _: int) -> Expr:
            return self.x[self.point(where, [*place[:-1], start + Affine.of(place[-1]) * lanes])]

        return load

    def along_kept(self) -> None:
        """Each lane has a result of its own; neighbouring vectors are taken together."""
        kept = {f"d{d}": n for d, n in enumerate(self.shape[:-1]) if d not in self.axes}
        full, rest = divmod(self.shape[-1], self.lanes)
        columns = _COLUMNS if full * math.prod(kept.values()) >= _COLUMNS * ENOUGH else 1
        first = 0
        left = full % columns
        for count, together, lanes in (
            (full // columns, columns, self.lanes),
            (min(left, 1), left, self.lanes),
            (min(rest, 1), 1, rest),
        ):
            if count:
                with self.b.section(**kept, w=count) as (*at, w), self.b.vector("v", lanes) as v:
                    self.columns(tuple(at), w * (together * lanes) + v + first, together, lanes)
            first += count * together * lanes

    def columns(self, at: tuple[IndexLike, ...], start: Affine, count: int, lanes: int) -> None:
        """Results at `start` and at vectors that follow it."""
        reduced = [self.shape[axis] for axis in self.axes] or [1]

        def load(place: list[IndexLike], u: int) -> Expr:
            return self.x[self.point((*at, start + u * lanes), place if self.axes else [])]

        def passes(kind: Kind) -> list[Expr]:
            return self.elements(kind, reduced[:-1], reduced[-1], load, count, _COLUMNS)

        values = self.results(count, passes)
        for u, value in enumerate(values):
            where = (*at, start + u * lanes)
            point = self.point(where, [0] * len(self.axes)) if self.keepdims else where
            self.ctx.write(point, self.ctx.finish(value, point))

    def point(self, kept: Sequence[IndexLike], reduced: Sequence[IndexLike]) -> tuple[IndexLike, ...]:
        """Both sorts of coordinates in the order of the dimensions."""
        rest, folded = iter(kept), iter(reduced)
        return tuple(next(folded) if d in self.axes else next(rest) for d in range(len(self.shape)))


# ---- fewer dimensions


def _merged(ctx: Context, axes: Axes, keepdims: bool) -> tuple[Context, Axes, bool]:
    """The same problem with runs of reduced and of kept dimensions as one each, if memory and epilogue allow it."""
    operands = [o for o in (*ctx.inputs, *ctx.outputs) if o is not None]
    same = all(o.type.size == 1 or o.shape == ctx.output.shape for o in (ctx.operand(i) for i in ctx.epilogue.inputs))
    if not same or any(not o.layout.is_plain or o.strides is not None for o in operands):
        return ctx, axes, keepdims
    shape = ctx.operand(0).shape
    runs: list[tuple[bool, int]] = []
    for d, extent in enumerate(shape):
        reduced = d in axes
        if extent == 1:
            continue
        if runs and runs[-1][0] == reduced:
            runs[-1] = (reduced, runs[-1][1] * extent)
        else:
            runs.append((reduced, extent))
    merged = tuple(extent for _, extent in runs)
    result = tuple(1 if reduced else extent for reduced, extent in runs)
    inputs: list[Operand | None] = list(ctx.inputs)
    inputs[0] = ctx.operand(0).reshaped(merged)
    for i in ctx.epilogue.inputs:
        operand = ctx.operand(i)
        inputs[i] = operand.reshaped(result if operand.type.size != 1 or not result else (1,) * len(result))
    outputs = [ctx.output.reshaped(result)]
    found = tuple(i for i, (reduced, _) in enumerate(runs) if reduced)
    return Context(ctx.name, ctx.target, inputs, outputs, ctx.epilogue), found, True
