"""Normalisation layers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy.typing as npt

from glulam.compiler import ops
from glulam.compiler.errors import ShapeError
from glulam.compiler.graph.graph import Value
from glulam.frontends.layers.arguments import extents
from glulam.frontends.layers.initial import uniform
from glulam.frontends.layers.module import Layer
from glulam.frontends.layers.tensor import Tensor, apply, literal, require_rank


class BatchNorm(Layer):
    """Batch normalisation at inference: (x - running_mean) / sqrt(running_var + eps) * weight + bias per channel.

    x is [N, C, ...] of any rank from 2. What is not given is drawn away from the trivial values, such that the scale of
    unit-variance data is about kept. init_gain scales the drawn weight: a small one keeps a residual branch small.
    momentum is PyTorch's argument and has no effect at inference. With affine=False weight and bias are 1 and 0.
    """

    rank: int | None = None

    def __init__(
        self,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        *,
        weight: npt.ArrayLike | None = None,
        bias: npt.ArrayLike | None = None,
        running_mean: npt.ArrayLike | None = None,
        running_var: npt.ArrayLike | None = None,
        init_gain: float = 1.0,
        name: str | None = None,
    ) -> None:
        super().__init__(name)
        if not eps >= 0:
            raise ShapeError(f"{type(self).__name__}: eps is {eps}; it must not be negative")
        if not affine and (weight is not None or bias is not None):
            raise ShapeError(f"{type(self).__name__}: affine=False leaves no place for weight and bias")
        self.eps = float(eps)
        self.affine = affine
        self._given = {"weight": weight, "bias": bias, "running_mean": running_mean, "running_var": running_var}
        self.init_gain = init_gain

    def forward(self, x: Tensor) -> Tensor:
        label = type(self).__name__
        if self.rank is not None:
            require_rank(x, self.rank, label)
        if x.rank < 2:
            raise ShapeError(f"{label} takes [N, C, ...], but {x.name!r} is {x.type}")
        shape = x.shape[1:2]
        gain = self.init_gain
        weight: Value
        bias: Value
        if self.affine:
            weight = self.parameter("weight", shape, self._given["weight"], uniform(0.65 * gain, 1.25 * gain), x)
            bias = self.parameter("bias", shape, self._given["bias"], uniform(-0.2 * gain, 0.2 * gain), x)
        else:
            weight, bias = (literal([value] * shape[0], x, f"{label}.{value}") for value in (1.0, 0.0))
        mean = self.parameter("running_mean", shape, self._given["running_mean"], uniform(-0.2, 0.2), x, learned=False)
        var = self.parameter("running_var", shape, self._given["running_var"], uniform(0.6, 1.4), x, learned=False)
        return apply(ops.BatchNorm(self.eps), x, weight, bias, mean, var, name=self.path(x.scope))


class BatchNorm1d(BatchNorm):
    """Batch normalisation of [N, C] or [N, C, L]. See BatchNorm."""

    def forward(self, x: Tensor) -> Tensor:
        if x.rank not in (2, 3):
            raise ShapeError(f"BatchNorm1d takes [N, C] or [N, C, L], but {x.name!r} is {x.type}")
        return super().forward(x)


class BatchNorm2d(BatchNorm):
    """Batch normalisation of [N, C, H, W]. See BatchNorm."""

    rank = 4


class BatchNorm3d(BatchNorm):
    """Batch normalisation of [N, C, D, H, W]. See BatchNorm."""

    rank = 5


class LayerNorm(Layer):
    """Normalisation to mean 0, variance 1 over the last axes, then scale and shift by element.

    normalized_shape: the extents of those axes; None means the last axis alone.
    """

    def __init__(
        self,
        normalized_shape: int | Sequence[int] | None = None,
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool | npt.ArrayLike = True,
        *,
        weight: npt.ArrayLike | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(name)
        if not eps >= 0:
            raise ShapeError(f"LayerNorm: eps is {eps}; it must not be negative")
        if isinstance(normalized_shape, int):
            normalized_shape = (normalized_shape,)
        self.normalized_shape = (
            None
            if normalized_shape is None
            else extents(tuple(normalized_shape), len(normalized_shape), "LayerNorm: normalized_shape")
        )
        self.eps = float(eps)
        self.has_weight = elementwise_affine
        self.has_bias = elementwise_affine and bias is not False and bias is not None
        self._given_weight = weight
        self._given_bias = None if isinstance(bias, bool) else bias

    def forward(self, x: Tensor) -> Tensor:
        shape = self.normalized_shape or x.shape[-1:]
        axis = x.rank - len(shape)
        if axis < 0 or x.shape[axis:] != shape:
            raise ShapeError(f"LayerNorm over {shape} does not fit the last axes of {x.name!r}: {x.type}")
        weight = bias = None
        if self.has_weight:
            weight = self.parameter("weight", shape, self._given_weight, uniform(0.7, 1.3), x)
        if self.has_bias:
            bias = self.parameter("bias", shape, self._given_bias, uniform(-0.2, 0.2), x)
        return apply(ops.LayerNorm(axis, self.eps), x, weight, bias, name=self.path(x.scope))
