"""Maximum pooling that says where each maximum was, and unpooling, which puts values back there."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt

from glulam.compiler.graph.op import Case, Op, Padding, Prefers
from glulam.compiler.graph.types import Array, DType, Ints, Shape, TensorType, f32
from glulam.compiler.kernels import unpool
from glulam.compiler.kernels.context import Context, Lowered
from glulam.compiler.ops.inputs import FLOATS, INDICES, check_at_least, check_dtype, f64, required
from glulam.compiler.ops.pool import EDGES, Pool


@dataclass(frozen=True)
class MaxPoolIndices(Pool):
    """Outputs: the largest element of each window, and where it lies, int64; the first of equal ones, the last of NaNs.

    per_plane: places count the elements of the own plane [*S], as in PyTorch; else those of the whole [N,C,*S], as in
    ONNX. column_major: the first spatial coordinate runs fastest (ONNX's storage_order=1), not the last.
    Windows of nothing but padding or -inf are said to have their maximum at their first element.
    """

    per_plane: bool = True
    column_major: bool = False

    name = "max_pool_indices"
    traits = frozenset()

    def infer(self, *inputs: TensorType | None) -> tuple[TensorType, ...]:
        (pooled,) = super().infer(*inputs)
        return pooled, pooled.with_dtype(DType.I64)

    def preference(self, inputs: Sequence[TensorType | None], outputs: Sequence[TensorType]) -> Prefers:
        return Prefers.PLAIN

    def padding(self, index: int, inputs: Sequence[TensorType | None]) -> Padding | None:
        (x,) = required(self, inputs, 1)
        return Padding(self.spans(x.shape[2:]), -math.inf)

    def flops(self, inputs: Sequence[TensorType | None], outputs: Sequence[TensorType]) -> int:
        return 2 * outputs[0].size * math.prod(self.kernel)

    def place_strides(self, extents: Ints) -> Ints:
        """Elements from one coordinate to the next, per spatial axis."""
        if self.column_major:
            return tuple(math.prod(extents[:i]) for i in range(len(extents)))
        return tuple(math.prod(extents[i + 1 :]) for i in range(len(extents)))

    def first_seen(self, i: int, extent: int) -> npt.NDArray[np.int64]:
        """For each window along spatial axis `i`: the coordinate of its first tap inside the input."""
        starts = np.arange(self._output_extent(i, extent)) * self.strides[i] - self.pads[i][0]
        skipped = np.maximum(-(starts // self.dilations[i]), 0)
        first: npt.NDArray[np.int64] = np.clip(starts + skipped * self.dilations[i], 0, max(extent - 1, 0))
        return first

    def lower(self, ctx: Context) -> Lowered:
        extents = ctx.operand(0).spatial
        first = [self.first_seen(i, extent).tolist() for i, extent in enumerate(extents)]
        return unpool.maximum_and_place(ctx, self.geometry(), first, self.place_strides(extents), self.per_plane)

    def reference(self, *inputs: Array | None) -> tuple[Array, ...]:
        (x,) = required(self, inputs, 1)
        extents = x.shape[2:]
        strides, out = self.place_strides(extents), self.output_extents(extents)
        best = np.full((*x.shape[:2], *out), -math.inf, x.dtype)
        place = np.zeros(out, np.int64)
        for axis, stride in enumerate(strides):
            shape = [-1 if i == axis else 1 for i in range(len(out))]
            place = place + (self.first_seen(axis, extents[axis]) * stride).reshape(shape)
        place = np.broadcast_to(place, best.shape).copy()
        taps = product(*map(range, self.kernel))
        for tap, seen in zip(taps, self._windows(x, -math.inf), strict=True):
            here = np.zeros(out, np.int64)
            for axis, stride in enumerate(strides):
                start = tap[axis] * self.dilations[axis] - self.pads[axis][0]
                along = (np.arange(out[axis]) * self.strides[axis] + start) * stride
                here = here + along.reshape([-1 if i == axis else 1 for i in range(len(out))])
            wins = (seen > best) | np.isnan(seen)
            best, place = np.where(wins, seen, best), np.where(wins, here, place)
        if not self.per_plane:
            planes = np.arange(math.prod(x.shape[:2])).reshape(*x.shape[:2], *(1,) * len(out))
            place = place + planes * math.prod(extents)
        return best, place.astype(np.int64)

    @classmethod
    def cases(cls) -> Sequence[Case]:
        return (
            Case(cls((2, 2), (2, 2), ((0, 0), (0, 0)), (1, 1)), (f32(1, 3, 7, 8),)),
            Case(cls((3, 3), (2, 2), ((1, 1), (1, 1)), (1, 1), per_plane=False), (f32(2, 17, 7, 37),)),
            Case(cls((3, 3), (2, 2), ((0, 0), (0, 0)), (1, 1), True, False, True), (f32(1, 33, 6, 8),)),
            Case(cls((3, 2), (1, 3), ((1, 2), (0, 1)), (2, 3)), (f32(1, 3, 7, 13),)),
            Case(cls((2,), (3,), ((1, 0),), (1,), True), (f32(2, 3, 13),)),
            Case(
                cls((2, 1, 3), (2, 1, 2), ((0, 0), (0, 0), (1, 1)), (1, 1, 1), column_major=True), (f32(1, 3, 4, 3, 7),)
            ),
            Case(cls((2, 2), (2, 2), ((0, 0), (0, 0)), (1, 1)), (f32(0, 3, 4, 4),)),
            Case(cls((2, 2), (1, 1), ((1, 1), (1, 1)), (1, 1)), (EDGES,)),
            Case(cls((3,), (2,), ((1, 1),), (1,)), (f64(1, 3, 7),)),
            Case(cls((2, 2), (1, 1), ((0, 0), (0, 0)), (1, 1)), (np.ones((1, 1, 3, 5), np.float32),)),
        )


@dataclass(frozen=True)
class MaxUnpool(Op):
    """x[N,C,*S] and places of the same shape -> [N,C,*sizes]: zeros, and each element of x at its place.

    per_plane: places count the elements of the output's own plane (PyTorch); else those of the whole output (ONNX).
    Where several meet, the last one stays; what would leave its own plane is dropped.
    """

    sizes: Ints
    per_plane: bool = True

    name = "max_unpool"

    def infer(self, *inputs: TensorType | None) -> tuple[TensorType, ...]:
        x, places = required(self, inputs, 2)
        check_dtype(self, places.dtype, INDICES)
        check_dtype(self, x.dtype, FLOATS | {DType.F16, DType.U8, DType.I8, DType.I32, DType.I64})
        if x.rank < 3 or places.shape != x.shape:
            raise self.fail(f"takes values [N, C, *S] and places of the same shape, not {x} and {places}")
        if len(self.sizes) != x.rank - 2:
            raise self.fail(f"sizes {self.sizes} for the {x.rank - 2} spatial axes of {x}")
        check_at_least(self, 0, sizes=self.sizes)
        return (x.with_shape((*x.shape[:2], *self.sizes)),)

    def lower(self, ctx: Context) -> Lowered:
        return unpool.scatter_planes(ctx, self.per_plane)

    def reference(self, *inputs: Array | None) -> tuple[Array, ...]:
        x, places = required(self, inputs, 2)
        planes, size = math.prod(x.shape[:2]), math.prod(self.sizes)
        result = np.zeros((planes, size), x.dtype)
        flat = (planes, math.prod(x.shape[2:]))
        values, index = x.reshape(flat), places.astype(np.int64).reshape(flat)
        for plane in range(planes):
            own = index[plane] - (0 if self.per_plane else plane * size)
            inside = (own >= 0) & (own < size)
            result[plane, own[inside]] = values[plane, inside]
        return (result.reshape(*x.shape[:2], *self.sizes),)

    @classmethod
    def cases(cls) -> Sequence[Case]:
        def places(shape: Shape, sizes: Ints, per_plane: bool = True) -> Array:
            rng = np.random.default_rng(len(sizes))
            size, planes = math.prod(sizes), math.prod(shape[:2])
            own = np.stack([rng.permutation(size)[: math.prod(shape[2:])] for _ in range(planes)])
            own += 0 if per_plane else np.arange(planes)[:, None] * size
            return own.reshape(shape).astype(np.int64)

        return (
            Case(cls((4, 6)), (f32(2, 3, 2, 3), places((2, 3, 2, 3), (4, 6)))),
            Case(cls((5, 7), False), (f32(2, 17, 2, 3), places((2, 17, 2, 3), (5, 7), False))),
            Case(cls((33,)), (f32(1, 1, 11), places((1, 1, 11), (33,)))),
            Case(cls((2, 3, 4)), (f32(1, 2, 1, 2, 2), places((1, 2, 1, 2, 2), (2, 3, 4)))),
            Case(cls((3,)), (f32(1, 1, 4), np.array([[[2, 2, -1, 9]]], np.int64))),
            Case(cls((4,)), (f64(1, 2, 2), np.array([[[0, 1], [3, 2]]], np.int32))),
            Case(cls((4, 4)), (f32(0, 3, 2, 2), np.zeros((0, 3, 2, 2), np.int64))),
            Case(cls((3, 3)), (f32(1, 1, 0, 2), np.zeros((1, 1, 0, 2), np.int64))),
        )
