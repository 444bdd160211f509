"""Normalisations by the size of a vector, without a mean: RMSNorm and division by a p-norm."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from glulam.compiler.graph.op import Case, Op
from glulam.compiler.graph.types import Array, TensorType, f32
from glulam.compiler.kernels import rows
from glulam.compiler.kernels.context import Context, Lowered
from glulam.compiler.ops.inputs import FLOATS, check_axis, check_shape, f64, optional, required, same_dtype, wide


@dataclass(frozen=True)
class RMSNorm(Op):
    """x, scale?: x / sqrt(mean(x**2) + epsilon) * scale.

    The mean is over the axes [axis, rank); scale has the shape x.shape[axis:] (Zhang and Sennrich, 2019).
    """

    axis: int
    epsilon: float = 1e-5

    name = "rms_norm"

    def infer(self, *inputs: TensorType | None) -> tuple[TensorType, ...]:
        (x,) = required(self, inputs, 1, 1)
        scale = optional(inputs, 1)
        same_dtype(self, (x, scale), FLOATS)
        check_axis(self, self.axis, x.rank)
        check_shape(self, "the scale", scale, x.shape[self.axis :])
        return (x,)

    def flops(self, inputs: Sequence[TensorType | None], outputs: Sequence[TensorType]) -> int:
        return 4 * outputs[0].size

    def lower(self, ctx: Context) -> Lowered:
        return rows.rms_norm(ctx, self.axis, self.epsilon)

    def reference(self, *inputs: Array | None) -> tuple[Array, ...]:
        (x,) = required(self, inputs, 1, 1)
        scale = optional(inputs, 1)
        if x.size == 0:
            return (x.copy(),)
        axes = tuple(range(self.axis, x.ndim))
        with np.errstate(all="ignore"):
            result = wide(x) / np.sqrt(np.square(wide(x)).mean(axes, keepdims=True) + self.epsilon)
            if scale is not None:
                result = result * scale
        return (result.astype(x.dtype),)

    @classmethod
    def cases(cls) -> Sequence[Case]:
        return (
            Case(cls(2), (f32(2, 7, 33), f32(33)), constants=frozenset({1})),
            Case(cls(1, 1e-6), (f32(2, 3, 7), f32(3, 7)), constants=frozenset({1})),
            Case(cls(1), (f32(3, 17), f32(17))),
            Case(cls(1, 0.5), (f32(33, 3), None)),
            Case(cls(0), (f32(17), f32(17)), constants=frozenset({1})),
            Case(cls(1), (f32(0, 7), f32(7)), constants=frozenset({1})),
            Case(cls(1), (f64(3, 7), f64(7))),
            Case(cls(1), (np.array([[1, np.inf, 2], [1, np.nan, 2], [0, 0, 0]], np.float32), None)),
        )


@dataclass(frozen=True)
class LpNormalize(Op):
    """x / max(norm, epsilon), the p-norm being (sum |x|**p)**(1/p) along the axis, or the maximum for p = inf."""

    axis: int
    p: float = 2.0
    epsilon: float = 1e-12

    name = "lp_normalize"

    def infer(self, *inputs: TensorType | None) -> tuple[TensorType, ...]:
        (x,) = required(self, inputs, 1)
        same_dtype(self, (x,), FLOATS)
        check_axis(self, self.axis, x.rank)
        if not self.p > 0:
            raise self.fail(f"p is {self.p}; it must be positive")
        return (x,)

    def flops(self, inputs: Sequence[TensorType | None], outputs: Sequence[TensorType]) -> int:
        return 3 * outputs[0].size

    def lower(self, ctx: Context) -> Lowered:
        return rows.lp_norm(ctx, self.axis, self.p, self.epsilon)

    def reference(self, *inputs: Array | None) -> tuple[Array, ...]:
        (x,) = required(self, inputs, 1)
        if x.size == 0:
            return (x.copy(),)
        with np.errstate(all="ignore"):
            size = np.abs(wide(x))
            if self.p == math.inf:
                norm = size.max(self.axis, keepdims=True)
            else:
                norm = np.power(np.power(size, self.p).sum(self.axis, keepdims=True), 1 / self.p)
            return ((wide(x) / np.maximum(norm, self.epsilon)).astype(x.dtype),)

    @classmethod
    def cases(cls) -> Sequence[Case]:
        edges = np.array([[1, np.inf, 2], [1, np.nan, 2], [0, 0, 0], [1e-20, 0, 0]], np.float32)
        return (
            *(Case(cls(axis, p), (f32(2, 17, 5),)) for axis in range(3) for p in (1.0, 2.0)),
            Case(cls(1, 3.0), (f32(2, 7),)),
            Case(cls(1, math.inf), (f32(2, 33),)),
            Case(cls(0), (f32(33),)),
            Case(cls(1, 2.0, 0.5), (f32(3, 1),)),
            Case(cls(1), (f32(2, 0, 3),)),
            Case(cls(0), (f64(3, 7),)),
            Case(cls(1), (edges,)),
        )
