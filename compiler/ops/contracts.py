"""What an op may offer beyond the contract of all ops; a pass or a region asks for it by `isinstance`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from glulam.compiler.graph.graph import Value
from glulam.compiler.graph.types import TensorType
from glulam.compiler.kernels.context import Context, Lowered
from glulam.compiler.kernels.operand import Operand
from glulam.compiler.kernels.windows import Window


@runtime_checkable
class FoldsWindows(Protocol):
    """An op that may fold windows of its only input, as pools do."""

    name: str

    def as_window(self, x: TensorType) -> Window | None:
        """The windows that a kernel in front of this op folds if it takes it over; None if it folds none."""


@runtime_checkable
class PoolsResult(Protocol):
    """An op whose kernel can fold windows of its own result, if all its inputs but the first are constants."""

    name: str

    def pools(self, window: Window, result: TensorType, pooled: TensorType, block_bytes: int) -> str | None:
        """Why the kernel should not fold these windows of `result`, None if it should."""

    def lower_pooled(self, ctx: Context, window: Window, result: Operand) -> Lowered:
        """The kernel that folds windows of `result`, what `lower` would compute."""


@runtime_checkable
class FinishesAlone(Protocol):
    """An op with Trait.ANCHOR to whose result some things had better be done by another kernel."""

    name: str

    def finishes_alone(self, inputs: Sequence[TensorType | None]) -> str | None:
        """Why nothing should join the kernel for these inputs, None if it may."""


@runtime_checkable
class AveragesResult(Protocol):
    """An op whose kernel can also give the means of its result[N,C,H,W] over chunks of rows, as [N,C,chunks,1]."""

    name: str

    def chunks(self, inputs: Sequence[Value | None], result: TensorType, block: int) -> int | str:
        """How many chunks there are in channel blocks of so many lanes, or why the kernel should give no means."""

    def lower_averaged(self, ctx: Context) -> Lowered:
        """The kernel of `lower` with the means as output 1."""
