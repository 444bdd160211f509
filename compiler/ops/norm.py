"""Normalisations with statistics given (BatchNorm) or taken from each sample (LayerNorm)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from glulam.compiler.graph.op import Op
from glulam.compiler.graph.types import Array, TensorType
from glulam.compiler.ops.inputs import FLOATS, check_axis, check_shape, optional, required, same_dtype, wide


@dataclass(frozen=True)
class BatchNorm(Op):
    """(x - mean) / sqrt(var + epsilon) * scale + bias per channel: x[N,C,...], then scale, bias, mean, var, each [C]."""

    epsilon: float = 1e-5

    name = "batch_norm"

    def infer(self, *inputs: TensorType | None) -> tuple[TensorType, ...]:
        x, *statistics = required(self, inputs, 5)
        same_dtype(self, (x, *statistics), FLOATS)
        if x.rank < 2:
            raise self.fail(f"the input {x} has no channel axis")
        for what, type in zip(("scale", "bias", "mean", "var"), statistics, strict=True):
            check_shape(self, what, type, (x.shape[1],))
        return (x,)

    def reference(self, *inputs: Array | None) -> tuple[Array, ...]:
        x, *statistics = required(self, inputs, 5)
        scale, bias, mean, var = (wide(s).reshape(-1, *(1,) * (x.ndim - 2)) for s in statistics)
        with np.errstate(all="ignore"):
            result = (wide(x) - mean) / np.sqrt(var + self.epsilon) * scale + bias
        return (result.astype(x.dtype),)


@dataclass(frozen=True)
class LayerNorm(Op):
    """x, scale?, bias?: (x - mean) / sqrt(var + epsilon) * scale + bias.

    Mean and (biased) variance are over the axes [axis, rank); scale and bias have the shape x.shape[axis:].
    """

    axis: int
    epsilon: float = 1e-5

    name = "layer_norm"

    def infer(self, *inputs: TensorType | None) -> tuple[TensorType, ...]:
        (x,) = required(self, inputs, 1, 2)
        scale, bias = optional(inputs, 1), optional(inputs, 2)
        same_dtype(self, (x, scale, bias), FLOATS)
        check_axis(self, self.axis, x.rank)
        check_shape(self, "the scale", scale, x.shape[self.axis :])
        check_shape(self, "the bias", bias, x.shape[self.axis :])
        return (x,)

    def reference(self, *inputs: Array | None) -> tuple[Array, ...]:
        (x,) = required(self, inputs, 1, 2)
        scale, bias = optional(inputs, 1), optional(inputs, 2)
        if x.size == 0:
            return (x.copy(),)
        axes = tuple(range(self.axis, x.ndim))
        with np.errstate(all="ignore"):
            centred = wide(x) - wide(x).mean(axes, keepdims=True)
            result = centred / np.sqrt(np.square(centred).mean(axes, keepdims=True) + self.epsilon)
            if scale is not None:
                result = result * scale
            if bias is not None:
                result = result + bias
        return (result.astype(x.dtype),)
