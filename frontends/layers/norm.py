"""Normalisation layers. The number of features, which PyTorch takes, is inferred from the input."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from glulam.compiler import ops
from glulam.compiler.errors import ShapeError
from glulam.compiler.graph.graph import Value
from glulam.frontends.compositions import mean_variance_norm
from glulam.frontends.layers.arguments import bias_argument, dimensions, extents, flag, integer, real
from glulam.frontends.layers.initial import uniform
from glulam.frontends.layers.module import Layer
from glulam.frontends.layers.tensor import Tensor, apply, literal, normal_axis, parts, require_rank


class BatchNorm(Layer):
    """Batch normalisation at inference: (x - running_mean) / sqrt(running_var + eps) * weight + bias per channel.

    x is [N, C, ...] of any rank from 2. What is not given is drawn away from the trivial values, such that the scale of
    unit-variance data is about kept. init_gain scales the drawn weight: a small one keeps a residual branch small.
    momentum is PyTorch's argument and has no effect at inference. With affine=False weight and bias are 1 and 0.
    """

    rank: int | None = None
    inferred = "num_features"

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
        self.eps = _leading_epsilon(eps, type(self).__name__)
        self.affine = flag(affine, f"{type(self).__name__}: affine")
        if not self.affine and (weight is not None or bias is not None):
            raise ShapeError(f"{type(self).__name__}: affine=False leaves no place for weight and bias")
        self._given = {"weight": weight, "bias": bias, "running_mean": running_mean, "running_var": running_var}
        self.init_gain = real(init_gain, f"{type(self).__name__}: init_gain")

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
        self.normalized_shape = _last_axes(normalized_shape, "LayerNorm")
        self.eps = _epsilon(eps, "LayerNorm")
        wants_bias, self._given_bias = bias_argument(bias, "LayerNorm")
        self._given_weight = weight
        self.has_weight = flag(elementwise_affine, "LayerNorm: elementwise_affine")
        if not self.has_weight and (weight is not None or self._given_bias is not None):
            raise ShapeError("LayerNorm: elementwise_affine=False leaves no place for weight and bias")
        self.has_bias = self.has_weight and wants_bias

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


class RMSNorm(Layer):
    """x / sqrt(mean(x^2) + eps) * weight over the last axes.

    normalized_shape: the extents of those axes; None means the last axis alone. eps=None is the smallest step from 1
    that the element type knows, as in PyTorch.
    """

    def __init__(
        self,
        normalized_shape: int | Sequence[int] | None = None,
        eps: float | None = None,
        elementwise_affine: bool = True,
        *,
        weight: npt.ArrayLike | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(name)
        self.eps = None if eps is None else _epsilon(eps, "RMSNorm")
        self.normalized_shape = _last_axes(normalized_shape, "RMSNorm")
        self.has_weight = flag(elementwise_affine, "RMSNorm: elementwise_affine")
        if not self.has_weight and weight is not None:
            raise ShapeError("RMSNorm: elementwise_affine=False leaves no place for weight")
        self._given_weight = weight

    def forward(self, x: Tensor) -> Tensor:
        shape = self.normalized_shape or x.shape[-1:]
        axis = x.rank - len(shape)
        if axis < 0 or x.shape[axis:] != shape:
            raise ShapeError(f"RMSNorm over {shape} does not fit the last axes of {x.name!r}: {x.type}")
        weight = self.parameter("weight", shape, self._given_weight, uniform(0.7, 1.3), x) if self.has_weight else None
        smallest = float(np.finfo(x.dtype.numpy).eps) if x.dtype.is_float else 0.0
        eps = smallest if self.eps is None else self.eps
        return apply(ops.RMSNorm(axis, eps), x, weight, name=self.path(x.scope))


class GroupNorm(Layer):
    """Normalisation to mean 0, variance 1 over each of num_groups groups of channels, then scale and shift by channel.

    x is [N, C, ...] of any rank from 2, and C a multiple of num_groups.
    """

    inferred = "num_channels"

    def __init__(
        self,
        num_groups: int,
        eps: float = 1e-5,
        affine: bool = True,
        *,
        weight: npt.ArrayLike | None = None,
        bias: npt.ArrayLike | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(name)
        self.num_groups = integer(num_groups, "GroupNorm: num_groups", low=1)
        self.eps = _leading_epsilon(eps, type(self).__name__)
        self.affine = flag(affine, f"{type(self).__name__}: affine")
        if not self.affine and (weight is not None or bias is not None):
            raise ShapeError("GroupNorm: affine=False leaves no place for weight and bias")
        self._given_weight, self._given_bias = weight, bias

    def groups(self, x: Tensor) -> int:
        return self.num_groups

    def forward(self, x: Tensor) -> Tensor:
        label = type(self).__name__
        if x.rank < 2 or x.shape[1] % self.groups(x):
            raise ShapeError(f"{label}: {self.groups(x)} groups of the channels of {x.name!r}: {x.type}")
        weight = bias = None
        if self.affine:
            weight = self.parameter("weight", x.shape[1:2], self._given_weight, uniform(0.7, 1.3), x)
            bias = self.parameter("bias", x.shape[1:2], self._given_bias, uniform(-0.2, 0.2), x)
        return apply(ops.GroupNorm(self.groups(x), self.eps), x, weight, bias, name=self.path(x.scope))


class InstanceNorm(GroupNorm):
    """Normalisation of each channel of each sample to mean 0, variance 1; with affine=True then scale and shift.

    momentum is PyTorch's argument and has no effect, for no statistics are kept.
    """

    rank: int | None = None
    inferred = "num_features"

    def __init__(
        self,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = False,
        *,
        weight: npt.ArrayLike | None = None,
        bias: npt.ArrayLike | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(1, eps, affine, weight=weight, bias=bias, name=name)

    def groups(self, x: Tensor) -> int:
        return max(x.shape[1], 1) if x.rank > 1 else 1

    def forward(self, x: Tensor) -> Tensor:
        label = type(self).__name__
        if self.rank is not None:
            require_rank(x, self.rank, label)
        if x.rank < 3:
            raise ShapeError(f"{label} takes [N, C, ...] with spatial axes, but {x.name!r} is {x.type}")
        return super().forward(x)


class InstanceNorm1d(InstanceNorm):
    """Instance normalisation of [N, C, L]. See InstanceNorm."""

    rank = 3


class InstanceNorm2d(InstanceNorm):
    """Instance normalisation of [N, C, H, W]. See InstanceNorm."""

    rank = 4


class InstanceNorm3d(InstanceNorm):
    """Instance normalisation of [N, C, D, H, W]. See InstanceNorm."""

    rank = 5


class LocalResponseNorm(Layer):
    """x / (k + alpha * mean of x^2 over `size` neighbouring channels)^beta: cross-channel normalisation.

    The window reaches size // 2 channels back; channels that do not exist count as zeros.
    """

    def __init__(
        self, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0, *, name: str | None = None
    ) -> None:
        super().__init__(name)
        self.size = integer(size, "LocalResponseNorm: size", low=1)
        self.alpha, self.beta, self.k = (
            real(value, f"LocalResponseNorm: {key}") for key, value in (("alpha", alpha), ("beta", beta), ("k", k))
        )

    def forward(self, x: Tensor) -> Tensor:
        if x.rank < 2:
            raise ShapeError(f"LocalResponseNorm takes [N, C, ...], but {x.name!r} is {x.type}")
        op = ops.LocalResponseNorm(self.size // 2, (self.size - 1) // 2, self.alpha, self.beta, self.k)
        return apply(op, x, name=self.path(x.scope))


class LpNormalize(Layer):
    """x / max(norm, eps), the p-norm being taken along one axis; torch.nn.functional.normalize."""

    def __init__(self, p: float = 2.0, dim: int = 1, eps: float = 1e-12, *, name: str | None = None) -> None:
        super().__init__(name)
        self.p = real(p, "LpNormalize: p")
        if not self.p > 0:
            raise ShapeError(f"LpNormalize: p is {p}; it must be positive")
        self.dim = integer(dim, "LpNormalize: dim")
        self.eps = _epsilon(eps, "LpNormalize")

    def forward(self, x: Tensor) -> Tensor:
        axis = normal_axis(self.dim, x.rank, "LpNormalize")
        return apply(ops.LpNormalize(axis, self.p, self.eps), x, name=self.path(x.scope))


class MeanVarianceNorm(Layer):
    """(x - mean) / (deviation + eps) over the given axes; ONNX's MeanVarianceNormalization, by default over N, H, W."""

    def __init__(self, axes: int | Sequence[int] = (0, 2, 3), eps: float = 1e-9, *, name: str | None = None) -> None:
        super().__init__(name)
        self.axes = dimensions(axes, "MeanVarianceNorm: axes")
        self.eps = _epsilon(eps, "MeanVarianceNorm")

    def forward(self, x: Tensor) -> Tensor:
        axes = sorted({normal_axis(axis, x.rank, "MeanVarianceNorm") for axis in self.axes})
        return mean_variance_norm(x, axes, literal(self.eps, x), parts(self.path(x.scope)))


def _epsilon(eps: float, layer: str) -> float:
    return real(eps, f"{layer}: eps", low=0.0)


def _leading_epsilon(eps: float, layer: str) -> float:
    """The same where PyTorch wants the number of features at this place."""
    if real(eps, f"{layer}: eps") >= 1:
        raise ShapeError(f"{layer}: eps is {eps}; it is below 1 (the number of features is inferred: leave it out)")
    return _epsilon(eps, layer)


def _last_axes(shape: int | Sequence[int] | None, layer: str) -> tuple[int, ...] | None:
    if shape is None:
        return None
    given = tuple(shape) if isinstance(shape, Sequence) else (shape,)
    return extents(given, len(given), f"{layer}: normalized_shape")
