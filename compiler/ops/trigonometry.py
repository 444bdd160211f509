"""Trigonometric and hyperbolic functions beyond sine, cosine and tanh, and the inverse ones."""

from __future__ import annotations

import numpy as np

from glulam.compiler.graph.types import Array
from glulam.compiler.loops import expr as ex
from glulam.compiler.loops.expr import Expr
from glulam.compiler.ops.pointwise import Pointwise


class Tan(Pointwise):
    """Tangent of radians."""

    name = "tan"

    def formula(self, x: Expr) -> Expr:
        return ex.unary("tan", x)

    @classmethod
    def edges(cls) -> tuple[Array, ...]:
        return (np.array([0, -0.0, 1e-6, 1.5, -100, 1000, np.inf, -np.inf, np.nan], np.float32),)


class Asin(Pointwise):
    """Inverse sine in [-pi/2, pi/2]; NaN outside [-1, 1]."""

    name = "asin"

    def formula(self, x: Expr) -> Expr:
        return ex.unary("asin", x)


class Acos(Pointwise):
    """Inverse cosine in [0, pi]; NaN outside [-1, 1]."""

    name = "acos"

    def formula(self, x: Expr) -> Expr:
        return ex.unary("acos", x)


class Atan(Pointwise):
    """Inverse tangent in [-pi/2, pi/2]."""

    name = "atan"

    def formula(self, x: Expr) -> Expr:
        return ex.unary("atan", x)


class Sinh(Pointwise):
    """Hyperbolic sine."""

    name = "sinh"

    def formula(self, x: Expr) -> Expr:
        return ex.unary("sinh", x)


class Cosh(Pointwise):
    """Hyperbolic cosine."""

    name = "cosh"

    def formula(self, x: Expr) -> Expr:
        return ex.unary("cosh", x)


class Asinh(Pointwise):
    """Inverse hyperbolic sine."""

    name = "asinh"

    def formula(self, x: Expr) -> Expr:
        return ex.unary("asinh", x)


class Acosh(Pointwise):
    """Inverse hyperbolic cosine; NaN below 1."""

    name = "acosh"

    def formula(self, x: Expr) -> Expr:
        return ex.unary("acosh", x)


class Atanh(Pointwise):
    """Inverse hyperbolic tangent: infinite at -1 and 1, NaN outside."""

    name = "atanh"

    def formula(self, x: Expr) -> Expr:
        return ex.unary("atanh", x)
