"""Linear layer and matrix product."""

from __future__ import annotations

import numpy.typing as npt

from glulam.compiler import ops
from glulam.compiler.errors import ShapeError
from glulam.frontends.layers.arguments import bias_argument, integer, real
from glulam.frontends.layers.initial import he, uniform
from glulam.frontends.layers.module import Layer
from glulam.frontends.layers.tensor import Tensor, apply


class Linear(Layer):
    """x W^T + b over the last axis: [..., K] becomes [..., out_features]; the weight is [out_features, K].

    bias: whether there is one, or its array. weight: an array. init_gain: the drawn weight has variance
    init_gain / K; None for what suits data after a ReLU. PyTorch's first argument, in_features, is left out.
    """

    inferred = "in_features"

    def __init__(
        self,
        out_features: int,
        bias: bool | npt.ArrayLike = True,
        *,
        weight: npt.ArrayLike | None = None,
        init_gain: float | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(name)
        self.out_features = integer(out_features, "Linear: out_features", low=1)
        self.has_bias, self._given_bias = bias_argument(bias, "Linear", self.inferred)
        self._given_weight = weight
        self.init_gain = None if init_gain is None else real(init_gain, "Linear: init_gain", low=0.0)

    def forward(self, x: Tensor) -> Tensor:
        if x.rank < 1:
            raise ShapeError(f"Linear takes [..., features], but {x.name!r} is {x.type}")
        features = x.shape[-1]
        shape = (self.out_features, features)
        weight = self.parameter("weight", shape, self._given_weight, he(features, self.init_gain), x)
        bias = None
        if self.has_bias:
            bias = self.parameter("bias", shape[:1], self._given_bias, uniform(-0.1, 0.1), x)
        return apply(ops.Linear(), x, weight, bias, name=self.path(x.scope))


class Matmul(Layer):
    """The matrix product of two tensors, with numpy's broadcasting of the leading axes."""

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return apply(ops.MatMul(), left, right, name=self.path(left.scope))
