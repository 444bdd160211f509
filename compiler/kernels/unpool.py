"""Maxima of windows together with where they were found, and the way back: unpooling. Tensors are plain."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import reduce
from operator import add

import numpy as np

from glulam.compiler.graph.types import DType, Shape
from glulam.compiler.kernels.context import Context, Lowered
from glulam.compiler.kernels.gemm_operands import zero
from glulam.compiler.kernels.nest import overlapping_vectors
from glulam.compiler.kernels.windows import PoolGeometry
from glulam.compiler.loops import expr as ex
from glulam.compiler.loops.expr import Cast, Const, Expr
from glulam.compiler.loops.index import Affine, Bounded, Var
from glulam.compiler.loops.ir import Buffer, IndexValue

_NARROW = 1 << 31  # places below it are counted in 32 bits, so that as many fit into a vector as elements do


@dataclass(frozen=True)
class _Places:
    """Counts the elements of planes of `size`, `strides` for each coordinate, in integers as narrow as they may be.

    first: for each dimension, what the first element of each window counts along it.
    """

    size: int
    strides: Shape
    dtype: DType
    first: Sequence[Buffer]

    @classmethod
    def of(cls, ctx: Context, first: Sequence[Sequence[int]], strides: Shape) -> _Places:
        """For the planes of input 0; `first` are coordinates."""
        size = math.prod(ctx.operand(0).spatial)
        dtype = DType.I32 if size < _NARROW else DType.I64
        rows = [
            ctx.constant(np.array(row, np.int64).astype(dtype.numpy) * dtype.numpy.type(stride), "f")
            for row, stride in zip(first, strides, strict=True)
        ]
        return cls(size, strides, dtype, rows)

    def of_first(self, window: Sequence[Affine]) -> Expr:
        """The place of the first element of a window."""
        parts: list[Expr] = [row[coordinate] for row, coordinate in zip(self.first, window, strict=True)]
        return reduce(add, parts)

    def of_element(self, coordinates: Sequence[Affine]) -> Expr:
        place = Affine.of(0)
        for coordinate, stride in zip(coordinates, self.strides, strict=True):
            place = place + coordinate * stride
        wide: Expr = IndexValue(place)
        return wide if self.dtype is DType.I64 else Cast(wide, self.dtype)

    def whole(self, place: Expr, planes: Affine | None) -> Expr:
        """A place in a plane, or in a tensor of which so many `planes` come before, in 64 bits."""
        wide = place if self.dtype is DType.I64 else Cast(place, DType.I64)
        return wide if planes is None else wide + IndexValue(planes * self.size)


def maximum_and_place(
    ctx: Context, geometry: PoolGeometry, first: Sequence[Sequence[int]], strides: Shape, per_plane: bool
) -> Lowered:
    """Outputs: the largest element of each window of input 0, which is padded with -inf; and its place.

    The place counts `strides` elements per spatial coordinate, with those of the planes before it unless `per_plane`.
    first: for each spatial dimension and window the coordinate of its first element, where a window of nothing but -inf
    is said to have its maximum. NaN wins over all, the last one of several.
    """
    x, y, result = ctx.input_view(0), ctx.output_view(0), ctx.output_view(1)
    if not ctx.output.type.size:
        return ctx.finished()
    b, dtype, places = ctx.builder, ctx.output.type.dtype, _Places.of(ctx, first, strides)
    batch, channels, *outer, width = ctx.output.shape

    def pixel(n: Var, c: Var, window: Sequence[Affine]) -> None:
        best, place = b.tile("best", dtype=dtype), b.tile("index", dtype=places.dtype)
        b.store(best[()], Const(-math.inf, dtype))
        b.store(place[()], places.of_first(window))
        with ExitStack() as stack:
            taps = [stack.enter_context(b.serial("k", extent)) for extent in geometry.kernel]
            element = geometry.input_place(window, taps)
            value, wins = b.tile("value", dtype=dtype), b.tile("wins", dtype=DType.BOOL)
            b.store(value[()], x[(n, c, *element)])
            b.store(wins[()], (value[()] > best[()]) | ex.not_equal(value[()], value[()]))
            b.store(best[()], ex.where(wins[()], value[()], best[()]))
            b.store(place[()], ex.where(wins[()], places.of_element(element), place[()]))
        b.store(y[(n, c, *window)], best[()])
        b.store(result[(n, c, *window)], places.whole(place[()], None if per_plane else n * channels + c))

    with b.section(n=batch, c=channels, **{f"o{d}": extent for d, extent in enumerate(outer)}) as (n, c, *rows):
        row, lanes = [*map(Affine.of, rows)], ctx.target.vector_bytes // dtype.size
        overlapping_vectors(b, width, lanes, lambda start, v: pixel(n, c, [*row, start + v]))
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


def _rows(ctx: Context, i: int, shape: Shape) -> Buffer:
    data = ctx.data(i)
    return ctx.memory("input", i, shape) if data is None else ctx.constant(data.reshape(shape), "c")
