"""Products of two computed matrices of bytes, with exact sums. A pass puts these ops in; no frontend does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from glulam.compiler.graph.op import Case, Op, Trait
from glulam.compiler.graph.types import Array, DType, TensorType
from glulam.compiler.kernels import byte_matmul
from glulam.compiler.kernels.byte_words import WORD
from glulam.compiler.kernels.context import Context, Lowered
from glulam.compiler.ops.inputs import product_flops, required, wide


@dataclass(frozen=True)
class PackWords(Op):
    """I8 [*, K, N] as I32 [*, ceil(K / 4), N]: four rows are one row of words, the first of them in the lowest bytes.

    Rows that are missing are zeros. With a `perm`, four elements along the last axis, of a multiple of four, are a word
    instead, and axis i of the result is axis perm[i] of such words.
    """

    perm: tuple[int, ...] = ()

    name = "pack_words"

    def infer(self, *inputs: TensorType | None) -> tuple[TensorType, ...]:
        (x,) = required(self, inputs, 1)
        if x.dtype is not DType.I8 or x.rank < 2:
            raise self.fail(f"input {x} is no matrix of i8")
        if not self.perm:
            *batch, rows, columns = x.shape
            return (TensorType(DType.I32, (*batch, -(-rows // WORD), columns)),)
        if sorted(self.perm) != list(range(x.rank)) or x.shape[-1] % WORD:
            raise self.fail(f"{self.perm} is no order of the axes of {x}, or the last one is no multiple of {WORD}")
        words = (*x.shape[:-1], x.shape[-1] // WORD)
        return (TensorType(DType.I32, tuple(words[axis] for axis in self.perm)),)

    def reference(self, *inputs: Array | None) -> tuple[Array, ...]:
        (x,) = required(self, inputs, 1)
        if self.perm:
            return (np.ascontiguousarray(np.ascontiguousarray(x).view("<i4").transpose(self.perm)),)
        missing = -x.shape[-2] % WORD
        padded = np.pad(x, [(0, 0)] * (x.ndim - 2) + [(0, missing), (0, 0)])
        rows = padded.reshape(*x.shape[:-2], -1, WORD, x.shape[-1])
        return (np.ascontiguousarray(np.moveaxis(rows, -2, -1)).view("<i4")[..., 0],)

    def lower(self, ctx: Context) -> Lowered:
        return byte_matmul.pack(ctx, self.perm)

    @classmethod
    def cases(cls) -> Sequence[Case]:
        shapes = ((4, 16), (1, 1), (7, 17), (2, 3, 13, 70), (5, 3))
        return (
            *(Case(cls(), (_bytes(shape, np.int8),)) for shape in shapes),
            Case(cls((1, 0)), (_bytes((7, 12), np.int8),)),
            Case(cls((0, 2, 3, 1)), (_bytes((2, 17, 3, 32), np.int8),)),
        )


class MatMulWords(Op):
    """a[*, M, K] @ b[*, K, N], of U8 and I8, in I32, which sums must not exceed; batch axes broadcast as numpy's do.

    K is a multiple of four, and the rows of b come as words, see PackWords: [*, K / 4, N].
    """

    name = "matmul_words"
    traits = frozenset({Trait.ANCHOR, Trait.CONVERTS})

    def infer(self, *inputs: TensorType | None) -> tuple[TensorType, ...]:
        a, words = required(self, inputs, 2)
        if (a.dtype, words.dtype) != (DType.U8, DType.I32):
            raise self.fail(f"inputs of types {a} and {words}; they are u8, and i32 for four i8")
        if min(a.rank, words.rank) < 2 or a.shape[-1] != words.shape[-2] * WORD:
            raise self.fail(f"{a} does not fit rows of words {words}")
        try:
            batch = np.broadcast_shapes(a.shape[:-2], words.shape[:-2])
        except ValueError as error:
            raise self.fail(f"the batches of {a} and {words} do not broadcast") from error
        return (TensorType(DType.I32, (*batch, a.shape[-2], words.shape[-1])),)

    def reference(self, *inputs: Array | None) -> tuple[Array, ...]:
        a, words = required(self, inputs, 2)
        split = np.ascontiguousarray(words)[..., None].view(np.int8)  # [*, K / 4, N, 4]
        rows = np.swapaxes(split, -2, -1).reshape(*words.shape[:-2], -1, words.shape[-1])
        return ((wide(a) @ wide(rows)).astype(np.int32),)

    def flops(self, inputs: Sequence[TensorType | None], outputs: Sequence[TensorType]) -> int:
        return product_flops(inputs, outputs)

    def lower(self, ctx: Context) -> Lowered:
        return byte_matmul.multiply(ctx)

    @classmethod
    def cases(cls) -> Sequence[Case]:
        return (
            _case((7, 16), (4, 33)),
            _case((1, 4), (1, 1)),
            _case((2, 3, 13, 52), (2, 3, 13, 17)),
            _case((3, 1, 5, 8), (2, 2, 70)),
            _case((50, 260), (65, 13)),
        )


def _case(a: Sequence[int], words: Sequence[int]) -> Case:
    return Case(MatMulWords(), (_bytes(a, np.uint8), _bytes((*words[:-1], words[-1] * WORD), np.int8).view("<i4")))


def _bytes(shape: Sequence[int], dtype: type[np.integer]) -> Array:
    """From one end to the other."""
    limits = np.iinfo(dtype)
    return np.random.default_rng(tuple(shape)).integers(limits.min, limits.max + 1, shape).astype(dtype)
