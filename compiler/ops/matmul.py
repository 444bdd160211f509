"""Matrix products: the general MatMul and the Linear layer with its packed weights."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from glulam.compiler.graph.op import Case, Op, Trait
from glulam.compiler.graph.types import Array, TensorType, f32
from glulam.compiler.kernels import gemm
from glulam.compiler.kernels.context import Context, Lowered
from glulam.compiler.ops.inputs import (
    FLOATS,
    INTEGERS,
    broadcast,
    check_shape,
    f64,
    i64,
    optional,
    product_flops,
    required,
    same_dtype,
    wide,
)


class MatMul(Op):
    """numpy's matmul: a[..., M, K] @ b[..., K, N], leading axes broadcast; a vector loses its axis again."""

    name = "matmul"
    traits = frozenset({Trait.ANCHOR, Trait.BLIND})

    def infer(self, *inputs: TensorType | None) -> tuple[TensorType, ...]:
        a, b = required(self, inputs, 2)
        dtype = same_dtype(self, (a, b), FLOATS | INTEGERS)
        if a.rank == 0 or b.rank == 0:
            raise self.fail("a scalar has no axis to sum over; use mul")
        left = (1, *a.shape) if a.rank == 1 else a.shape
        right = (*b.shape, 1) if b.rank == 1 else b.shape
        if left[-1] != right[-2]:
            raise self.fail(f"{a} @ {b}: the inner extents {left[-1]} and {right[-2]} differ")
        rows = () if a.rank == 1 else (left[-2],)
        columns = () if b.rank == 1 else (right[-1],)
        return (TensorType(dtype, (*broadcast(self, left[:-2], right[:-2]), *rows, *columns)),)

    def reference(self, *inputs: Array | None) -> tuple[Array, ...]:
        a, b = required(self, inputs, 2)
        if a.dtype.kind in "iu":
            return (np.asarray(np.matmul(a, b)),)
        return (np.asarray(np.matmul(wide(a), wide(b))).astype(a.dtype),)

    def for_samples(self, count: int, inputs: Sequence[TensorType | None]) -> Op | None:
        ranks = [type.rank for type in inputs if type is not None]
        return self if min(ranks) == max(ranks) and ranks[0] > 2 else None

    def flops(self, inputs: Sequence[TensorType | None], outputs: Sequence[TensorType]) -> int:
        return product_flops(inputs, outputs)

    @classmethod
    def cases(cls) -> Sequence[Case]:
        return (
            Case(cls(), (f32(7, 13), f32(13, 5))),
            Case(cls(), (f32(17, 33), f32(33, 16)), constants=frozenset({1})),
            Case(cls(), (f32(2, 3, 7, 4), f32(2, 3, 4, 5))),
            Case(cls(), (f32(2, 1, 3, 7), f32(3, 7, 1))),
            Case(cls(), (f32(3, 4), f32(2, 5, 4, 3))),
            Case(cls(), (f32(13), f32(13))),
            Case(cls(), (f32(7), f32(2, 7, 3))),
            Case(cls(), (f32(2, 3, 7), f32(7))),
            Case(cls(), (f32(3, 0), f32(0, 5))),
            Case(cls(), (f32(0, 4), f32(4, 5))),
            Case(cls(), (f64(3, 7), f64(7, 2))),
            Case(cls(), (i64(3, 7), i64(7, 2))),
        )

    def lower(self, ctx: Context) -> Lowered:
        return gemm.matmul(ctx)


class Linear(Op):
    """x[..., K], w[N, K], bias?[N] -> x @ w.T + bias, of shape [..., N] (PyTorch's layout of the weights)."""

    name = "linear"
    traits = frozenset({Trait.ANCHOR, Trait.PER_SAMPLE, Trait.BLIND})

    def infer(self, *inputs: TensorType | None) -> tuple[TensorType, ...]:
        x, w = required(self, inputs, 2, 1)
        bias = optional(inputs, 2)
        dtype = same_dtype(self, (x, w, bias), FLOATS)
        if x.rank == 0 or w.rank != 2 or x.shape[-1] != w.shape[1]:
            raise self.fail(
                f"input {x} and weights {w} do not fit: the weights are [out, in], in = the last extent of x"
            )
        check_shape(self, "the bias", bias, (w.shape[0],))
        return (TensorType(dtype, (*x.shape[:-1], w.shape[0])),)

    def reference(self, *inputs: Array | None) -> tuple[Array, ...]:
        x, w = required(self, inputs, 2, 1)
        bias = optional(inputs, 2)
        total = np.asarray(wide(x) @ wide(w).T)
        if bias is not None:
            total = total + wide(bias)
        return (total.astype(x.dtype),)

    def flops(self, inputs: Sequence[TensorType | None], outputs: Sequence[TensorType]) -> int:
        return product_flops(inputs, outputs)

    @classmethod
    def cases(cls) -> Sequence[Case]:
        return (
            Case(cls(), (f32(1, 33), f32(17, 33), f32(17)), constants=frozenset({1, 2})),
            Case(cls(), (f32(7, 16), f32(33, 16), None), constants=frozenset({1})),
            Case(cls(), (f32(2, 3, 13), f32(5, 13), f32(5)), constants=frozenset({1, 2})),
            Case(cls(), (f32(13), f32(3, 13), f32(3)), constants=frozenset({1, 2})),
            Case(cls(), (f32(3, 1), f32(1, 1), f32(1)), constants=frozenset({1, 2})),
            Case(cls(), (f32(0, 4), f32(3, 4), f32(3)), constants=frozenset({1, 2})),
            Case(cls(), (f64(3, 7), f64(2, 7), f64(2)), constants=frozenset({1, 2})),
            Case(cls(), (f32(3, 7), f32(5, 7), f32(5))),
        )

    def lower(self, ctx: Context) -> Lowered:
        return gemm.linear(ctx)
