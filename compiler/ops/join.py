"""Ops that put tensors together, take one apart, or look rows up: concat, split, gather."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from glulam.compiler.graph.op import Case, Op, Prefers
from glulam.compiler.graph.types import Array, DType, TensorType, f32
from glulam.compiler.kernels import concat, indexing
from glulam.compiler.kernels.context import Context, Lowered
from glulam.compiler.ops.inputs import INDICES, check_at_least, check_axis, check_dtype, i64, required, same_dtype
from glulam.compiler.targets import Target


@dataclass(frozen=True)
class Concat(Op):
    """Any number (at least one) of tensors behind each other along the axis; all other extents are equal."""

    axis: int

    name = "concat"

    def infer(self, *inputs: TensorType | None) -> tuple[TensorType, ...]:
        if not inputs:
            raise self.fail("takes at least one input")
        first, *rest = types = required(self, inputs, len(inputs))
        dtype = same_dtype(self, types)
        check_axis(self, self.axis, first.rank)
        for type in rest:
            alike = type.rank == first.rank and all(
                a == b for i, (a, b) in enumerate(zip(type.shape, first.shape, strict=True)) if i != self.axis
            )
            if not alike:
                raise self.fail(f"{first} and {type} differ in more than axis {self.axis}")
        total = sum(type.shape[self.axis] for type in types)
        return (TensorType(dtype, (*first.shape[: self.axis], total, *first.shape[self.axis + 1 :])),)

    def for_samples(self, count: int, inputs: Sequence[TensorType | None]) -> Op | None:
        return self if self.axis else None

    def preference(self, inputs: Sequence[TensorType | None], outputs: Sequence[TensorType]) -> Prefers:
        return Prefers.EITHER

    def plain_suits(self, target: Target, inputs: Sequence[TensorType | None], outputs: Sequence[TensorType]) -> bool:
        """Channels that fill no blocks would be put together lane by lane, and those of one sample just lie there."""
        sizes = [type.shape[1] for type in inputs if type is not None and type.rank > 1]
        return self.axis == 1 and outputs[0].shape[0] == 1 and any(size % target.lanes for size in sizes[:-1])

    def lower(self, ctx: Context) -> Lowered:
        return concat.concat(ctx, self.axis)

    def reference(self, *inputs: Array | None) -> tuple[Array, ...]:
        return (np.concatenate(required(self, inputs, len(inputs)), self.axis),)

    @classmethod
    def cases(cls) -> Sequence[Case]:
        return (
            Case(cls(1), (f32(1, 3, 7, 5), f32(1, 17, 7, 5))),
            Case(cls(1), (f32(2, 16, 3), f32(2, 16, 3), f32(2, 1, 3))),
            Case(cls(0), (f32(3), f32(7))),
            Case(cls(2), (f32(2, 3, 4), f32(2, 3, 1))),
            Case(cls(0), (f32(2, 3),)),
            Case(cls(1), (f32(2, 0), f32(2, 3))),
            Case(cls(0), (i64(2), i64(3))),
            Case(cls(1), (f32(2, 33, 2), f32(2, 3, 2)), constants=frozenset({1})),
        )


@dataclass(frozen=True)
class Split(Op):
    """Consecutive pieces of the given sizes along the axis, one output each."""

    axis: int
    sizes: tuple[int, ...]

    name = "split"

    def infer(self, *inputs: TensorType | None) -> tuple[TensorType, ...]:
        (x,) = required(self, inputs, 1)
        check_axis(self, self.axis, x.rank)
        check_at_least(self, 0, sizes=self.sizes)
        if not self.sizes or sum(self.sizes) != x.shape[self.axis]:
            raise self.fail(f"sizes {self.sizes} do not add up to the extent {x.shape[self.axis]} of axis {self.axis}")
        return tuple(x.with_shape((*x.shape[: self.axis], size, *x.shape[self.axis + 1 :])) for size in self.sizes)

    def for_samples(self, count: int, inputs: Sequence[TensorType | None]) -> Op | None:
        return self if self.axis else None

    def preference(self, inputs: Sequence[TensorType | None], outputs: Sequence[TensorType]) -> Prefers:
        return Prefers.EITHER

    def lower(self, ctx: Context) -> Lowered:
        return concat.split(ctx, self.axis)

    def reference(self, *inputs: Array | None) -> tuple[Array, ...]:
        (x,) = required(self, inputs, 1)
        return tuple(piece.copy() for piece in np.split(x, np.cumsum(self.sizes)[:-1], self.axis))

    @classmethod
    def cases(cls) -> Sequence[Case]:
        return (
            Case(cls(1, (3, 14)), (f32(1, 17, 3, 5),)),
            Case(cls(1, (16, 16, 1)), (f32(2, 33, 3),)),
            Case(cls(0, (2, 0, 5)), (f32(7, 3),)),
            Case(cls(2, (1, 6)), (f32(2, 3, 7),)),
            Case(cls(0, (3,)), (f32(3, 2),)),
            Case(cls(0, (2, 2)), (i64(4),)),
        )


@dataclass(frozen=True)
class Gather(Op):
    """data, indices -> data with the axis replaced by the axes of the indices (int32 or int64).

    Negative indices count from the end. An index outside the axis, which ONNX leaves undefined, reads the nearest row.
    """

    axis: int

    name = "gather"

    def infer(self, *inputs: TensorType | None) -> tuple[TensorType, ...]:
        data, indices = required(self, inputs, 2)
        check_dtype(self, indices.dtype, INDICES)
        check_axis(self, self.axis, data.rank)
        if data.shape[self.axis] == 0 and indices.size:
            raise self.fail(f"axis {self.axis} of {data} is empty: there is nothing to gather")
        return (data.with_shape((*data.shape[: self.axis], *indices.shape, *data.shape[self.axis + 1 :])),)

    def lower(self, ctx: Context) -> Lowered:
        return indexing.gather(ctx, self.axis)

    def reference(self, *inputs: Array | None) -> tuple[Array, ...]:
        data, indices = required(self, inputs, 2)
        extent = data.shape[self.axis]
        places = indices.astype(np.int64)
        if places.size == 0:
            shape = (*data.shape[: self.axis], *indices.shape, *data.shape[self.axis + 1 :])
            return (np.empty(shape, data.dtype),)
        places = np.clip(np.where(places < 0, places + extent, places), 0, extent - 1)
        return (np.asarray(np.take(data, places, self.axis)),)

    @classmethod
    def cases(cls) -> Sequence[Case]:
        return (
            Case(cls(0), (f32(7, 13), np.array([[0, 6, -1], [3, 3, -7]], np.int64))),
            Case(cls(1), (f32(3, 5, 2), np.array([4, 0], np.int32))),
            Case(cls(0), (f32(7, 3), np.array(2, np.int64))),
            Case(cls(2), (f32(1, 2, 17), np.array([-17, 16], np.int64)), constants=frozenset({1})),
            Case(cls(0), (f32(5, 4), TensorType(DType.I64, (2, 3))), low=-4.0, high=4.0),
            Case(cls(0), (f32(5, 4), TensorType(DType.I64, (0,)))),
            Case(cls(0), (np.arange(5), np.array([1, 3], np.int64))),
            Case(cls(0), (f32(33, 5), TensorType(DType.I64, (7,))), constants=frozenset({0})),
        )
