"""Dropout that stays live: Monte-Carlo dropout, seeded, with the same bits on every processor and any thread count.

Whether an element is dropped depends on nothing but the seed, the run's number and the element's place, by a hash:
there is no state that a thread or an earlier run could change. So a model without a number for the run gives the same
result each time; a caller who wants another sample gives another number.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from glulam.compiler.graph.op import Case, Op, Prefers, Trait
from glulam.compiler.graph.types import Array, DType, TensorType, f32
from glulam.compiler.kernels import pointwise
from glulam.compiler.kernels.context import Context, Lowered
from glulam.compiler.loops import expr as ex
from glulam.compiler.loops.expr import Cast, Const, Expr, Param
from glulam.compiler.ops.inputs import FLOATS, f64, i64, optional, required, same_dtype

_ALPHA = -1.7580993408473766  # -scale * alpha of SELU: where it saturates
_BITS = 24


@dataclass(frozen=True)
class RandomDropout(Op):
    """Drops each element of x with probability p, and gives the others 1 / (1 - p) times their value.

    Inputs: x, and the number of the run, an int64 scalar, 0 if it is left out. alpha: AlphaDropout instead, which puts
    the negative limit of SELU in the dropped elements' place and keeps mean and variance (Klambauer and others, 2017:
    Self-Normalizing Neural Networks). whole_channels: all elements of a channel of [N, C, ...] share their fate.

    An element with the row-major index i (of its channel with whole_channels) is dropped if the upper 24 bits of
    mix(mix(i ^ k0) ^ k1 ^ mix(run ^ mix(k1))) are below p 2**24, where k0 and k1 are the halves of the seed after
    splitmix64, and mix is the 32-bit finaliser "lowbias32" (C. Wellons, hash-prospector). The upper halves of run and
    index, if they are not 0, are mixed in too.
    """

    p: float = 0.5
    seed: int = 0
    alpha: bool = False
    whole_channels: bool = False

    name = "random_dropout"
    traits = frozenset({Trait.ANCHOR, Trait.RANDOM})

    def infer(self, *inputs: TensorType | None) -> tuple[TensorType, ...]:
        (x,) = required(self, inputs, 1, 1)
        same_dtype(self, (x,), FLOATS)
        run = optional(inputs, 1)
        if run is not None and run != TensorType(DType.I64, ()):
            raise self.fail(f"the number of the run is {run}, not an int64 scalar")
        if not 0.0 <= self.p <= 1.0:
            raise self.fail(f"p is {self.p}; it is a probability")
        if self.whole_channels and x.rank < 2:
            raise self.fail(f"{x} has no channels")
        return (x,)

    def preference(self, inputs: Sequence[TensorType | None], outputs: Sequence[TensorType]) -> Prefers:
        return Prefers.EITHER

    def flops(self, inputs: Sequence[TensorType | None], outputs: Sequence[TensorType]) -> int:
        return 16 * outputs[0].size

    def formula(self, x: Expr, index: Expr, run: Expr) -> Expr:
        """An element of the output from one of x, its index and the number of the run, both int64."""
        if self.p == 1.0:
            return Const(0.0, x.dtype)
        first, second = _keys(self.seed)
        place = _mixed(_low(index) ^ first) ^ second ^ _mixed(_low(run) ^ _mixed(_high(run) ^ second))
        dropped = _shifted(_mixed(place ^ _high(index)), 32 - _BITS) < round(self.p * (1 << _BITS))
        if not self.alpha:
            return ex.where(dropped, 0.0, x * (1.0 / (1.0 - self.p)))
        scale = 1.0 / math.sqrt((_ALPHA**2 * self.p + 1.0) * (1.0 - self.p))
        shift = -scale * _ALPHA * self.p
        return ex.where(dropped, scale * _ALPHA + shift, x * scale + shift)

    def lower(self, ctx: Context) -> Lowered:
        run = 1 if ctx.has(1) else None
        return pointwise.build_indexed(ctx, self.formula, run, 2 if self.whole_channels else None)

    def reference(self, *inputs: Array | None) -> tuple[Array, ...]:
        (x,) = required(self, inputs, 1, 1)
        run = optional(inputs, 1)
        number = np.zeros((), np.int64) if run is None else run
        shape = x.shape[:2] + (1,) * (x.ndim - 2) if self.whole_channels else x.shape
        index = np.arange(math.prod(shape), dtype=np.int64).reshape(shape)
        traced = self.formula(Param(0, DType.of(x.dtype)), Param(1, DType.I64), Param(2, DType.I64))
        return (np.array(np.broadcast_to(ex.evaluate(traced, [x, index, number]), x.shape)),)

    @classmethod
    def cases(cls) -> Sequence[Case]:
        run = np.array(2**40 + 3, np.int64)
        return (
            Case(cls(), (f32(2, 3, 7, 13),)),
            Case(cls(0.2, 7), (f32(1, 17, 5, 3), i64())),
            Case(cls(0.7, -1, alpha=True), (f32(2, 33, 4), run)),
            Case(cls(0.5, 2**63, whole_channels=True), (f32(2, 33, 3, 5), run)),
            Case(cls(0.5, 3, whole_channels=True), (f32(4, 19),)),
            Case(cls(0.0), (f32(5, 7),)),
            Case(cls(1.0), (f32(5, 7),)),
            Case(cls(0.3, 5), (f64(3, 17),)),
            Case(cls(0.3, 5), (f32(),)),
            Case(cls(0.3, 5), (f32(0, 4),)),
            Case(cls(0.5, 1), (np.array([np.nan, np.inf, -np.inf, -0.0] * 4, np.float32),)),
        )


def _keys(seed: int) -> tuple[Expr, Expr]:
    """Two words from the seed by splitmix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators)."""
    word = (seed + 0x9E3779B97F4A7C15) % 2**64
    word = (word ^ (word >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    word = (word ^ (word >> 27)) * 0x94D049BB133111EB % 2**64
    word ^= word >> 31
    return _word(word % 2**32), _word(word >> 32)


def _word(value: int) -> Const:
    """32 bits as the signed number that has them."""
    return Const(value - 2**32 if value >= 2**31 else value, DType.I32)


def _shifted(x: Expr, by: int) -> Expr:
    """Moved to the right, zeros coming in from the left."""
    return ex.binary("shr", x, by) & _word((1 << (32 - by)) - 1)


def _mixed(x: Expr) -> Expr:
    x = (x ^ _shifted(x, 16)) * _word(0x7FEB352D)
    x = (x ^ _shifted(x, 15)) * _word(0x846CA68B)
    return x ^ _shifted(x, 16)


def _low(x: Expr) -> Expr:
    """The lower 32 bits; conversion keeps them."""
    return Cast(x, DType.I32)


def _high(x: Expr) -> Expr:
    return Cast(ex.binary("shr", x, 32), DType.I32)
