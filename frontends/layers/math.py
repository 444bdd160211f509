"""The functions of formulas, `gl.math`: numpy's own, and some that numpy has not.

All take symbolic values (see `symbol`), numbers and numpy arrays.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from glulam.compiler.loops.expr import UNARY
from glulam.compiler.ops.activation import Sigmoid, Softplus
from glulam.frontends.layers.symbol import Symbol, apply_op, apply_unary

__all__ = [
    "abs", "ceil", "clip", "cos", "erf", "exp", "expm1", "floor", "log", "log1p", "logical_and", "logical_not",
    "logical_or", "max", "maximum", "mean", "min", "minimum", "pow", "prod", "relu", "round", "rsqrt", "sigmoid",
    "sign",
    "sin", "softplus", "sqrt", "square", "std", "sum", "tanh", "var", "where",
]  # fmt: skip

exp, expm1, log, log1p, sqrt, square, pow = np.exp, np.expm1, np.log, np.log1p, np.sqrt, np.square, np.power
sin, cos, tanh = np.sin, np.cos, np.tanh
abs, sign, floor, ceil, round = np.abs, np.sign, np.floor, np.ceil, np.rint
maximum, minimum = np.maximum, np.minimum
where, logical_and, logical_or, logical_not = np.where, np.logical_and, np.logical_or, np.logical_not


def rsqrt(x: Any) -> Any:
    """1 / sqrt(x)."""
    return 1 / sqrt(x)


def relu(x: Any) -> Any:
    """max(x, 0)."""
    return maximum(x, 0)


def clip(x: Any, low: Any = None, high: Any = None) -> Any:
    """min(max(x, low), high); a bound that is None does not bind."""
    return np.clip(x, low, high)


def erf(x: Any) -> Any:
    """The error function."""
    return apply_unary("erf", x) if isinstance(x, Symbol) else UNARY["erf"](x)


def sigmoid(x: Any) -> Any:
    """1 / (1 + exp(-x)), exact at both ends."""
    return apply_op(Sigmoid(), x) if isinstance(x, Symbol) else 0.5 * (1 + np.tanh(np.multiply(x, 0.5)))


def softplus(x: Any) -> Any:
    """log(1 + exp(x)), without overflow."""
    return apply_op(Softplus(1.0, np.inf), x) if isinstance(x, Symbol) else np.logaddexp(x, np.zeros_like(x))


def sum(x: Any, axis: Any = None, keepdims: bool = False) -> Any:
    """Over an axis, several, or all of them (None); so are the other reductions."""
    return np.sum(x, axis=axis, keepdims=keepdims)


def prod(x: Any, axis: Any = None, keepdims: bool = False) -> Any:
    """The product of the elements."""
    return np.prod(x, axis=axis, keepdims=keepdims)


def mean(x: Any, axis: Any = None, keepdims: bool = False) -> Any:
    """The mean of the elements."""
    return np.mean(x, axis=axis, keepdims=keepdims)


def max(x: Any, axis: Any = None, keepdims: bool = False) -> Any:
    """The largest element; NaN if one is."""
    return np.max(x, axis=axis, keepdims=keepdims)


def min(x: Any, axis: Any = None, keepdims: bool = False) -> Any:
    """The smallest element; NaN if one is."""
    return np.min(x, axis=axis, keepdims=keepdims)


def var(x: Any, axis: Any = None, keepdims: bool = False) -> Any:
    """The variance, of the elements alone (divided by their number)."""
    return np.var(x, axis=axis, keepdims=keepdims)


def std(x: Any, axis: Any = None, keepdims: bool = False) -> Any:
    """The square root of the variance."""
    return np.std(x, axis=axis, keepdims=keepdims)
