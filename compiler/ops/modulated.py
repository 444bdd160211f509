"""1x1 convolutions whose weights are scaled for each sample at run time. A pass puts these in; no frontend does.

So a channel's factor is multiplied into weights, which are few, instead of pixels (T. Karras et al., Analyzing and
Improving the Image Quality of StyleGAN, 2020, section 2.2).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from glulam.compiler.graph.op import Case, Op, Prefers, Trait
from glulam.compiler.graph.types import Array, DType, TensorType, f32
from glulam.compiler.kernels import conv_modulated
from glulam.compiler.kernels.context import Context, Lowered
from glulam.compiler.kernels.tiling import Tiling
from glulam.compiler.ops.inputs import check_dtype, check_shape, optional, required, same_dtype, wide


class Modulate(Op):
    """The weights of a 1x1 convolution for each sample: factor[N,C,*1], w[OC,C,*1] -> [N,OC,C,*1]."""

    name = "modulate"
    traits = frozenset({Trait.BLIND, Trait.PER_SAMPLE})

    def infer(self, *inputs: TensorType | None) -> tuple[TensorType, ...]:
        factor, w = required(self, inputs, 2)
        check_dtype(self, same_dtype(self, (factor, w)), {DType.F32})
        ones = (1,) * (factor.rank - 2)
        if not ones or factor.shape[2:] != ones or w.shape[1:] != (factor.shape[1], *ones):
            raise self.fail(f"factors {factor} and weights {w} are not [N, C, *1] and [OC, C, *1]")
        return (factor.with_shape((factor.shape[0], *w.shape[:2], *ones[1:])),)

    def preference(self, inputs: Sequence[TensorType | None], outputs: Sequence[TensorType]) -> Prefers:
        return Prefers.BLOCKS

    def reference(self, *inputs: Array | None) -> tuple[Array, ...]:
        factor, w = required(self, inputs, 2)
        product = wide(factor)[:, None] * wide(w)[None]
        return (product.squeeze(-1).astype(factor.dtype),)

    def lower(self, ctx: Context) -> Lowered:
        return conv_modulated.build_weights(ctx)

    @classmethod
    def cases(cls) -> Sequence[Case]:
        return tuple(
            Case(cls(), (f32(n, c, *ones), f32(outs, c, *ones)), constants=frozenset({1}))
            for n, c, outs, ones in (
                (1, 1, 1, (1,)),
                (1, 17, 3, (1, 1)),
                (2, 32, 33, (1, 1)),
                (3, 13, 16, (1,)),
                (1, 48, 40, (1, 1, 1)),
            )
        )


@dataclass(frozen=True)
class ModulatedConv(Op):
    """The 1x1 convolution with weights for each sample: x[N,C,*S], w[N,OC,C,*1], bias?[OC] -> [N,OC,*S].

    `tile` is the register tile, pixels x blocks of output channels, as in `TiledConv`; empty, the kernel chooses one.
    """

    tile: tuple[int, ...] = ()

    name = "modulated_conv"
    traits = frozenset({Trait.ANCHOR, Trait.BLIND})

    def infer(self, *inputs: TensorType | None) -> tuple[TensorType, ...]:
        x, w = required(self, inputs, 2, 1)
        bias = optional(inputs, 2)
        check_dtype(self, same_dtype(self, (x, w, bias)), {DType.F32})
        if x.rank < 3 or w.rank != x.rank or w.shape[0] != x.shape[0] or w.shape[2:] != _last(x):
            raise self.fail(f"input {x} and weights {w} are not [N, C, *S] and [N, OC, C, *1]")
        check_shape(self, "the bias", bias, (w.shape[1],))
        if len(self.tile) not in (0, 2) or any(extent < 1 for extent in self.tile):
            raise self.fail(f"tile {self.tile} is not (pixels, blocks)")
        return (x.with_shape((x.shape[0], w.shape[1], *x.shape[2:])),)

    def for_samples(self, count: int, inputs: Sequence[TensorType | None]) -> Op | None:
        return self

    def preference(self, inputs: Sequence[TensorType | None], outputs: Sequence[TensorType]) -> Prefers:
        return Prefers.BLOCKS

    def flops(self, inputs: Sequence[TensorType | None], outputs: Sequence[TensorType]) -> int:
        x = inputs[0]
        return 0 if x is None else 2 * outputs[0].size * x.shape[1]

    def reference(self, *inputs: Array | None) -> tuple[Array, ...]:
        x, w = required(self, inputs, 2, 1)
        bias = optional(inputs, 2)
        total = np.einsum("noc,nc...->no...", wide(w).reshape(w.shape[:3]), wide(x))
        if bias is not None:
            total = total + wide(bias).reshape(-1, *(1,) * (x.ndim - 2))
        return (total.astype(x.dtype),)

    def lower(self, ctx: Context) -> Lowered:
        return conv_modulated.build(ctx, Tiling(*self.tile) if self.tile else None)

    @classmethod
    def cases(cls) -> Sequence[Case]:
        return (
            _case(cls(), (1, 1, 7), 1),
            _case(cls(), (1, 17, 7, 13), 3),
            _case(cls(), (2, 32, 13, 5), 33, bias=False),
            _case(cls(), (3, 13, 1, 1), 17),
            _case(cls(), (1, 48, 3, 2, 5), 40),
            _case(cls((5, 2)), (1, 35, 4, 7), 57),
        )


def _last(x: TensorType) -> tuple[int, ...]:
    """What weights for x have behind their output channels."""
    return (x.shape[1], *(1,) * (x.rank - 3))


def _case(op: ModulatedConv, x: tuple[int, ...], outs: int, bias: bool = True) -> Case:
    w = f32(x[0], outs, *_last(f32(*x)))
    return Case(op, (f32(*x), w, f32(outs) if bias else None), constants=frozenset({2} if bias else ()))
