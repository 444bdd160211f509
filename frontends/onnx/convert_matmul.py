"""ONNX matrix products."""

from __future__ import annotations

from glulam.compiler.graph.graph import Value
from glulam.compiler.ops.matmul import Linear, MatMul
from glulam.compiler.ops.movement import Reshape, Transpose
from glulam.compiler.ops.pointwise import Add, Mul
from glulam.frontends.onnx.context import Context, Converter


def matmul(ctx: Context) -> Value:
    return ctx.apply(MatMul(), ctx[0], ctx[1])


def gemm(ctx: Context) -> Value:
    """alpha * A' B' + beta * C; with a constant B, alpha = 1 and a C that is one row it is a linear layer with bias."""
    a, b, c = ctx[0], ctx[1], ctx.optional(2)
    alpha, beta = ctx.number("alpha", 1.0), ctx.number("beta", 1.0)
    ctx.ignore("broadcast")
    if len(a.shape) != 2 or len(b.shape) != 2:
        raise ctx.malformed(f"Gemm of {a.type} and {b.type}; it takes matrices")
    if ctx.flag("transA"):
        a = ctx.apply(Transpose((1, 0)), a)
    if c is not None and beta != 1.0:
        c = ctx.apply(Mul(), c, ctx.constant(beta, c.type.dtype))
    if b.is_constant and a.type.dtype.is_float:
        weights = b if ctx.flag("transB") else ctx.apply(Transpose((1, 0)), b)
        columns = weights.shape[0]
        if c is not None and alpha == 1.0 and c.shape in ((columns,), (1, columns)):
            return ctx.apply(Linear(), a, weights, c if len(c.shape) == 1 else ctx.apply(Reshape((columns,)), c))
        y = ctx.apply(Linear(), a, weights, None)
    else:
        y = ctx.apply(MatMul(), a, ctx.apply(Transpose((1, 0)), b) if ctx.flag("transB") else b)
    if alpha != 1.0:
        y = ctx.apply(Mul(), y, ctx.constant(alpha, y.type.dtype))
    if c is None:
        return y
    out = ctx.apply(Add(), y, c)
    if out.shape != y.shape:
        raise ctx.malformed(f"C of shape {c.shape} does not broadcast to {y.shape}")
    return out


TABLE: dict[str, Converter] = {"MatMul": matmul, "Gemm": gemm}
