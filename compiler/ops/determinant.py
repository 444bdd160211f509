"""Determinants."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from glulam.compiler.graph.op import Case, Op
from glulam.compiler.graph.types import Array, TensorType, f32
from glulam.compiler.kernels import determinant
from glulam.compiler.kernels.context import Context, Lowered
from glulam.compiler.ops.inputs import FLOATS, check_dtype, f64, required, wide


class Det(Op):
    """x[..., n, n] -> the determinant of each matrix; 1 for n = 0."""

    name = "det"

    def infer(self, *inputs: TensorType | None) -> tuple[TensorType, ...]:
        (x,) = required(self, inputs, 1)
        check_dtype(self, x.dtype, FLOATS)
        if x.rank < 2 or x.shape[-1] != x.shape[-2]:
            raise self.fail(f"{x} is not made of square matrices")
        return (x.with_shape(x.shape[:-2]),)

    def flops(self, inputs: Sequence[TensorType | None], outputs: Sequence[TensorType]) -> int:
        (x,) = required(self, inputs, 1)
        return 2 * x.size * (x.shape[-1] + 2)

    def lower(self, ctx: Context) -> Lowered:
        return determinant.build(ctx)

    def reference(self, *inputs: Array | None) -> tuple[Array, ...]:
        (x,) = required(self, inputs, 1)
        return (np.asarray(np.linalg.det(wide(x))).astype(x.dtype),)

    @classmethod
    def cases(cls) -> Sequence[Case]:
        singular = np.array([[1, 2, 3], [2, 4, 6], [0, 1, 0]], np.float32)
        pivoting = np.array([[0, 2, 1], [3, 0, 0], [0, 0, 5]], np.float32)
        return (
            *(Case(cls(), (f32(2, 3, n, n),)) for n in (0, 1, 2, 3, 5)),
            Case(cls(), (f32(17, 17),)),
            Case(cls(), (f64(3, 4, 4),)),
            Case(cls(), (f32(0, 3, 3),)),
            Case(cls(), (np.stack([singular, pivoting, np.zeros((3, 3), np.float32)]),)),
        )
