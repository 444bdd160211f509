"""Convolutions whose weights are computed at run time, for all samples or for each one. Passes put these in.

So are dynamic filters (X. Jia et al., Dynamic Filter Networks, 2016), and weights that a factor for each channel is
multiplied into instead of pixels (T. Karras et al., Analyzing and Improving the Image Quality of StyleGAN, 2020,
section 2.2).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from glulam.compiler.graph.op import Case, Op, Padding, Prefers, Trait
from glulam.compiler.graph.types import Array, DType, Ints, Pads, TensorType, f32
from glulam.compiler.kernels import conv_dynamic
from glulam.compiler.kernels.context import Context, Lowered
from glulam.compiler.kernels.conv_geometry import ConvGeometry
from glulam.compiler.kernels.tiling import Tiling
from glulam.compiler.ops.conv import Conv, output_extents, padding_around
from glulam.compiler.ops.inputs import (
    check_at_least,
    check_dtype,
    check_shape,
    check_spatial,
    optional,
    required,
    same_dtype,
    wide,
)


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
        return conv_dynamic.build_weights(ctx)

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
class DynamicConv(Op):
    """`Conv` with weights computed at run time: x[N,C,*S], w[M,OC,R,*1], bias?[OC] -> [N,OC,*O].

    M is N, or 1 if all samples have the same weights. R = C / groups * K goes through the input channels of a group
    and the taps of the kernel in each; with ones behind it the weights have as many dimensions as x. There is one
    group, or one for each channel. `tile` is the register tile, pixels x blocks of output channels, as in `TiledConv`;
    empty, the kernel chooses one.
    """

    kernel: Ints
    strides: Ints
    pads: Pads
    dilations: Ints
    groups: int = 1
    tile: Ints = ()

    name = "dynamic_conv"
    traits = frozenset({Trait.ANCHOR, Trait.BLIND})

    @classmethod
    def of(cls, conv: Conv, kernel: Ints, groups: int, tile: Ints = ()) -> DynamicConv:
        """The same convolution, of so many groups."""
        return cls(kernel, conv.strides, conv.pads, conv.dilations, groups, tile)

    def infer(self, *inputs: TensorType | None) -> tuple[TensorType, ...]:
        x, w = required(self, inputs, 2, 1)
        bias = optional(inputs, 2)
        check_dtype(self, same_dtype(self, (x, w, bias)), {DType.F32})
        if x.rank < 3 or w.rank != x.rank or w.shape[0] not in (1, x.shape[0]):
            raise self.fail(f"input {x} and weights {w} are not [N, C, *S] and [N or 1, OC, R, *1]")
        check_spatial(
            self, x.rank - 2, kernel=self.kernel, strides=self.strides, pads=self.pads, dilations=self.dilations
        )
        check_at_least(self, 1, strides=self.strides, dilations=self.dilations, kernel=self.kernel)
        check_at_least(self, 0, pads=[side for pad in self.pads for side in pad])
        if self.groups != 1 and not self.groups == x.shape[1] == w.shape[1]:
            raise self.fail(f"{self.groups} groups are neither one nor one for each channel of {x} and {w}")
        products = x.shape[1] // self.groups * math.prod(self.kernel)
        if w.shape[2:] != (products, *(1,) * (x.rank - 3)):
            raise self.fail(f"weights {w} do not have {products} products for each output channel")
        check_shape(self, "the bias", bias, (w.shape[1],))
        if len(self.tile) not in (0, 2) or any(extent < 1 for extent in self.tile):
            raise self.fail(f"tile {self.tile} is not (pixels, blocks)")
        return (x.with_shape((x.shape[0], w.shape[1], *output_extents(self, self.geometry, x.shape[2:]))),)

    @property
    def geometry(self) -> ConvGeometry:
        return ConvGeometry(self.kernel, self.strides, self.dilations, self.pads, self.groups)

    def for_samples(self, count: int, inputs: Sequence[TensorType | None]) -> Op | None:
        return self

    def preference(self, inputs: Sequence[TensorType | None], outputs: Sequence[TensorType]) -> Prefers:
        return Prefers.BLOCKS

    def padding(self, index: int, inputs: Sequence[TensorType | None]) -> Padding | None:
        x = inputs[0]
        if index or x is None:
            return None
        return padding_around(x, self.geometry, output_extents(self, self.geometry, x.shape[2:]))

    def flops(self, inputs: Sequence[TensorType | None], outputs: Sequence[TensorType]) -> int:
        w = inputs[1]
        return 0 if w is None else 2 * outputs[0].size * w.shape[2]

    def reference(self, *inputs: Array | None) -> tuple[Array, ...]:
        x, w = required(self, inputs, 2, 1)
        bias = optional(inputs, 2)
        conv = Conv(self.strides, self.pads, self.dilations, self.groups)
        weights = w.reshape(*w.shape[:2], -1, *self.kernel)
        each = np.broadcast_to(weights, (x.shape[0], *weights.shape[1:]))
        samples = [conv.reference(x[i : i + 1], own, bias)[0] for i, own in enumerate(each)]
        if not samples:
            return conv.reference(x, weights[0], bias)
        return (np.concatenate(samples),)

    def lower(self, ctx: Context) -> Lowered:
        return conv_dynamic.build(ctx, self.geometry, Tiling(*self.tile) if self.tile else None)

    @classmethod
    def cases(cls) -> Sequence[Case]:
        return (
            _case((1, 1, 7), 1, (1,)),
            _case((1, 17, 7, 13), 3, (1, 1)),
            _case((2, 32, 13, 5), 33, (1, 1), bias=False),
            _case((3, 13, 1, 1), 17, (1, 1)),
            _case((1, 48, 3, 2, 5), 40, (1, 1, 1)),
            _case((1, 35, 4, 7), 57, (1, 1), tile=(5, 2)),
            _case((2, 17, 7, 13), 33, (3, 3), pads=1),
            _case((2, 3, 13, 7), 17, (2, 5), strides=(2, 1), pads=((0, 1), (3, 2)), shared=True),
            _case((1, 33, 13), 3, (7,), pads=6, dilations=2, bias=False),
            _case((1, 16, 3, 7, 7), 1, (3, 1, 2), shared=True),
            _case((2, 17, 7, 13), 17, (3, 3), groups=17, pads=1),
            _case((3, 16, 13, 7), 16, (5, 4), groups=16, strides=2, pads=((2, 1), (0, 3)), shared=True),
            _case((1, 3, 13), 3, (3,), groups=3, dilations=3, bias=False),
            _case((0, 3, 7, 7), 5, (3, 3), pads=1, shared=True),
        )


def _case(
    x: Ints,
    outs: int,
    kernel: Ints,
    *,
    strides: int | Ints = 1,
    pads: int | Pads = 0,
    dilations: int = 1,
    groups: int = 1,
    tile: Ints = (),
    shared: bool = False,
    bias: bool = True,
) -> Case:
    rank = len(kernel)
    op = DynamicConv(
        kernel,
        (strides,) * rank if isinstance(strides, int) else strides,
        ((pads, pads),) * rank if isinstance(pads, int) else pads,
        (dilations,) * rank,
        groups,
        tile,
    )
    w = f32(1 if shared else x[0], outs, x[1] // groups * math.prod(kernel), *(1,) * (rank - 1))
    return Case(op, (f32(*x), w, f32(outs) if bias else None), constants=frozenset({2} if bias else ()))
