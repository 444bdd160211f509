"""Softmax and its logarithm along one axis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from glulam.compiler.graph.op import Case, Op
from glulam.compiler.graph.types import Array, TensorType, f32
from glulam.compiler.kernels import rows
from glulam.compiler.kernels.context import Context, Lowered
from glulam.compiler.ops.inputs import FLOATS, F64Array, check_axis, f64, required, same_dtype, wide

EDGES = np.array(
    [
        [1e38, -1e38, 0, 1e38],
        [-np.inf, 0, 1, 2],
        [-np.inf, -np.inf, -np.inf, -np.inf],
        [np.inf, 0, 1, np.inf],
        [np.nan, 0, 1, 2],
        [3e38, 3e38, 3e38, 3e38],
    ],
    np.float32,
)


@dataclass(frozen=True)
class _AlongAxis(Op):
    """Shape rule of both: the output is like the input."""

    axis: int

    def infer(self, *inputs: TensorType | None) -> tuple[TensorType, ...]:
        (x,) = required(self, inputs, 1)
        same_dtype(self, (x,), FLOATS)
        check_axis(self, self.axis, x.rank)
        return (x,)

    @classmethod
    def cases(cls) -> Sequence[Case]:
        return (
            Case(cls(1), (f32(7, 33),)),
            Case(cls(3), (f32(1, 2, 3, 17),)),
            Case(cls(1), (f32(2, 17, 3, 5),)),
            Case(cls(0), (f32(13),)),
            Case(cls(2), (f32(3, 7, 1),)),
            Case(cls(1), (f32(2, 0, 3),)),
            Case(cls(0), (f32(0, 3),)),
            Case(cls(1), (f64(3, 7),)),
            Case(cls(1), (f32(3, 1000),), low=-200.0, high=200.0),
            Case(cls(1), (EDGES,)),
        )

    def for_samples(self, count: int, inputs: Sequence[TensorType | None]) -> Op | None:
        return self if self.axis else None

    def flops(self, inputs: Sequence[TensorType | None], outputs: Sequence[TensorType]) -> int:
        return 4 * outputs[0].size

    def _shifted(self, x: Array) -> F64Array:
        """x minus its largest element along the axis, in float64."""
        exact = wide(x)
        largest: F64Array = np.max(exact, self.axis, keepdims=True, initial=-np.inf)
        return exact - largest


class Softmax(_AlongAxis):
    """e**(x - max) / sum(e**(x - max)). A line with +inf, or of nothing but -inf, gives NaN by this definition."""

    name = "softmax"

    def lower(self, ctx: Context) -> Lowered:
        return rows.softmax(ctx, self.axis, logarithm=False)

    def reference(self, *inputs: Array | None) -> tuple[Array, ...]:
        (x,) = required(self, inputs, 1)
        with np.errstate(all="ignore"):
            powers = np.exp(self._shifted(x))
            return ((powers / powers.sum(self.axis, keepdims=True)).astype(x.dtype),)


class LogSoftmax(_AlongAxis):
    """x - max - log(sum(e**(x - max)))."""

    name = "log_softmax"

    def lower(self, ctx: Context) -> Lowered:
        return rows.softmax(ctx, self.axis, logarithm=True)

    def reference(self, *inputs: Array | None) -> tuple[Array, ...]:
        (x,) = required(self, inputs, 1)
        with np.errstate(all="ignore"):
            shifted = self._shifted(x)
            return ((shifted - np.log(np.exp(shifted).sum(self.axis, keepdims=True))).astype(x.dtype),)
