"""Reorder: the same tensor in another layout. The layout pass inserts it; no frontend does."""

from __future__ import annotations

from dataclasses import dataclass

from glulam.compiler.graph.op import Op, Trait
from glulam.compiler.graph.types import Array, TensorType
from glulam.compiler.kernels import reorder
from glulam.compiler.kernels.context import Context, Lowered
from glulam.compiler.ops.inputs import required


@dataclass(frozen=True)
class Reorder(Op):
    """x -> x, laid out in channel blocks of `block` (1: plain). The halo is the output value's affair."""

    block: int = 1

    name = "reorder"
    traits = frozenset({Trait.VIEW})

    def infer(self, *inputs: TensorType | None) -> tuple[TensorType, ...]:
        return required(self, inputs, 1)

    def reference(self, *inputs: Array | None) -> tuple[Array, ...]:
        return required(self, inputs, 1)

    def lower(self, ctx: Context) -> Lowered:
        return reorder.build(ctx)
