"""Maxima of windows together with where they were found, and the way back: unpooling. Tensors are plain."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack

import numpy as np

from glulam.compiler.graph.types import DType, Shape
from glulam.compiler.kernels.context import Context, Lowered
from glulam.compiler.kernels.gemm_operands import zero
from glulam.compiler.kernels.nest import overlapping_vectors
from glulam.compiler.kernels.windows import PoolGeometry
from glulam.compiler.loops import expr as ex
from glulam.compiler.loops.expr import Cast, Const, Expr
from glulam.compiler.loops.index import Affine, Bounded, Var
from glulam.compiler.loops.ir import IndexValue

_NARROW = 1 << 31  # places below it are counted in 32 bits, so that as many fit into a vector as elements do


def maximum_and_place(
    ctx: Context, geometry: PoolGeometry, first: Sequence[Sequence[int]], strides: Shape, per_plane: bool
) -> Lowered:
    """Outputs: the largest element of each window of input 0, which is padded with -inf; and its place.

    The place counts `strides` elements per spatial coordinate, with those of the planes before it unless `per_plane`.
    first: for each spatial dimension and window the coordinate of its first element, where a window of nothing but -inf
    is said to have its maximum. NaN wins over all, the last one of several.
    """
    x, y, places = ctx.input_view(0), ctx.output_view(0), ctx.output_view(1)
    if not ctx.output.type.size:
        return ctx.finished()
    b, spatial = ctx.builder, ctx.operand(0).spatial
    size = math.prod(spatial)
    counter = DType.I32 if size < _NARROW else DType.I64
    tables = [
        ctx.constant(np.array(row, np.int64).astype(counter.numpy) * counter.numpy.type(stride), "f")
        for row, stride in zip(first, strides, strict=True)
    ]
    dtype = ctx.output.type.dtype
    *outer, width = ctx.output.spatial
    lanes = ctx.target.vector_bytes // dtype.size
    channels = ctx.output.shape[1]

    def counted(place: Affine) -> Expr:
        wide: Expr = IndexValue(place)
        return wide if counter is DType.I64 else Cast(wide, counter)

    def pixel(head: tuple[Var, Var], rows: Sequence[Var], start: Affine, v: Var) -> None:
        at = [*map(Affine.of, rows), start + v]
        best, index = b.tile("best", dtype=dtype), b.tile("index", dtype=counter)
        b.store(best[()], Const(-math.inf, dtype))
        begin: Expr = tables[0][at[0]]
        for table, coordinate in zip(tables[1:], at[1:], strict=True):
            begin = begin + table[coordinate]
        b.store(index[()], begin)
        with ExitStack() as stack:
            taps = [stack.enter_context(b.serial("k", extent)) for extent in geometry.kernel]
            seen = [
                o * s + Affine.of(k) * d - before
                for o, s, k, d, before in zip(
                    at, geometry.strides, taps, geometry.dilations, geometry.before, strict=True
                )
            ]
            flat = Affine.of(0)
            for coordinate, stride in zip(seen, strides, strict=True):
                flat = flat + coordinate * stride
            value, wins = b.tile("value", dtype=dtype), b.tile("wins", dtype=DType.BOOL)
            b.store(value[()], x[(*head, *seen)])
            b.store(wins[()], (value[()] > best[()]) | ex.not_equal(value[()], value[()]))
            b.store(best[()], ex.where(wins[()], value[()], best[()]))
            b.store(index[()], ex.where(wins[()], counted(flat), index[()]))
        b.store(y[(*head, *at)], best[()])
        place: Expr = index[()] if counter is DType.I64 else Cast(index[()], DType.I64)
        if not per_plane:
            place = place + IndexValue((head[0] * channels + head[1]) * size)
        b.store(places[(*head, *at)], place)

    extents = {"n": ctx.output.shape[0], "c": channels} | {f"o{d}": extent for d, extent in enumerate(outer)}
    with b.section(**extents) as (n, c, *rows):
        overlapping_vectors(b, width, lanes, lambda start, v: pixel((n, c), rows, start, v))
    return ctx.finished()


def scatter_planes(ctx: Context, per_plane: bool) -> Lowered:
    """Input 0 to the places of input 1 in planes of zeros; what would leave its own plane is dropped."""
    planes, size = math.prod(ctx.output.shape[:2]), math.prod(ctx.output.spatial)
    count = math.prod(ctx.operand(0).spatial)
    if not planes * size:
        return ctx.finished()
    b, dtype = ctx.builder, ctx.output.type.dtype
    x, places = (_rows(ctx, i, (planes, count)) for i in (0, 1))
    y = ctx.memory("output", 0, (planes, size))
    lanes = ctx.target.vector_bytes // y.dtype.size
    with b.section(p=planes) as (p,):
        overlapping_vectors(b, size, lanes, lambda start, v: b.store(y[p, start + v], zero(y.dtype)))
        with b.serial("i", count) as i:
            index = b.tile("index", dtype=DType.I64)
            wide: Expr = places[p, i] if places.dtype is DType.I64 else Cast(places[p, i], DType.I64)
            b.store(index[()], wide if per_plane else wide - IndexValue(p * size))
            place = y[p, Bounded(index[()], size)]
            inside = (index[()] >= 0) & (index[()] < size)
            b.store(place, ex.where(inside, x[p, i], place))
    assert dtype is ctx.operand(0).type.dtype
    return ctx.finished()


def _rows(ctx: Context, i: int, shape: Shape):  # type: ignore[no-untyped-def]
    data = ctx.data(i)
    return ctx.memory("input", i, shape) if data is None else ctx.constant(data.reshape(shape), "c")
