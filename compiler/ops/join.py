"""Ops that put tensors together, take one apart, or look rows up: concat, split, gather."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from glulam.compiler.graph.op import Op
from glulam.compiler.graph.types import Array, TensorType
from glulam.compiler.ops.inputs import INDICES, check_at_least, check_axis, check_dtype, required, same_dtype


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

    def reference(self, *inputs: Array | None) -> tuple[Array, ...]:
        return (np.concatenate(required(self, inputs, len(inputs)), self.axis),)


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

    def reference(self, *inputs: Array | None) -> tuple[Array, ...]:
        (x,) = required(self, inputs, 1)
        return tuple(piece.copy() for piece in np.split(x, np.cumsum(self.sizes)[:-1], self.axis))


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

    def reference(self, *inputs: Array | None) -> tuple[Array, ...]:
        data, indices = required(self, inputs, 2)
        extent = data.shape[self.axis]
        places = indices.astype(np.int64)
        if places.size == 0:
            shape = (*data.shape[: self.axis], *indices.shape, *data.shape[self.axis + 1 :])
            return (np.empty(shape, data.dtype),)
        places = np.clip(np.where(places < 0, places + extent, places), 0, extent - 1)
        return (np.asarray(np.take(data, places, self.axis)),)
