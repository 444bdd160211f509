"""Normalisations with statistics given (BatchNorm) or taken from each sample (LayerNorm)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from glulam.compiler.graph.op import Case, Op
from glulam.compiler.graph.types import Array, TensorType, f32
from glulam.compiler.ops.inputs import FLOATS, check_axis, check_shape, f64, optional, required, same_dtype, wide


@dataclass(frozen=True)
class BatchNorm(Op):
    """Per channel (x - mean) / sqrt(var + epsilon) * scale + bias: x[N,C,...]; scale, bias, mean, var, each [C]."""

    epsilon: float = 1e-5

    name = "batch_norm"

    def infer(self, *inputs: TensorType | None) -> tuple[TensorType, ...]:
        x, *statistics = required(self, inputs, 5)
        same_dtype(self, (x, *statistics), FLOATS)
        if x.rank < 2:
            raise self.fail(f"the input {x} has no channel axis")
        for what, type in zip(("scale", "bias", "mean", "var"), statistics, strict=True):
            check_shape(self, f"the {what}", type, (x.shape[1],))
        return (x,)

    def reference(self, *inputs: Array | None) -> tuple[Array, ...]:
        x, *statistics = required(self, inputs, 5)
        scale, bias, mean, var = (wide(s).reshape(-1, *(1,) * (x.ndim - 2)) for s in statistics)
        with np.errstate(all="ignore"):
            result = (wide(x) - mean) / np.sqrt(var + self.epsilon) * scale + bias
        return (result.astype(x.dtype),)

    @classmethod
    def cases(cls) -> Sequence[Case]:
        return (
            _batch_norm(f32(2, 3, 7, 13), cls()),
            _batch_norm(f32(1, 17, 3, 3), cls(1e-3)),
            _batch_norm(f32(3, 33), cls()),
            _batch_norm(f32(2, 1, 7), cls()),
            _batch_norm(f32(1, 3, 2, 3, 4), cls(0.1)),
            _batch_norm(f32(0, 3, 7), cls()),
            _batch_norm(f64(2, 3, 7), cls()),
        )


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

    @classmethod
    def cases(cls) -> Sequence[Case]:
        return (
            Case(cls(2), (f32(2, 7, 33), f32(33), f32(33)), constants=frozenset({1, 2})),
            Case(cls(1, 1e-6), (f32(2, 3, 7), f32(3, 7), f32(3, 7)), constants=frozenset({1, 2})),
            Case(cls(1), (f32(3, 16), f32(16), None), constants=frozenset({1})),
            Case(cls(1, 0.5), (f32(3, 13), None, None)),
            Case(cls(0), (f32(17), f32(17), f32(17)), constants=frozenset({1, 2})),
            Case(cls(3), (f32(1, 3, 7, 1), f32(1), f32(1)), constants=frozenset({1, 2})),
            Case(cls(1), (f32(0, 7), f32(7), f32(7)), constants=frozenset({1, 2})),
            Case(cls(1), (f64(3, 7), f64(7), f64(7))),
            Case(cls(1), (np.full((2, 5), 1e4, np.float32), None, None)),
        )


def _batch_norm(x: TensorType, op: BatchNorm) -> Case:
    rng = np.random.default_rng(7)
    channel = (x.shape[1],)
    scale, bias, mean = (rng.uniform(-2, 2, channel).astype(x.dtype.numpy) for _ in range(3))
    var = rng.uniform(0.1, 3, channel).astype(x.dtype.numpy)
    return Case(op, (x, scale, bias, mean, var), constants=frozenset({1, 2, 3, 4}))
