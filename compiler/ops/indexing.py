"""Ops that read or write elements at places given by index tensors (int32 or int64).

Negative indices count from the end. An index outside its axis, which ONNX leaves undefined, means the nearest element.
Several updates of one place are applied in the order of the indices.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from glulam.compiler.graph.op import Case, Op
from glulam.compiler.graph.types import Array, DType, Shape, TensorType, f32
from glulam.compiler.kernels import indexing
from glulam.compiler.kernels.context import Context, Lowered
from glulam.compiler.ops.inputs import (
    ANY,
    INDICES,
    NUMBERS,
    boolean,
    check_axis,
    check_dtype,
    i64,
    required,
    same_dtype,
)

_UPDATE: dict[str, Callable[[Any, Any, Any], None]] = {
    "none": lambda y, at, updates: y.__setitem__(at, updates),
    "add": np.add.at,
    "mul": np.multiply.at,
    "max": np.maximum.at,
    "min": np.minimum.at,
}


def _places(index: Array, extent: int) -> npt.NDArray[np.int64]:
    wide = index.astype(np.int64)
    return np.clip(np.where(wide < 0, wide + extent, wide), 0, max(extent - 1, 0))


def _along(indices: Array, axis: int, extent: int) -> tuple[npt.NDArray[np.int64], ...]:
    """The places of elements that are like those of `indices` but for the axis, where the index says."""
    grid: list[npt.NDArray[np.int64]] = list(np.indices(indices.shape, np.int64))
    grid[axis] = _places(indices, extent)
    return tuple(grid)


def _named(indices: Array, extents: Shape) -> tuple[npt.NDArray[np.int64], ...]:
    """The tuples in the last axis as one array per dimension."""
    return tuple(_places(indices[..., d], extent) for d, extent in enumerate(extents))


@dataclass(frozen=True)
class GatherElements(Op):
    """data, indices -> data[i, ..., indices[i, ..., k], ...]: the output has the shape of the indices.

    Indices have the rank of data, and extents up to those of data but for the axis.
    """

    axis: int

    name = "gather_elements"

    def infer(self, *inputs: TensorType | None) -> tuple[TensorType, ...]:
        data, indices = required(self, inputs, 2)
        check_dtype(self, indices.dtype, INDICES)
        _check_elements(self, data, indices, self.axis)
        return (data.with_shape(indices.shape),)

    def lower(self, ctx: Context) -> Lowered:
        return indexing.gather_elements(ctx, self.axis)

    def reference(self, *inputs: Array | None) -> tuple[Array, ...]:
        data, indices = required(self, inputs, 2)
        return (data[_along(indices, self.axis, data.shape[self.axis])],)

    @classmethod
    def cases(cls) -> Sequence[Case]:
        return (
            Case(cls(1), (f32(3, 5), np.array([[0, -1, 4], [2, 2, -5], [1, 0, 3]]))),
            Case(cls(0), (f32(7, 13), _indices(-7, 6, 3, 13))),
            Case(cls(1), (f32(2, 33, 17), _indices(-33, 32, 2, 40, 17))),
            Case(cls(2), (f32(2, 3, 17), _indices(-17, 16, 2, 3, 33).astype(np.int32))),
            Case(cls(0), (f32(5, 4), _indices(0, 4, 2, 3))),
            Case(cls(1), (f32(5, 4, 3), _indices(0, 3, 4, 6, 2))),
            Case(cls(0), (f32(33), _indices(-33, 32, 5)), constants=frozenset({0})),
            Case(cls(0), (f32(33, 2), _indices(-33, 32, 5, 2)), constants=frozenset({1})),
            Case(cls(1), (f32(3, 5), i64(3, 0))),
            *(Case(cls(0), (TensorType(dtype, (9, 2)), _indices(-9, 8, 4, 2))) for dtype in DType),
        )


@dataclass(frozen=True)
class GatherND(Op):
    """data, indices -> blocks of data, each named by an index tuple in the last axis of the indices.

    The first `batch_dims` axes of both are gone through together; a tuple names a place in the axes that follow.
    """

    batch_dims: int = 0

    name = "gather_nd"

    def infer(self, *inputs: TensorType | None) -> tuple[TensorType, ...]:
        data, indices = required(self, inputs, 2)
        check_dtype(self, indices.dtype, INDICES)
        batch = self.batch_dims
        if indices.rank < batch + 1 or data.rank < batch or batch < 0 or data.shape[:batch] != indices.shape[:batch]:
            raise self.fail(f"batch_dims {batch} does not fit data {data} and indices {indices}")
        last = batch + indices.shape[-1]
        if last > data.rank:
            raise self.fail(f"the tuples of {indices} are too long for {data}")
        _check_not_empty(self, data, range(batch, last), indices.size)
        return (data.with_shape((*indices.shape[:-1], *data.shape[last:])),)

    def lower(self, ctx: Context) -> Lowered:
        return indexing.gather_nd(ctx, self.batch_dims)

    def reference(self, *inputs: Array | None) -> tuple[Array, ...]:
        data, indices = required(self, inputs, 2)
        batch, depth = self.batch_dims, indices.shape[-1]
        inner, rest = data.shape[batch:], indices.shape[batch:]
        many = math.prod(data.shape[:batch])
        blocks = zip(data.reshape(many, *inner), indices.reshape(many, *rest), strict=True)
        shape = (*indices.shape[:-1], *inner[depth:])
        found = [np.broadcast_to(d[_named(i, inner[:depth])], (*rest[:-1], *inner[depth:])) for d, i in blocks]
        return (np.array(found, data.dtype).reshape(shape),)

    @classmethod
    def cases(cls) -> Sequence[Case]:
        return (
            Case(cls(), (f32(3, 5), np.array([[0, 4], [-1, -5]]))),
            Case(cls(), (f32(3, 5, 17), np.array([[[0], [2]], [[-1], [1]]]))),
            Case(cls(1), (f32(2, 5, 3), _indices(-5, 4, 2, 7, 1))),
            Case(cls(2), (f32(2, 3, 33), _indices(-33, 32, 2, 3, 1))),
            Case(cls(), (f32(7, 5, 3), _indices(-3, 2, 40, 3).astype(np.int32))),
            Case(cls(), (f32(7, 33), _indices(-7, 6, 5, 1)), constants=frozenset({0})),
            Case(cls(), (f32(7, 3), _indices(-7, 6, 5, 1)), constants=frozenset({1})),
            Case(cls(), (f32(7, 3), i64(0, 1))),
            Case(cls(), (f32(7, 3), i64(2, 0))),
            *(Case(cls(), (TensorType(dtype, (4, 5)), _indices(-4, 3, 6, 2))) for dtype in DType),
        )


class _Scatter(Op):
    """What both scatters check."""

    def check_types(self, reduction: str, data: TensorType, indices: TensorType, updates: TensorType) -> None:
        if reduction not in _UPDATE:
            raise self.fail(f"reduction {reduction!r} is unknown; there are {list(_UPDATE)}")
        check_dtype(self, indices.dtype, INDICES)
        same_dtype(self, (data, updates), ANY if reduction == "none" else NUMBERS)


@dataclass(frozen=True)
class ScatterElements(_Scatter):
    """data, indices, updates -> data with the element that each index names along the axis replaced by its update.

    With a reduction (add, mul, max, min) old and new are combined instead.
    """

    axis: int
    reduction: str = "none"

    name = "scatter_elements"

    def infer(self, *inputs: TensorType | None) -> tuple[TensorType, ...]:
        data, indices, updates = required(self, inputs, 3)
        self.check_types(self.reduction, data, indices, updates)
        _check_elements(self, data, indices, self.axis)
        if updates.shape != indices.shape:
            raise self.fail(f"updates {updates} differ from indices {indices} in shape")
        return (data,)

    def lower(self, ctx: Context) -> Lowered:
        return indexing.scatter_elements(ctx, self.axis, self.reduction)

    def reference(self, *inputs: Array | None) -> tuple[Array, ...]:
        data, indices, updates = required(self, inputs, 3)
        result = data.copy()
        with np.errstate(all="ignore"):
            _UPDATE[self.reduction](result, _along(indices, self.axis, data.shape[self.axis]), updates)
        return (result,)

    @classmethod
    def cases(cls) -> Sequence[Case]:
        constant = frozenset({1, 2})
        return (
            Case(cls(1), (f32(1, 5), np.array([[1, 3]]), f32(1, 2))),
            *(Case(cls(0, kind), (f32(7, 19), _indices(-7, 6, 9, 19), f32(9, 19))) for kind in _UPDATE),
            *(Case(cls(1, kind), (f32(3, 7), _indices(-7, 6, 3, 9), f32(3, 9))) for kind in _UPDATE),
            Case(cls(1, "add"), (f32(2, 5, 33), _indices(0, 4, 2, 3, 33).astype(np.int32), f32(2, 3, 33))),
            Case(cls(0), (f32(5, 4), _indices(0, 4, 2, 3), f32(2, 3))),
            Case(cls(1, "add"), (f32(5, 4, 3), _indices(0, 3, 5, 6, 2), f32(5, 6, 2))),
            *(Case(cls(a, "add"), (f32(3, 4, 19), _indices(0, 2, 3, 2, 19), f32(3, 2, 19))) for a in (0, 2)),
            Case(cls(0), (f32(5, 4), _indices(0, 4, 2, 4), f32(2, 4)), constants=constant),
            Case(cls(0), (f32(33), _indices(-33, 32, 40), f32(40)), constants=frozenset({0})),
            Case(cls(1), (f32(3, 5), i64(3, 0), f32(3, 0))),
            *(Case(cls(0), (TensorType(d, (9, 2)), _indices(0, 8, 4, 2), TensorType(d, (4, 2)))) for d in DType),
            *(Case(cls(0, kind), (i64(5), _indices(0, 4, 9), i64(9))) for kind in _UPDATE),
            Case(cls(0, "max"), (boolean(5).with_dtype(DType.U8), _indices(0, 4, 9), boolean(9).with_dtype(DType.U8))),
        )


@dataclass(frozen=True)
class ScatterND(_Scatter):
    """data, indices, updates -> data with the block that each tuple of the indices names replaced by its update.

    With a reduction (add, mul, max, min) old and new are combined instead.
    """

    reduction: str = "none"

    name = "scatter_nd"

    def infer(self, *inputs: TensorType | None) -> tuple[TensorType, ...]:
        data, indices, updates = required(self, inputs, 3)
        self.check_types(self.reduction, data, indices, updates)
        if not indices.rank or indices.shape[-1] > data.rank:
            raise self.fail(f"the tuples of {indices} are too long for {data}")
        depth = indices.shape[-1]
        wanted = (*indices.shape[:-1], *data.shape[depth:])
        if updates.shape != wanted:
            raise self.fail(f"updates {updates} need the shape {list(wanted)}")
        _check_not_empty(self, data, range(depth), indices.size)
        return (data,)

    def lower(self, ctx: Context) -> Lowered:
        return indexing.scatter_nd(ctx, self.reduction)

    def reference(self, *inputs: Array | None) -> tuple[Array, ...]:
        data, indices, updates = required(self, inputs, 3)
        depth = indices.shape[-1]
        result = data.copy()
        flat = indices.reshape(math.prod(indices.shape[:-1]), depth)
        named = np.stack(_named(flat, data.shape[:depth]), 1) if depth else flat
        with np.errstate(all="ignore"):
            for place, block in zip(named, updates.reshape(len(flat), *data.shape[depth:]), strict=True):
                _UPDATE[self.reduction](result, (*place, ...), block)
        return (result,)

    @classmethod
    def cases(cls) -> Sequence[Case]:
        constant = frozenset({1, 2})
        return (
            Case(cls(), (f32(8), np.array([[4], [3], [-1], [7]]), f32(4))),
            *(Case(cls(kind), (f32(4, 3, 5), np.array([[0], [2], [0]]), f32(3, 3, 5))) for kind in _UPDATE),
            *(Case(cls(kind), (f32(4, 5), _indices(-4, 3, 2, 7, 2), f32(2, 7))) for kind in _UPDATE),
            Case(cls("add"), (f32(3, 2, 33), _indices(-2, 1, 5, 2).astype(np.int32), f32(5, 33))),
            Case(cls(), (f32(4, 5), _indices(-4, 3, 3, 1), f32(3, 5)), constants=constant),
            Case(cls(), (f32(4, 5), _indices(-4, 3, 3, 1), f32(3, 5)), constants=frozenset({0})),
            Case(cls("add"), (f32(4, 5), i64(2, 0), f32(2, 4, 5))),
            Case(cls(), (f32(4, 5), i64(0, 1), f32(0, 5))),
            *(Case(cls(), (TensorType(d, (9, 2)), _indices(0, 8, 4, 1), TensorType(d, (4, 2)))) for d in DType),
            *(Case(cls(kind), (i64(5), _indices(0, 4, 9, 1), i64(9))) for kind in _UPDATE),
        )


def _check_elements(op: Op, data: TensorType, indices: TensorType, axis: int) -> None:
    check_axis(op, axis, data.rank)
    fits = indices.rank == data.rank and all(
        i <= d for at, (i, d) in enumerate(zip(indices.shape, data.shape, strict=True)) if at != axis
    )
    if not fits:
        raise op.fail(f"indices {indices} do not fit data {data} outside axis {axis}")
    _check_not_empty(op, data, (axis,), indices.size)


def _check_not_empty(op: Op, data: TensorType, axes: Sequence[int], count: int) -> None:
    if count and any(data.shape[axis] == 0 for axis in axes):
        raise op.fail(f"{data} is empty: no index names an element")


def _indices(low: int, high: int, *shape: int) -> npt.NDArray[np.int64]:
    return np.random.default_rng(sum(shape)).integers(low, high, shape, endpoint=True)
