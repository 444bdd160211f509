"""A fused region whose kernel also averages what it computes. A pass puts these in; no frontend does."""

from __future__ import annotations

from dataclasses import dataclass

from glulam.compiler.graph.graph import Node
from glulam.compiler.graph.types import Array, TensorType
from glulam.compiler.kernels.context import Context, Lowered
from glulam.compiler.ops.contracts import AveragesResult
from glulam.compiler.ops.fused import FusedRegion
from glulam.compiler.ops.inputs import wide


@dataclass(frozen=True)
class AveragedRegion(FusedRegion):
    """The region's result[N,C,H,W], and its means[N,C,chunks,1] over so many equal chunks of rows."""

    chunks: int = 1

    name = "averaged"

    def infer(self, *inputs: TensorType | None) -> tuple[TensorType, ...]:
        (result,) = super().infer(*inputs)
        if result.rank != 4 or self.chunks < 1 or result.shape[2] % self.chunks or not result.size:
            raise self.fail(f"{result} is not [N, C, H, W] with rows for {self.chunks} equal chunks")
        return result, result.with_shape((*result.shape[:2], self.chunks, 1))

    def reference(self, *inputs: Array | None) -> tuple[Array, ...]:
        (result,) = super().reference(*inputs)
        rows = wide(result).reshape(*result.shape[:2], self.chunks, -1)
        return result, rows.mean(-1, keepdims=True).astype(result.dtype)

    def lower_anchor(self, anchor: Node, ctx: Context) -> Lowered:
        if self.window is not None or not isinstance(anchor.op, AveragesResult):
            raise self.fail(f"{anchor.op.name} cannot average its result")
        return anchor.op.lower_averaged(ctx)
