"""Elements added around a tensor, or cropped from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from glulam.compiler.graph.op import Case, Op, Prefers
from glulam.compiler.graph.types import Array, DType, TensorType, f32
from glulam.compiler.kernels import movement
from glulam.compiler.kernels.context import Context, Lowered
from glulam.compiler.ops.inputs import boolean, i64, required


@dataclass(frozen=True)
class Pad(Op):
    """Adds (before, after) elements to each axis; a negative number crops, and cropping comes first.

    Modes: "constant" adds `value`, which is an integer where no double is what it stands for; "edge" repeats the
    outermost element; "reflect" mirrors without repeating it, back and forth if the padding is wider than the input;
    "wrap" continues periodically.
    """

    pads: tuple[tuple[int, int], ...]
    mode: str = "constant"
    value: float | int = 0.0

    name = "pad"

    def infer(self, *inputs: TensorType | None) -> tuple[TensorType, ...]:
        (x,) = required(self, inputs, 1)
        if self.mode not in ("constant", "edge", "reflect", "wrap"):
            raise self.fail(f"mode {self.mode!r} is unknown; there are constant, edge, reflect and wrap")
        if len(self.pads) != x.rank:
            raise self.fail(f"pads has {len(self.pads)} entries for the {x.rank} axes of {x}")
        for axis, (extent, (before, after)) in enumerate(zip(x.shape, self.pads, strict=True)):
            left = extent + min(before, 0) + min(after, 0)
            if left < 0 or min(before, 0) < -extent or min(after, 0) < -extent:
                raise self.fail(f"pads {(before, after)} crop more than the {extent} elements of axis {axis}")
            if left == 0 and max(before, after) > 0 and self.mode != "constant":
                raise self.fail(f"mode {self.mode} has no element to take for axis {axis}")
        try:
            self.filler(x.dtype)
        except (OverflowError, ValueError) as error:
            raise self.fail(f"value {self.value} is no {x.dtype.value}; give one that the elements can have") from error
        return (x.with_shape(tuple(e + b + a for e, (b, a) in zip(x.shape, self.pads, strict=True))),)

    def filler(self, dtype: DType) -> Array:
        """The constant as an element, without a detour through another type."""
        with np.errstate(over="ignore"):
            filler = np.asarray(self.value, dtype.numpy)
        if not dtype.is_float and filler != self.value:
            raise OverflowError(f"{self.value} is no {dtype.value}")
        return filler

    def sources(self, axis: int, extent: int) -> npt.NDArray[np.int64]:
        """For each place along an axis of the output, the input's index it shows; -1 for the constant."""
        before, after = self.pads[axis]
        first, last = max(-before, 0), extent + min(after, 0)
        place = np.arange(extent + before + after) - max(before, 0)
        length = last - first
        if self.mode == "constant":
            return np.where((place >= 0) & (place < length), place + first, -1)
        if length == 0:
            return place
        if self.mode == "edge":
            return np.clip(place, 0, length - 1) + first
        if self.mode == "wrap":
            return place % length + first
        period = max(2 * (length - 1), 1)
        folded = place % period
        return np.minimum(folded, period - folded) % length + first

    def for_samples(self, count: int, inputs: Sequence[TensorType | None]) -> Op | None:
        return self if self.pads[:1] == ((0, 0),) else None

    def preference(self, inputs: Sequence[TensorType | None], outputs: Sequence[TensorType]) -> Prefers:
        return Prefers.EITHER if len(self.pads) > 2 and self.pads[:2] == ((0, 0), (0, 0)) else Prefers.PLAIN

    def lower(self, ctx: Context) -> Lowered:
        places = [self.sources(axis, extent) for axis, extent in enumerate(ctx.operand(0).shape)]
        return movement.pad(ctx, places, self.filler(ctx.output.type.dtype))

    def reference(self, *inputs: Array | None) -> tuple[Array, ...]:
        (x,) = required(self, inputs, 1)
        filler = self.filler(DType.of(x.dtype))
        for axis, extent in enumerate(x.shape):
            index = self.sources(axis, extent)
            outside = index < 0
            if extent == 0 or index.size == 0:
                shape = (*x.shape[:axis], index.size, *x.shape[axis + 1 :])
                x = np.full(shape, filler)
                continue
            x = x.take(index, axis)
            if outside.any():
                x[(slice(None),) * axis + (outside,)] = filler
        return (x.copy(),)

    @classmethod
    def cases(cls) -> Sequence[Case]:
        return (
            Case(cls(((0, 0), (0, 0), (1, 1), (2, 3))), (f32(1, 3, 7, 5),)),
            Case(cls(((0, 1), (2, 0)), value=-1.5), (f32(3, 7),)),
            Case(cls(((0, 0), (-1, 2), (3, -2))), (f32(2, 3, 7),)),
            Case(cls(((0, 0), (17, 3))), (f32(2, 1),)),
            Case(cls(((0, 0), (2, 3)), "reflect"), (f32(3, 7),)),
            Case(cls(((0, 0), (-1, 2), (3, -2)), "reflect"), (f32(2, 4, 7),)),
            Case(cls(((5, 4), (3, 3)), "reflect"), (f32(3, 1),)),
            Case(cls(((2, 1), (0, 9)), "edge"), (f32(3, 2),)),
            Case(cls(((1, 2), (7, 8)), "wrap"), (f32(2, 3),)),
            Case(cls(((1, 2), (-1, 0)), "edge"), (f32(3, 7),)),
            Case(cls(((0, 0), (1, 2))), (f32(2, 0),)),
            Case(cls(()), (f32(),)),
            Case(cls(((1, 1),), value=3.0), (i64(4),)),
            Case(cls(((1, 1),), value=1.0), (boolean(4),)),
            Case(cls(((-1, -2),)), (f32(3),)),
        )
