"""Activations. `inplace`, PyTorch's argument, is accepted where PyTorch has it and has no effect."""

from __future__ import annotations

import math

import numpy.typing as npt

from glulam.compiler import ops
from glulam.compiler.errors import ShapeError
from glulam.compiler.graph.op import Op
from glulam.frontends.layers.arguments import choice, integer, real
from glulam.frontends.layers.initial import uniform
from glulam.frontends.layers.module import Layer
from glulam.frontends.layers.tensor import Tensor, apply, normal_axis


class _Activation(Layer):
    """A layer whose node applies one pointwise op without inputs of its own."""

    def __init__(self, op: Op, name: str | None) -> None:
        super().__init__(name)
        self.op = op

    def forward(self, x: Tensor) -> Tensor:
        return apply(self.op, x, name=self.path(x.scope))


class ReLU(_Activation):
    """max(x, 0)."""

    def __init__(self, inplace: bool = False, *, name: str | None = None) -> None:
        super().__init__(ops.Relu(), name)


class Clip(_Activation):
    """min(max(x, min), max); a bound that is None does not bind."""

    def __init__(self, min: float | None = None, max: float | None = None, *, name: str | None = None) -> None:
        label = type(self).__name__
        low = -math.inf if min is None else real(min, f"{label}: the lower bound")
        high = math.inf if max is None else real(max, f"{label}: the upper bound")
        if not low <= high:
            raise ShapeError(f"{label}: the lower bound {low} is above the upper bound {high}")
        super().__init__(ops.Clip(low, high), name)


class ReLU6(Clip):
    """min(max(x, 0), 6)."""

    def __init__(self, inplace: bool = False, *, name: str | None = None) -> None:
        super().__init__(0.0, 6.0, name=name)


class Hardtanh(Clip):
    """min(max(x, min_val), max_val)."""

    def __init__(
        self, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False, *, name: str | None = None
    ) -> None:
        super().__init__(min_val, max_val, name=name)


class LeakyReLU(_Activation):
    """x where x >= 0, else negative_slope x."""

    def __init__(self, negative_slope: float = 0.01, inplace: bool = False, *, name: str | None = None) -> None:
        super().__init__(ops.LeakyRelu(real(negative_slope, "LeakyReLU: negative_slope")), name)


class PReLU(Layer):
    """x where x >= 0, else weight x; num_parameters is 1 or the number of channels."""

    def __init__(
        self,
        num_parameters: int = 1,
        init: float | None = None,
        *,
        weight: npt.ArrayLike | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(name)
        self.num_parameters = integer(num_parameters, "PReLU: num_parameters", low=1)
        self.init = None if init is None else real(init, "PReLU: init")
        self._given_weight = weight

    def forward(self, x: Tensor) -> Tensor:
        channels = x.shape[1] if x.rank > 1 else 1
        if self.num_parameters not in (1, channels):
            raise ShapeError(f"PReLU: {self.num_parameters} slopes for the {channels} channels of {x.name!r}")
        draw = uniform(0.1, 0.4) if self.init is None else uniform(self.init, self.init)
        weight = self.parameter("weight", (self.num_parameters,), self._given_weight, draw, x)
        path = self.path(x.scope)
        slope = weight
        if self.num_parameters > 1:
            shape = (channels, *(1,) * (x.rank - 2))
            slope = apply(ops.Reshape(shape), weight, name=f"{path}.slope", scope=x.scope)
        return apply(ops.PRelu(), x, slope, name=path)


class ELU(_Activation):
    """x where x > 0, else alpha (exp(x) - 1)."""

    def __init__(self, alpha: float = 1.0, inplace: bool = False, *, name: str | None = None) -> None:
        super().__init__(ops.Elu(real(alpha, "ELU: alpha")), name)


class SELU(_Activation):
    """gamma x where x > 0, else gamma alpha (exp(x) - 1), with the constants of Klambauer et al. (2017)."""

    def __init__(self, inplace: bool = False, *, name: str | None = None) -> None:
        super().__init__(ops.Selu(1.6732632423543772, 1.0507009873554805), name)


class CELU(_Activation):
    """max(x, 0) + min(0, alpha (exp(x / alpha) - 1))."""

    def __init__(self, alpha: float = 1.0, inplace: bool = False, *, name: str | None = None) -> None:
        op = ops.Celu(real(alpha, "CELU: alpha"))
        if alpha == 0:
            raise ShapeError("CELU: alpha is 0; it must not be, for x is divided by it")
        super().__init__(op, name)


class GELU(_Activation):
    """x Phi(x); approximate="tanh" is 0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))."""

    def __init__(self, approximate: str = "none", *, name: str | None = None) -> None:
        super().__init__(ops.Gelu(choice(approximate, ("none", "tanh"), "GELU: approximate")), name)


class SiLU(_Activation):
    """x sigmoid(x), also known as Swish."""

    def __init__(self, inplace: bool = False, *, name: str | None = None) -> None:
        super().__init__(ops.Silu(), name)


class Sigmoid(_Activation):
    """1 / (1 + exp(-x))."""

    def __init__(self, *, name: str | None = None) -> None:
        super().__init__(ops.Sigmoid(), name)


class Tanh(_Activation):
    """tanh(x)."""

    def __init__(self, *, name: str | None = None) -> None:
        super().__init__(ops.Tanh(), name)


class Hardswish(_Activation):
    """x clip(x / 6 + 1 / 2, 0, 1)."""

    def __init__(self, inplace: bool = False, *, name: str | None = None) -> None:
        super().__init__(ops.HardSwish(), name)


class Hardsigmoid(_Activation):
    """clip(x / 6 + 1 / 2, 0, 1)."""

    def __init__(self, inplace: bool = False, *, name: str | None = None) -> None:
        super().__init__(ops.HardSigmoid(1.0 / 6.0, 0.5), name)


class Softplus(_Activation):
    """log(1 + exp(beta x)) / beta; x itself where beta x > threshold."""

    def __init__(self, beta: float = 1.0, threshold: float = 20.0, *, name: str | None = None) -> None:
        op = ops.Softplus(real(beta, "Softplus: beta"), real(threshold, "Softplus: threshold"))
        if beta == 0:
            raise ShapeError("Softplus: beta is 0; it must not be, for the result is divided by it")
        super().__init__(op, name)


class Softsign(_Activation):
    """x / (1 + |x|)."""

    def __init__(self, *, name: str | None = None) -> None:
        super().__init__(ops.Softsign(), name)


class Mish(_Activation):
    """x tanh(log(1 + exp(x)))."""

    def __init__(self, inplace: bool = False, *, name: str | None = None) -> None:
        super().__init__(ops.Mish(), name)


class Softmax(Layer):
    """exp(x) / sum(exp(x)) along an axis, by default the last one."""

    def __init__(self, dim: int = -1, *, name: str | None = None) -> None:
        super().__init__(name)
        self.dim = integer(dim, "Softmax: dim")

    def forward(self, x: Tensor) -> Tensor:
        return apply(ops.Softmax(normal_axis(self.dim, x.rank, "Softmax")), x, name=self.path(x.scope))


class LogSoftmax(Layer):
    """log(softmax(x)) along an axis, by default the last one."""

    def __init__(self, dim: int = -1, *, name: str | None = None) -> None:
        super().__init__(name)
        self.dim = integer(dim, "LogSoftmax: dim")

    def forward(self, x: Tensor) -> Tensor:
        return apply(ops.LogSoftmax(normal_axis(self.dim, x.rank, "LogSoftmax")), x, name=self.path(x.scope))
