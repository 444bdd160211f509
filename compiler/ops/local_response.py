"""Normalisation across neighbouring channels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from glulam.compiler.graph.op import Case, Op, Prefers, Trait
from glulam.compiler.graph.types import Array, DType, TensorType, f32
from glulam.compiler.kernels import local_response
from glulam.compiler.kernels.context import Context, Lowered
from glulam.compiler.ops.inputs import FLOATS, check_at_least, f64, required, same_dtype, wide

_NARROWEST_BLOCK = 4


@dataclass(frozen=True)
class LocalResponseNorm(Op):
    """x / (bias + alpha * mean of x**2 over the channels c - before ... c + after) ** beta, for x[N,C,...].

    Channels that do not exist count as zeros (Krizhevsky, Sutskever and Hinton, 2012, section 3.3).
    """

    before: int
    after: int
    alpha: float = 1e-4
    beta: float = 0.75
    bias: float = 1.0

    name = "local_response_norm"
    traits = frozenset({Trait.ANCHOR, Trait.PER_SAMPLE})

    def infer(self, *inputs: TensorType | None) -> tuple[TensorType, ...]:
        (x,) = required(self, inputs, 1)
        same_dtype(self, (x,), FLOATS)
        check_at_least(self, 0, before=(self.before,), after=(self.after,))
        if x.rank < 2:
            raise self.fail(f"the input {x} has no channel axis")
        return (x,)

    def preference(self, inputs: Sequence[TensorType | None], outputs: Sequence[TensorType]) -> Prefers:
        near = max(self.before, self.after) <= _NARROWEST_BLOCK
        return Prefers.EITHER if near and outputs[0].dtype is DType.F32 else Prefers.PLAIN

    def flops(self, inputs: Sequence[TensorType | None], outputs: Sequence[TensorType]) -> int:
        return (self.before + self.after + 8) * outputs[0].size

    def lower(self, ctx: Context) -> Lowered:
        return local_response.build(ctx, self.before, self.after, self.alpha, self.beta, self.bias)

    def reference(self, *inputs: Array | None) -> tuple[Array, ...]:
        (x,) = required(self, inputs, 1)
        channels, size = x.shape[1], self.before + self.after + 1
        rest = ((0, 0),) * (x.ndim - 2)
        with np.errstate(all="ignore"):
            squares = np.pad(np.square(wide(x)), ((0, 0), (self.before, self.after), *rest))
            total = np.zeros(x.shape)
            for tap in range(size):
                total += squares[:, tap : tap + channels]
            result = wide(x) / np.power(self.bias + self.alpha / size * total, self.beta)
        return (result.astype(x.dtype),)

    @classmethod
    def cases(cls) -> Sequence[Case]:
        return (
            Case(cls(2, 2), (f32(2, 17, 5, 3),)),
            Case(cls(1, 2, 0.5, 0.75, 2.0), (f32(1, 33, 7),)),
            Case(cls(1, 1, 0.3, 0.6), (f32(2, 16, 3, 3),)),
            Case(cls(4, 4, 1.0, 0.5), (f32(1, 48, 2, 3),)),
            Case(cls(9, 10, 1.0, 1.0), (f32(1, 7, 2, 3),)),
            Case(cls(0, 0, 1.0), (f32(1, 3, 5),)),
            Case(cls(2, 2, 1.0), (f32(3, 13),)),
            Case(cls(0, 3, 1.0), (f32(1, 20, 2, 3, 4),)),
            Case(cls(2, 2), (f32(0, 3, 5),)),
            Case(cls(2, 2, 0.5), (f64(1, 5, 7),)),
            Case(cls(1, 1), (np.array([[[1, np.inf, 3], [2, 3, np.nan], [0, 5, 6]]], np.float32),)),
        )
