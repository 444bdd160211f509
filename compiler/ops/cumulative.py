"""Running sums and products along an axis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from glulam.compiler.graph.op import Case, Op
from glulam.compiler.graph.types import Array, DType, TensorType, f32
from glulam.compiler.kernels import cumulative
from glulam.compiler.kernels.context import Context, Lowered
from glulam.compiler.ops.inputs import NUMBERS, check_axis, check_dtype, f64, required

_FOLDS: dict[str, tuple[str, Any, int]] = {"sum": ("add", np.cumsum, 0), "prod": ("mul", np.cumprod, 1)}


@dataclass(frozen=True)
class Cumulative(Op):
    """The sum ("sum") or product ("prod") of all elements along the axis up to each one.

    exclusive: without the element itself. reverse: from the end.
    """

    kind: str
    axis: int
    exclusive: bool = False
    reverse: bool = False

    name = "cumulative"

    def infer(self, *inputs: TensorType | None) -> tuple[TensorType, ...]:
        (x,) = required(self, inputs, 1)
        if self.kind not in _FOLDS:
            raise self.fail(f"kind {self.kind!r} is unknown; there are {list(_FOLDS)}")
        check_dtype(self, x.dtype, NUMBERS)
        check_axis(self, self.axis, x.rank)
        return (x,)

    def lower(self, ctx: Context) -> Lowered:
        return cumulative.build(ctx, _FOLDS[self.kind][0], self.axis, exclusive=self.exclusive, reverse=self.reverse)

    def reference(self, *inputs: Array | None) -> tuple[Array, ...]:
        (x,) = required(self, inputs, 1)
        _, fold, start = _FOLDS[self.kind]
        line = np.flip(x, self.axis) if self.reverse else x
        with np.errstate(all="ignore"):
            total: npt.NDArray[Any] = fold(line, self.axis, dtype=np.float64 if x.dtype.kind == "f" else x.dtype)
        if self.exclusive:
            shifted = np.full_like(total, start)
            head = (slice(None),) * self.axis
            shifted[(*head, slice(1, None))] = total[(*head, slice(None, -1))]
            total = shifted
        return (np.array(np.flip(total, self.axis) if self.reverse else total, x.dtype),)

    @classmethod
    def cases(cls) -> Sequence[Case]:
        flags = [(False, False), (True, False), (False, True), (True, True)]
        edges = np.array([[1, np.inf, 2, -np.inf, 3], [1, np.nan, 2, 3, 4]], np.float32)
        return (
            *(Case(cls(kind, 1, *f), (f32(3, 7),), low=0.5) for kind in _FOLDS for f in flags),
            *(Case(cls("sum", axis, *f), (f32(2, 5, 19),), low=0.0) for axis in range(3) for f in flags),
            *(
                Case(cls(kind, 0), (TensorType(d, (5, 3)),))
                for kind in _FOLDS
                for d in (DType.I64, DType.I32, DType.U8)
            ),
            Case(cls("sum", 0), (f64(33),)),
            Case(cls("prod", 1), (f32(2, 0, 3),)),
            Case(cls("sum", 0), (f32(1),)),
            Case(cls("sum", 1), (edges,)),
            Case(cls("prod", 1, True), (edges,)),
        )
