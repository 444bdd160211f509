"""Linear layers whose weights are kept in 20 bits. The choice of algorithms puts them in; no frontend does."""

from __future__ import annotations

from typing import ClassVar

from glulam.compiler.kernels import gemm
from glulam.compiler.kernels.context import Context, Lowered
from glulam.compiler.kernels.fixed_point import DIGITS
from glulam.compiler.ops.matmul import Linear


class FixedPointLinear(Linear):
    """A linear layer with constant float32 weights rounded as `kernels.fixed_point` says, computed in float32.

    A column with a weight that is not finite gives NaN.
    """

    bits: ClassVar[int] = 20

    name = "fixed_point_linear"
    tolerance = 1e-5

    def lower(self, ctx: Context) -> Lowered:
        return gemm.linear(ctx, digits=DIGITS[self.bits])
