"""Activations: pointwise ops of one value (PReLU: and a slope), stable for every finite and infinite input.

Where the definition itself is inf * 0 (SiLU, Mish, hard swish and GELU at -inf) the result is NaN, as in PyTorch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from glulam.compiler.graph.op import Case
from glulam.compiler.graph.types import DType, f32
from glulam.compiler.loops import expr as ex
from glulam.compiler.loops.expr import Expr
from glulam.compiler.ops.inputs import NUMBERS, UNSIGNED, f64, i64
from glulam.compiler.ops.pointwise import Pointwise


def clamp(x: Expr, low: float, high: float) -> Expr:
    """min(max(x, low), high); a bound that nothing exceeds costs nothing."""
    least, most = bounds(x.dtype, low, high)
    x = x if least is None else ex.maximum(x, least)
    return x if most is None else ex.minimum(x, most)


def bounds(dtype: DType, low: float, high: float) -> tuple[float | None, float | None]:
    """The least and the most that a number of this type may be between the bounds, None where the type is within."""
    if dtype.is_float:
        return (None if low == -math.inf else float(low)), (None if high == math.inf else float(high))
    limits = np.iinfo(dtype.numpy.name)
    least = None if low <= limits.min else math.ceil(min(low, limits.max))
    return least, None if high >= limits.max else math.floor(max(high, limits.min))


def log1p(x: Expr) -> Expr:
    """log(1 + x) for x in [0, 1], accurate for tiny x (Kahan's correction of the rounding of 1 + x)."""
    sum = x + 1
    return ex.where(ex.equal(sum, 1), x, ex.log(sum) * (x / (sum - 1)))


class Relu(Pointwise):
    """max(x, 0)."""

    name = "relu"
    accepts = NUMBERS - UNSIGNED

    def formula(self, x: Expr) -> Expr:
        return ex.maximum(x, 0)


@dataclass(frozen=True)
class LeakyRelu(Pointwise):
    """x, or alpha * x below 0."""

    alpha: float = 0.01

    name = "leaky_relu"

    def formula(self, x: Expr) -> Expr:
        return ex.where(x < 0, x * self.alpha, x)

    @classmethod
    def samples(cls) -> Sequence[Self]:
        return (cls(), cls(0.3))


class PRelu(Pointwise):
    """x, or slope * x below 0; the slope broadcasts as in numpy, so a slope per channel has shape [C,1,1]."""

    name = "prelu"
    arity = 2
    accepts = NUMBERS

    def formula(self, x: Expr, slope: Expr) -> Expr:
        return ex.where(x < 0, slope * x, x)

    @classmethod
    def cases(cls) -> Sequence[Case]:
        weights = frozenset({1})
        return (
            Case(cls(), (f32(2, 17, 3, 5), f32(17, 1, 1)), constants=weights),
            Case(cls(), (f32(1, 33, 7), f32(1, 1)), constants=weights),
            Case(cls(), (f32(3, 7), f32(7)), constants=weights),
            Case(cls(), (f32(3, 7), f32(3, 7))),
            Case(cls(), (f32(), f32())),
            Case(cls(), (f32(0, 3), f32(3)), constants=weights),
            Case(cls(), (f64(2, 3), f64(3)), constants=weights),
            Case(cls(), (i64(2, 3), i64(3)), constants=weights),
            Case(cls(), cls.edges()),
        )


@dataclass(frozen=True)
class ThresholdedRelu(Pointwise):
    """x above alpha, else 0 (so NaN becomes 0, as ONNX defines it)."""

    alpha: float = 1.0

    name = "thresholded_relu"

    def formula(self, x: Expr) -> Expr:
        return ex.where(x > self.alpha, x, 0)

    @classmethod
    def samples(cls) -> Sequence[Self]:
        return (cls(), cls(-0.5))


@dataclass(frozen=True)
class Clip(Pointwise):
    """min(max(x, low), high): ReLU6 is Clip(0, 6). Infinite bounds mean none."""

    low: float = -math.inf
    high: float = math.inf

    name = "clip"
    accepts = NUMBERS

    def formula(self, x: Expr) -> Expr:
        return clamp(x, self.low, self.high)

    @classmethod
    def samples(cls) -> Sequence[Self]:
        return (cls(0.0, 6.0), cls(), cls(-1.0, 1.0), cls(high=1.0), cls(low=0.0), cls(2.0, 1.0))

    @classmethod
    def cases(cls) -> Sequence[Case]:
        codes = np.arange(0, 256, 5, dtype=np.uint8)
        beyond = (cls(-20.0, 90.0), cls(0.5, 300.0), cls(-200.0, 99.9), cls(1e30), cls(high=-1e30))
        return (*super().cases(), *(Case(op, (x,)) for op in beyond for x in (codes, codes.view(np.int8))))


@dataclass(frozen=True)
class Elu(Pointwise):
    """x above 0, else alpha * (e**x - 1)."""

    alpha: float = 1.0

    name = "elu"

    def formula(self, x: Expr) -> Expr:
        return ex.where(x > 0, x, (ex.exp(x) - 1) * self.alpha)

    @classmethod
    def samples(cls) -> Sequence[Self]:
        return (cls(), cls(0.5))


@dataclass(frozen=True)
class Celu(Pointwise):
    """x above 0, else alpha * (e**(x / alpha) - 1)."""

    alpha: float = 1.0

    name = "celu"

    def formula(self, x: Expr) -> Expr:
        if self.alpha == 0:
            raise self.fail("alpha is 0, by which the formula divides")
        return ex.where(x > 0, x, (ex.exp(x * (1 / self.alpha)) - 1) * self.alpha)

    @classmethod
    def samples(cls) -> Sequence[Self]:
        return (cls(), cls(2.0))


@dataclass(frozen=True)
class Selu(Pointwise):
    """gamma * x above 0, else gamma * alpha * (e**x - 1)."""

    alpha: float = 1.67326319217681884765625
    gamma: float = 1.05070102214813232421875

    name = "selu"

    def formula(self, x: Expr) -> Expr:
        return ex.where(x > 0, x * self.gamma, (ex.exp(x) - 1) * (self.alpha * self.gamma))

    @classmethod
    def samples(cls) -> Sequence[Self]:
        return (cls(), cls(2.0, 3.0))


class Sigmoid(Pointwise):
    """1 / (1 + e**-x): where e**-x overflows, 1 / inf is the right 0."""

    name = "sigmoid"

    def formula(self, x: Expr) -> Expr:
        return 1 / (ex.exp(-x) + 1)


@dataclass(frozen=True)
class HardSigmoid(Pointwise):
    """alpha * x + beta, clipped to [0, 1]."""

    alpha: float = 0.2
    beta: float = 0.5

    name = "hard_sigmoid"

    def formula(self, x: Expr) -> Expr:
        return clamp(x * self.alpha + self.beta, 0.0, 1.0)

    @classmethod
    def samples(cls) -> Sequence[Self]:
        return (cls(), cls(1 / 6, 0.5))


class Tanh(Pointwise):
    """Hyperbolic tangent."""

    name = "tanh"

    def formula(self, x: Expr) -> Expr:
        return ex.tanh(x)


class Silu(Pointwise):
    """x * sigmoid(x), also called Swish."""

    name = "silu"

    def formula(self, x: Expr) -> Expr:
        return x / (ex.exp(-x) + 1)


class HardSwish(Pointwise):
    """x * clip(x / 6 + 1 / 2, 0, 1)."""

    name = "hard_swish"

    def formula(self, x: Expr) -> Expr:
        return x * clamp(x * (1 / 6) + 0.5, 0.0, 1.0)


class Mish(Pointwise):
    """x * tanh(log(1 + e**x)).

    With e = e**x the tanh is n / (n + 2) for n = e * (e + 2); beyond x = 40 it is 1 in any precision offered here.
    """

    name = "mish"

    def formula(self, x: Expr) -> Expr:
        e = ex.exp(ex.minimum(x, 40.0))
        n = e * (e + 2)
        return x * (n / (n + 2))


@dataclass(frozen=True)
class Gelu(Pointwise):
    """x times the normal distribution function of x, by erf ("none") or PyTorch's "tanh" approximation."""

    approximate: str = "none"

    name = "gelu"

    def formula(self, x: Expr) -> Expr:
        match self.approximate:
            case "none":
                return (x * 0.5) * (ex.erf(x * math.sqrt(0.5)) + 1)
            case "tanh":
                scale = math.sqrt(2 / math.pi)
                return (x * 0.5) * (ex.tanh(x * (x * x * (0.044715 * scale) + scale)) + 1)
        raise self.fail(f"approximate is {self.approximate!r}; it is 'none' or 'tanh'")

    @classmethod
    def samples(cls) -> Sequence[Self]:
        return (cls(), cls("tanh"))


@dataclass(frozen=True)
class Softplus(Pointwise):
    """log(1 + e**(beta * x)) / beta, and x itself where beta * x > threshold (PyTorch; inf for none, as in ONNX)."""

    beta: float = 1.0
    threshold: float = math.inf

    name = "softplus"

    def formula(self, x: Expr) -> Expr:
        if self.beta == 0:
            raise self.fail("beta is 0, by which the formula divides")
        z = x if self.beta == 1 else x * self.beta
        smooth = ex.maximum(z, 0) + log1p(ex.exp(-ex.absolute(z)))
        if self.beta != 1:
            smooth = smooth * (1 / self.beta)
        return smooth if self.threshold == math.inf else ex.where(z > self.threshold, x, smooth)

    @classmethod
    def samples(cls) -> Sequence[Self]:
        return (cls(), cls(1.0, 20.0), cls(2.0, 3.0))


class Softsign(Pointwise):
    """x / (1 + |x|)."""

    name = "softsign"

    def formula(self, x: Expr) -> Expr:
        return x / (ex.absolute(x) + 1)


@dataclass(frozen=True)
class Shrink(Pointwise):
    """x + bias below -lambd, x - bias above lambd, else 0."""

    bias: float = 0.0
    lambd: float = 0.5

    name = "shrink"

    def formula(self, x: Expr) -> Expr:
        return ex.where(x < -self.lambd, x + self.bias, ex.where(x > self.lambd, x - self.bias, 0))

    @classmethod
    def samples(cls) -> Sequence[Self]:
        return (cls(), cls(0.5, 1.5))
