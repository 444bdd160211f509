"""A linear layer of bytes with exact sums. A pass puts it in; no frontend does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from glulam.compiler.graph.op import Case, Op, Trait
from glulam.compiler.graph.types import Array, DType, Ints, TensorType
from glulam.compiler.kernels import gemm
from glulam.compiler.kernels.byte_words import WORD
from glulam.compiler.kernels.context import Context, Lowered
from glulam.compiler.ops.inputs import check_shape, product_flops, required, wide


@dataclass(frozen=True)
class LinearInteger(Op):
    """(x[..., K] - zero_point) @ w[N, K].T + bias[N], of U8, I8 and I32, in I32, which sums must not exceed.

    K is a multiple of four: so many bytes are multiplied at once.
    """

    zero_point: int = 0

    name = "linear_integer"
    traits = frozenset({Trait.ANCHOR, Trait.CONVERTS})

    def infer(self, *inputs: TensorType | None) -> tuple[TensorType, ...]:
        x, w, bias = required(self, inputs, 3)
        if (x.dtype, w.dtype, bias.dtype) != (DType.U8, DType.I8, DType.I32):
            raise self.fail(f"inputs of types {x}, {w} and {bias}; they are u8, i8 and i32")
        if x.rank == 0 or w.rank != 2 or x.shape[-1] != w.shape[1] or x.shape[-1] % WORD:
            raise self.fail(f"input {x} and weights {w} do not fit: the weights are [out, in], in a multiple of {WORD}")
        if not 0 <= self.zero_point <= np.iinfo(np.uint8).max:
            raise self.fail(f"the zero point {self.zero_point} is no u8")
        check_shape(self, "the bias", bias, (w.shape[0],))
        return (TensorType(DType.I32, (*x.shape[:-1], w.shape[0])),)

    def reference(self, *inputs: Array | None) -> tuple[Array, ...]:
        x, w, bias = required(self, inputs, 3)
        return (((wide(x) - self.zero_point) @ wide(w).T + wide(bias)).astype(np.int32),)

    def flops(self, inputs: Sequence[TensorType | None], outputs: Sequence[TensorType]) -> int:
        return product_flops(inputs, outputs)

    def lower(self, ctx: Context) -> Lowered:
        return gemm.linear_of_bytes(ctx, self.zero_point)

    @classmethod
    def cases(cls) -> Sequence[Case]:
        return (
            _case((1, 36), 17, zero_point=3),
            _case((7, 16), 33),
            _case((2, 3, 8), 5, zero_point=255),
            _case((20,), 3, zero_point=128),
            _case((13, 4), 1, zero_point=1),
            _case((50, 260), 70, zero_point=77),
        )


def _case(x: Ints, outs: int, zero_point: int = 0) -> Case:
    """Bytes from one end to the other."""
    rng = np.random.default_rng((*x, outs))
    codes = rng.integers(0, 256, x).astype(np.uint8)
    weights = rng.integers(-128, 128, (outs, x[-1])).astype(np.int8)
    bias = rng.integers(-(10**6), 10**6, outs).astype(np.int32)
    return Case(LinearInteger(zero_point), (codes, weights, bias), constants=frozenset({1, 2}))
