"""Products of computed matrices of bytes: the right one as words of four rows, packed at each run."""

from __future__ import annotations

import math
from collections.abc import Sequence

from glulam.compiler.graph.types import DType
from glulam.compiler.kernels import gemm
from glulam.compiler.kernels.byte_words import WORD, in_words
from glulam.compiler.kernels.context import Context, Lowered, vectors
from glulam.compiler.kernels.nest import nest
from glulam.compiler.kernels.transpose import transpose
from glulam.compiler.loops import expr as ex
from glulam.compiler.loops.expr import Cast, Const, Expr
from glulam.compiler.loops.index import Affine


def pack(ctx: Context, perm: Sequence[int]) -> Lowered:
    """The kernel of four rows each of x[*, K, N] as one row of words; with a `perm`, of x's own words, transposed."""
    if perm:
        return transpose(Context(ctx.name, ctx.target, [in_words(ctx.operand(0))], ctx.outputs), perm)
    *batch, rows, columns = ctx.operand(0).shape
    full, rest = divmod(rows, WORD)
    _pack_rows(ctx, (*batch, full), columns, 0, WORD)
    if rest:
        _pack_rows(ctx, (*batch, 1), columns, full, rest)
    return ctx.finished()


def _pack_rows(ctx: Context, extents: Sequence[int], columns: int, first: int, count: int) -> None:
    """Rows of words from the `first` on, of `count` rows of bytes each."""
    b, cost = ctx.builder, 2 * WORD * columns

    def row(place: Sequence[Affine]) -> None:
        *batch, k = place

        def word(column: Affine) -> None:
            codes = [
                Cast(ctx.input_view(0)[(*batch, (k + first) * WORD + i, column)], DType.I32) & Const(0xFF, DType.I32)
                for i in range(count)
            ]
            value: Expr = codes[0]
            for i, code in enumerate(codes[1:], 1):
                value = value | ex.binary("shl", code, 8 * i)
            b.store(ctx.output_view()[(*batch, k + first, column)], value)

        vectors(b, columns, ctx.target.lanes, word)

    if math.prod(extents):
        nest(b, extents, cost, row)


def multiply(ctx: Context) -> Lowered:
    """The kernel of a[*, M, K] @ b[*, K, N], of U8 and I8, the rows of b as words."""
    inputs = [in_words(ctx.operand(0)), *ctx.inputs[1:]]
    return gemm.matmul(Context(ctx.name, ctx.target, inputs, ctx.outputs, ctx.epilogue), of_bytes=True)
