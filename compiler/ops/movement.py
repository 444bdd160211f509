"""Ops that move elements of one tensor, or give them another shape, without computing: transpose, slice, ...

Joining and splitting tensors is in `join`. Shape-like parameters are attributes, resolved by whoever made the node.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from glulam.compiler.graph.op import Case, Op, Prefers, Trait
from glulam.compiler.graph.types import Array, DType, Ints, TensorType, f32
from glulam.compiler.kernels import movement, transpose
from glulam.compiler.kernels.context import Context, Lowered
from glulam.compiler.ops.inputs import boolean, broadcast, check_at_least, i64, required

MOST_LANES = 16
"""Channels of the largest blocks; the other sizes divide it."""


class Identity(Op):
    """The input as it is."""

    name = "identity"
    traits = frozenset({Trait.VIEW, Trait.PER_SAMPLE})

    def infer(self, *inputs: TensorType | None) -> tuple[TensorType, ...]:
        return required(self, inputs, 1)

    def preference(self, inputs: Sequence[TensorType | None], outputs: Sequence[TensorType]) -> Prefers:
        return Prefers.EITHER

    def lower(self, ctx: Context) -> Lowered:
        return movement.identity(ctx)

    def reference(self, *inputs: Array | None) -> tuple[Array, ...]:
        return required(self, inputs, 1)

    @classmethod
    def cases(cls) -> Sequence[Case]:
        return (
            Case(cls(), (f32(2, 3, 7),)),
            Case(cls(), (f32(),)),
            Case(cls(), (i64(0, 3),)),
            Case(cls(), (boolean(5),)),
        )


@dataclass(frozen=True)
class Dropout(Identity):
    """Drops nothing: at inference it is the identity. `p` is kept for export."""

    p: float = 0.5

    name = "dropout"


@dataclass(frozen=True)
class Reshape(Op):
    """The same elements in the same order with another shape; flatten, squeeze and unsqueeze are this."""

    shape: Ints

    name = "reshape"
    traits = frozenset({Trait.VIEW})

    def infer(self, *inputs: TensorType | None) -> tuple[TensorType, ...]:
        (x,) = required(self, inputs, 1)
        check_at_least(self, 0, shape=self.shape)
        if math.prod(self.shape) != x.size:
            raise self.fail(f"{x} has {x.size} elements, but shape {list(self.shape)} has {math.prod(self.shape)}")
        return (x.with_shape(self.shape),)

    def for_samples(self, count: int, inputs: Sequence[TensorType | None]) -> Op | None:
        (x,) = required(self, inputs, 1)
        whole = x.rank > 0 and self.shape[:1] == x.shape[:1]
        return replace(self, shape=(count, *self.shape[1:])) if whole else None

    def lower(self, ctx: Context) -> Lowered:
        return movement.identity(ctx)

    def reference(self, *inputs: Array | None) -> tuple[Array, ...]:
        (x,) = required(self, inputs, 1)
        return (x.reshape(self.shape),)

    @classmethod
    def cases(cls) -> Sequence[Case]:
        return (
            Case(cls((2, 21)), (f32(2, 3, 7),)),
            Case(cls((42,)), (f32(1, 3, 7, 2),)),
            Case(cls((7, 1, 3)), (f32(3, 7),)),
            Case(cls(()), (f32(1, 1),)),
            Case(cls((1,)), (f32(),)),
            Case(cls((0, 5)), (f32(3, 0, 7),)),
            Case(cls((3, 2)), (i64(2, 3),)),
            Case(cls((1, 17, 3, 3)), (f32(1, 17 * 9),)),
        )


class Shape(Op):
    """The input's extents as int64[rank]; shapes are static, so this always folds."""

    name = "shape"

    def infer(self, *inputs: TensorType | None) -> tuple[TensorType, ...]:
        (x,) = required(self, inputs, 1)
        return (TensorType(DType.I64, (x.rank,)),)

    def lower(self, ctx: Context) -> Lowered:
        return movement.constant(ctx, np.array(ctx.operand(0).shape, np.int64))

    def reference(self, *inputs: Array | None) -> tuple[Array, ...]:
        (x,) = required(self, inputs, 1)
        return (np.array(x.shape, np.int64),)

    @classmethod
    def cases(cls) -> Sequence[Case]:
        return (
            Case(cls(), (f32(2, 3, 7),)),
            Case(cls(), (f32(),)),
            Case(cls(), (i64(0, 3),)),
        )


@dataclass(frozen=True)
class Transpose(Op):
    """Axis i of the output is axis perm[i] of the input."""

    perm: Ints

    name = "transpose"

    def infer(self, *inputs: TensorType | None) -> tuple[TensorType, ...]:
        (x,) = required(self, inputs, 1)
        if sorted(self.perm) != list(range(x.rank)):
            raise self.fail(f"perm {self.perm} is not an order of the {x.rank} axes of {x}")
        return (x.with_shape(tuple(x.shape[axis] for axis in self.perm)),)

    def for_samples(self, count: int, inputs: Sequence[TensorType | None]) -> Op | None:
        return self if self.perm[:1] == (0,) else None

    def lower(self, ctx: Context) -> Lowered:
        return transpose.transpose(ctx, self.perm)

    def reference(self, *inputs: Array | None) -> tuple[Array, ...]:
        (x,) = required(self, inputs, 1)
        return (x.transpose(self.perm).copy(),)

    @classmethod
    def cases(cls) -> Sequence[Case]:
        return (
            Case(cls((1, 0)), (f32(7, 13),)),
            Case(cls((0, 2, 3, 1)), (f32(2, 17, 3, 5),)),
            Case(cls((0, 3, 1, 2)), (f32(1, 7, 5, 33),)),
            Case(cls((0, 2, 1, 3)), (f32(1, 7, 3, 16),)),
            Case(cls((2, 1, 0)), (f32(3, 1, 5),)),
            Case(cls((4, 0, 3, 1, 2)), (f32(2, 3, 1, 4, 5),)),
            Case(cls(()), (f32(),)),
            Case(cls((1, 0)), (f32(0, 3),)),
            Case(cls((1, 0)), (i64(3, 5),)),
            Case(cls((0, 1, 2)), (boolean(2, 3, 4),)),
        )


@dataclass(frozen=True)
class ChannelShuffle(Op):
    """x[N,C,*S] with the channels of `groups` equal groups interleaved: channel i * groups + g is the i-th of group g.

    Frontends write a reshape to [N,groups,C/groups,*S], a transpose and a reshape back; a pass puts this in.
    """

    groups: int

    name = "channel_shuffle"
    traits = frozenset({Trait.PER_SAMPLE})

    def infer(self, *inputs: TensorType | None) -> tuple[TensorType, ...]:
        (x,) = required(self, inputs, 1)
        if x.rank < 2 or self.groups < 1 or x.shape[1] % self.groups:
            raise self.fail(f"the channels of {x} do not make {self.groups} equal groups")
        return (x,)

    def preference(self, inputs: Sequence[TensorType | None], outputs: Sequence[TensorType]) -> Prefers:
        return Prefers.EITHER

    def lower(self, ctx: Context) -> Lowered:
        return transpose.shuffle_channels(ctx, self.groups)

    def reference(self, *inputs: Array | None) -> tuple[Array, ...]:
        (x,) = required(self, inputs, 1)
        order = np.arange(x.shape[1]).reshape(self.groups, -1).T.reshape(-1)
        return (x.take(order, 1),)

    @classmethod
    def cases(cls) -> Sequence[Case]:
        return (
            Case(cls(2), (f32(2, 6, 5, 3),)),
            Case(cls(3), (f32(1, 60, 3),)),
            Case(cls(4), (f32(1, 64, 3, 3),)),
            Case(cls(1), (f32(1, 5, 2),)),
            Case(cls(7), (f32(2, 7),)),
            Case(cls(2), (f32(0, 4, 3),)),
            Case(cls(2), (i64(1, 4, 3),)),
        )


@dataclass(frozen=True)
class DepthToSpace(Op):
    """x[N,P*C,*S] to [N,C,*outputs]: the channels of P phases, one behind the other, become pixels of a grid.

    Along each dimension, pixel i of phase p becomes pixel i * stride + p, unless that lies beyond the outputs. The
    phases are numbered through with the last dimension's fastest, as in ONNX's DepthToSpace of mode DCR.
    """

    strides: Ints
    outputs: Ints

    name = "depth_to_space"
    traits = frozenset({Trait.PER_SAMPLE})

    def infer(self, *inputs: TensorType | None) -> tuple[TensorType, ...]:
        (x,) = required(self, inputs, 1)
        check_at_least(self, 1, strides=self.strides)
        check_at_least(self, 0, outputs=self.outputs)
        if not len(self.strides) == len(self.outputs) == x.rank - 2:
            raise self.fail(f"strides and outputs need one entry per spatial axis of {x}")
        if x.shape[1] % self.phases:
            raise self.fail(f"the channels of {x} do not make {self.phases} phases")
        if any(end > extent * s for end, extent, s in zip(self.outputs, x.shape[2:], self.strides, strict=True)):
            raise self.fail(f"{x} does not have pixels for outputs of {self.outputs}")
        return (x.with_shape((x.shape[0], x.shape[1] // self.phases, *self.outputs)),)

    @property
    def phases(self) -> int:
        return math.prod(self.strides)

    def preference(self, inputs: Sequence[TensorType | None], outputs: Sequence[TensorType]) -> Prefers:
        (x,) = required(self, inputs, 1)
        return Prefers.PLAIN if x.shape[1] // self.phases % MOST_LANES else Prefers.EITHER

    def lower(self, ctx: Context) -> Lowered:
        return transpose.depth_to_space(ctx, self.strides)

    def reference(self, *inputs: Array | None) -> tuple[Array, ...]:
        (x,) = required(self, inputs, 1)
        rank, channels = len(self.strides), x.shape[1] // self.phases
        apart = x.reshape(x.shape[0], *self.strides, channels, *x.shape[2:])
        turned = [axis for d in range(rank) for axis in (rank + 2 + d, 1 + d)]
        whole = [extent * stride for extent, stride in zip(x.shape[2:], self.strides, strict=True)]
        y = apart.transpose(0, rank + 1, *turned).reshape(x.shape[0], channels, *whole)
        return (y[(slice(None), slice(None), *map(slice, self.outputs))].copy(),)

    @classmethod
    def cases(cls) -> Sequence[Case]:
        return (
            Case(cls((2, 2), (6, 10)), (f32(2, 64, 3, 5),)),
            Case(cls((2, 2), (5, 9)), (f32(1, 128, 3, 5),)),
            Case(cls((3, 2), (7, 2)), (f32(1, 18, 3, 1),)),
            Case(cls((2,), (13,)), (f32(1, 96, 7),)),
            Case(cls((4,), (7,)), (f32(2, 12, 2),)),
            Case(cls((2, 1, 3), (3, 5, 6)), (f32(1, 96, 2, 5, 2),)),
            Case(cls((1, 1), (3, 3)), (f32(1, 17, 3, 3),)),
            Case(cls((2, 2), (2, 2)), (f32(0, 64, 1, 1),)),
            Case(cls((2, 2), (2, 6)), (i64(1, 4, 1, 3),)),
        )


@dataclass(frozen=True)
class Slice(Op):
    """Along each axis `sizes` elements from index `starts` on, `steps` apart (negative steps walk backwards)."""

    starts: Ints
    steps: Ints
    sizes: Ints

    name = "slice"

    def infer(self, *inputs: TensorType | None) -> tuple[TensorType, ...]:
        (x,) = required(self, inputs, 1)
        if not len(self.starts) == len(self.steps) == len(self.sizes) == x.rank:
            raise self.fail(f"starts, steps and sizes need one entry per axis of {x}")
        check_at_least(self, 0, sizes=self.sizes)
        for axis, extent in enumerate(x.shape):
            start, step, size = self.starts[axis], self.steps[axis], self.sizes[axis]
            last = start + (size - 1) * step
            if step == 0 or (size and not (0 <= start < extent and 0 <= last < extent)):
                raise self.fail(f"{size} elements from {start} in steps of {step} leave axis {axis} of {x}")
        return (x.with_shape(self.sizes),)

    def for_samples(self, count: int, inputs: Sequence[TensorType | None]) -> Op | None:
        (x,) = required(self, inputs, 1)
        whole = x.rank > 0 and (self.starts[0], self.steps[0], self.sizes[0]) == (0, 1, x.shape[0])
        return replace(self, sizes=(count, *self.sizes[1:])) if whole else None

    def preference(self, inputs: Sequence[TensorType | None], outputs: Sequence[TensorType]) -> Prefers:
        """Channel blocks serve if either the channels or the spatial extents are sliced."""
        x = inputs[0]
        if x is None or x.rank < 3:
            return Prefers.PLAIN
        whole = [
            axis
            for axis in range(x.rank)
            if (self.starts[axis], self.steps[axis], self.sizes[axis]) == (0, 1, x.shape[axis])
        ]
        others = [axis for axis in range(x.rank) if axis != 1]
        return Prefers.EITHER if 1 in whole or whole == others else Prefers.PLAIN

    def lower(self, ctx: Context) -> Lowered:
        return movement.slice(ctx, self.starts, self.steps)

    def reference(self, *inputs: Array | None) -> tuple[Array, ...]:
        (x,) = required(self, inputs, 1)
        if 0 in self.sizes:
            return (np.empty(self.sizes, x.dtype),)
        for axis, (start, step, size) in enumerate(zip(self.starts, self.steps, self.sizes, strict=True)):
            x = x.take(start + step * np.arange(size), axis)
        return (x.copy(),)

    @classmethod
    def cases(cls) -> Sequence[Case]:
        return (
            Case(cls((0, 1, 2), (1, 1, 1), (2, 2, 5)), (f32(2, 3, 7),)),
            Case(cls((1, 6), (1, -1), (2, 7)), (f32(3, 7),)),
            Case(cls((0, 12), (2, -5), (4, 3)), (f32(7, 13),)),
            Case(cls((2,), (1 << 30,), (1,)), (f32(7),)),
            Case(cls((0, 0, 1, 1), (1, 1, 1, 1), (1, 17, 5, 5)), (f32(1, 17, 7, 7),)),
            Case(cls((0, 16, 0), (1, 1, 1), (1, 17, 3)), (f32(1, 33, 3),)),
            Case(cls((0, 3), (1, 1), (3, 0)), (f32(3, 7),)),
            Case(cls((), (), ()), (f32(),)),
            Case(cls((1, 0), (1, 3), (1, 2)), (i64(2, 5),)),
        )


@dataclass(frozen=True)
class Expand(Op):
    """The input broadcast to `shape`, as numpy's broadcast_to."""

    shape: Ints

    name = "expand"

    def infer(self, *inputs: TensorType | None) -> tuple[TensorType, ...]:
        (x,) = required(self, inputs, 1)
        check_at_least(self, 0, shape=self.shape)
        if broadcast(self, x.shape, self.shape) != self.shape:
            raise self.fail(f"{x} does not broadcast to {list(self.shape)}")
        return (x.with_shape(self.shape),)

    def lower(self, ctx: Context) -> Lowered:
        return movement.expand(ctx)

    def reference(self, *inputs: Array | None) -> tuple[Array, ...]:
        (x,) = required(self, inputs, 1)
        return (np.broadcast_to(x, self.shape).copy(),)

    @classmethod
    def cases(cls) -> Sequence[Case]:
        return (
            Case(cls((2, 3, 7)), (f32(3, 1),)),
            Case(cls((2, 17, 3, 5)), (f32(1, 17, 1, 1),)),
            Case(cls((3, 4)), (f32(),)),
            Case(cls((7,)), (f32(7),)),
            Case(cls((0, 3)), (f32(1, 3),)),
            Case(cls(()), (f32(),)),
            Case(cls((5, 2)), (i64(2),)),
            Case(cls((3, 33)), (boolean(3, 1),)),
        )


@dataclass(frozen=True)
class Tile(Op):
    """The input repeated `repeats` times along each axis."""

    repeats: Ints

    name = "tile"

    def infer(self, *inputs: TensorType | None) -> tuple[TensorType, ...]:
        (x,) = required(self, inputs, 1)
        check_at_least(self, 0, repeats=self.repeats)
        if len(self.repeats) != x.rank:
            raise self.fail(f"repeats has {len(self.repeats)} entries for the {x.rank} axes of {x}")
        return (x.with_shape(tuple(e * r for e, r in zip(x.shape, self.repeats, strict=True))),)

    def lower(self, ctx: Context) -> Lowered:
        return movement.tile(ctx, self.repeats)

    def reference(self, *inputs: Array | None) -> tuple[Array, ...]:
        (x,) = required(self, inputs, 1)
        return (np.tile(x, self.repeats),)

    @classmethod
    def cases(cls) -> Sequence[Case]:
        return (
            Case(cls((2, 3)), (f32(3, 7),)),
            Case(cls((1, 2, 1)), (f32(2, 17, 3),)),
            Case(cls((1, 1, 2, 3)), (f32(1, 3, 2, 1),)),
            Case(cls((2, 0)), (f32(3, 4),)),
            Case(cls(()), (f32(),)),
            Case(cls((5,)), (i64(3),)),
        )
