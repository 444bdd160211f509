"""ONNX matrix products."""

from __future__ import annotations

from glulam.compiler.graph.graph import Value
from glulam.compiler.graph.types import DType
from glulam.compiler.ops.matmul import Linear, MatMul
from glulam.compiler.ops.movement import Reshape, Transpose
from glulam.compiler.ops.pointwise import Add, Mul
from glulam.frontends.onnx.context import Context, Converter


def matmul(ctx: Context) -> Value:
    return ctx.apply(MatMul(), ctx[0], ctx[1])


def gemm(ctx: Context) -> Value:
    """alpha * A' B' + beta * C; with a constant B, alpha = 1 and a C that is one row it is a linear layer with bias.

    Factors scale integers in float64, and the sum is rounded once. With beta = 0, C is not looked at.
    """
    a, b = ctx[0], ctx[1]
    alpha, beta = ctx.number("alpha", 1.0), ctx.number("beta", 1.0)
    c = ctx.optional(2) if beta != 0 else None
    ctx.ignore("broadcast")
    if len(a.shape) != 2 or len(b.shape) != 2:
        raise ctx.malformed(f"Gemm of {a.type} and {b.type}; it takes matrices")
    dtype = a.type.dtype
    through = None if dtype.is_float or (alpha == 1.0 and (c is None or beta == 1.0)) else DType.F64
    if ctx.flag("transA"):
        a = ctx.apply(Transpose((1, 0)), a)
    if c is not None:
        c = _scaled(ctx, c, beta, through)
    if b.is_constant and dtype.is_float:
        weights = b if ctx.flag("transB") else ctx.apply(Transpose((1, 0)), b)
        columns = weights.shape[0]
        if c is not None and alpha == 1.0 and c.shape in ((columns,), (1, columns)):
            return ctx.apply(Linear(), a, weights, c if len(c.shape) == 1 else ctx.apply(Reshape((columns,)), c))
        y = ctx.apply(Linear(), a, weights, None)
    else:
        y = ctx.apply(MatMul(), a, ctx.apply(Transpose((1, 0)), b) if ctx.flag("transB") else b)
    out = y = _scaled(ctx, y, alpha, through)
    if c is not None:
        out = ctx.apply(Add(), y, c)
        if out.shape != y.shape:
            raise ctx.malformed(f"C of shape {c.shape} does not broadcast to {y.shape}")
    return out if through is None else ctx.cast(out, dtype)


def _scaled(ctx: Context, x: Value, factor: float, through: DType | None) -> Value:
    """The product with a number, in another type if one is given."""
    if through is not None:
        x = ctx.cast(x, through)
    return x if factor == 1.0 else ctx.apply(Mul(), x, ctx.constant(factor, x.type.dtype))


TABLE: dict[str, Converter] = {"MatMul": matmul, "Gemm": gemm}
