"""Softmax and its logarithm along one axis."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from glulam.compiler.graph.op import Op
from glulam.compiler.graph.types import Array, TensorType
from glulam.compiler.ops.inputs import FLOATS, check_axis, required, same_dtype, wide


@dataclass(frozen=True)
class _AlongAxis(Op):
    """Shape rule of both: the output is like the input."""

    axis: int

    def infer(self, *inputs: TensorType | None) -> tuple[TensorType, ...]:
        (x,) = required(self, inputs, 1)
        same_dtype(self, (x,), FLOATS)
        check_axis(self, self.axis, x.rank)
        return (x,)

    def _shifted(self, x: Array) -> Array:
        """x minus its largest element along the axis, in float64."""
        return np.subtract(wide(x), np.max(x, self.axis, keepdims=True, initial=-np.inf))


@dataclass(frozen=True)
class Softmax(_AlongAxis):
    """e**(x - max) / sum(e**(x - max)). A line with +inf, or of nothing but -inf, gives NaN by this definition."""

    name = "softmax"

    def reference(self, *inputs: Array | None) -> tuple[Array, ...]:
        (x,) = required(self, inputs, 1)
        with np.errstate(all="ignore"):
            powers = np.exp(self._shifted(x))
            return ((powers / powers.sum(self.axis, keepdims=True)).astype(x.dtype),)


@dataclass(frozen=True)
class LogSoftmax(_AlongAxis):
    """x - max - log(sum(e**(x - max)))."""

    name = "log_softmax"

    def reference(self, *inputs: Array | None) -> tuple[Array, ...]:
        (x,) = required(self, inputs, 1)
        with np.errstate(all="ignore"):
            shifted = self._shifted(x)
            return ((shifted - np.log(np.exp(shifted).sum(self.axis, keepdims=True))).astype(x.dtype),)
