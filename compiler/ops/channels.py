"""Chosen channels of several tensors: convolved, or copied side by side. Passes put these in; no frontend does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from glulam.compiler.graph.op import Case, Op, Prefers, Trait
from glulam.compiler.graph.types import Array, DType, Ints, TensorType, f32
from glulam.compiler.kernels import concat, conv_channels
from glulam.compiler.kernels.context import Context, Lowered
from glulam.compiler.kernels.tiling import Tiling
from glulam.compiler.ops.inputs import check_at_least, check_dtype, check_shape, optional, required, same_dtype, wide

F32 = frozenset({DType.F32})


@dataclass(frozen=True)
class ConvChannels(Op):
    """x0[N,C0,*S], w[OC,C,*1], bias?[OC], x1[N,C1,*S], ... -> [N,OC,*S]: a 1x1 convolution.

    The input channels of the weights are the channels `channels[0]` of x0, then `channels[1]` of x1, and so on. The
    register tile has `tile` pixels and blocks of output channels, if it is given.
    """

    channels: tuple[Ints, ...]
    tile: Ints = ()

    name = "conv_channels"
    traits = frozenset({Trait.ANCHOR, Trait.BLIND})

    def infer(self, *inputs: TensorType | None) -> tuple[TensorType, ...]:
        x, w, *others = required(self, (*inputs[:2], *inputs[3:]), 1 + len(self.channels))
        check_dtype(self, same_dtype(self, (x, w, optional(inputs, 2), *others)), F32)
        for chosen, source in zip(self.channels, (x, *others), strict=True):
            check_chosen(self, chosen, source, x)
        ins = sum(map(len, self.channels))
        if w.shape[1:] != (ins, *(1,) * (x.rank - 2)):
            raise self.fail(f"weights {w} are not for a 1x1 convolution of {ins} channels of {x}")
        check_shape(self, "the bias", optional(inputs, 2), (w.shape[0],))
        return (x.with_shape((x.shape[0], w.shape[0], *x.shape[2:])),)

    def preference(self, inputs: Sequence[TensorType | None], outputs: Sequence[TensorType]) -> Prefers:
        return Prefers.BLOCKS

    def for_samples(self, count: int, inputs: Sequence[TensorType | None]) -> Op | None:
        return self

    def flops(self, inputs: Sequence[TensorType | None], outputs: Sequence[TensorType]) -> int:
        return 2 * outputs[0].size * sum(map(len, self.channels))

    def lower(self, ctx: Context) -> Lowered:
        return conv_channels.build(ctx, self.channels, Tiling(*self.tile) if self.tile else None)

    def reference(self, *inputs: Array | None) -> tuple[Array, ...]:
        x, w, *others = required(self, (*inputs[:2], *inputs[3:]), 1 + len(self.channels))
        bias = optional(inputs, 2)
        chosen = [wide(s).take(which, 1) for s, which in zip((x, *others), self.channels, strict=True)]
        total = np.einsum("oc,nc...->no...", wide(w).reshape(w.shape[:2]), np.concatenate(chosen, 1))
        if bias is not None:
            total = total + wide(bias).reshape(-1, *(1,) * (x.ndim - 2))
        return (total.astype(x.dtype),)

    @classmethod
    def cases(cls) -> Sequence[Case]:
        return (
            _conv(((2, 0, 16),), (1, 17, 7, 13), outs=17),
            _conv(((0,), (2, 1)), (2, 3, 7), outs=3, bias=False),
            _conv((tuple(range(1, 58, 2)), (5, 5, 20, 33, 7), (0, 12)), (1, 58, 5, 7), outs=58),
            _conv((tuple(range(33)), (1,)), (1, 33, 13, 1), outs=1, tile=(3, 1)),
            _conv((tuple(range(420)), tuple(range(420, 0, -1))), (1, 421, 3), outs=34),
            _conv(((0, 1), (1,)), (1, 2, 1, 1, 1), outs=5),
        )


@dataclass(frozen=True)
class SelectChannels(Op):
    """x0[N,C0,*S], x1[N,C1,*S], ... -> [N,C,*S]: channel i is channel `channels[i][1]` of input `channels[i][0]`."""

    channels: tuple[tuple[int, int], ...]

    name = "select_channels"

    def infer(self, *inputs: TensorType | None) -> tuple[TensorType, ...]:
        types = required(self, inputs, max(1, len(inputs)))
        check_dtype(self, same_dtype(self, types), F32)
        for k, source in enumerate(types):
            check_chosen(self, [c for i, c in self.channels if i == k], source, types[0])
        if not {i for i, _ in self.channels} <= set(range(len(types))):
            raise self.fail(f"channels are taken of inputs beyond the {len(types)} that there are")
        return (types[0].with_shape((types[0].shape[0], len(self.channels), *types[0].shape[2:])),)

    def preference(self, inputs: Sequence[TensorType | None], outputs: Sequence[TensorType]) -> Prefers:
        return Prefers.BLOCKS

    def for_samples(self, count: int, inputs: Sequence[TensorType | None]) -> Op | None:
        return self

    def lower(self, ctx: Context) -> Lowered:
        return concat.select_channels(ctx, [self.channels])

    def reference(self, *inputs: Array | None) -> tuple[Array, ...]:
        sources = required(self, inputs, len(inputs))
        return (np.stack([sources[i][:, c] for i, c in self.channels], axis=1),)

    @classmethod
    def cases(cls) -> Sequence[Case]:
        return (
            Case(cls(((0, 2), (1, 0), (0, 0))), (f32(1, 3, 7, 13), f32(1, 1, 7, 13))),
            Case(cls(tuple((c % 2, c // 2) for c in range(34))), (f32(2, 17, 7), f32(2, 17, 7))),
            Case(cls(tuple((c % 3, 57 - c) for c in range(58))), (f32(1, 58, 3, 1),) * 3),
            Case(cls(((0, 16),)), (f32(1, 17, 1, 1, 1),)),
        )


def check_chosen(op: Op, chosen: Sequence[int], source: TensorType, like: TensorType) -> None:
    """Raises ShapeError unless these are channels of the source, which differs from another input only in those."""
    if source.rank < 3 or (source.shape[0], *source.shape[2:]) != (like.shape[0], *like.shape[2:]):
        raise op.fail(f"{source} and {like} do not have the same pixels")
    check_at_least(op, 0, channels=chosen)
    if chosen and max(chosen) >= source.shape[1]:
        raise op.fail(f"{source} has no channel {max(chosen)}")


def _conv(channels: tuple[Ints, ...], shape: Ints, outs: int, *, bias: bool = True, tile: Ints = ()) -> Case:
    weights = f32(outs, sum(map(len, channels)), *(1,) * (len(shape) - 2))
    inputs = (f32(*shape), weights, f32(outs) if bias else None, *(f32(*shape) for _ in channels[1:]))
    return Case(ConvChannels(channels, tile), inputs, constants=frozenset({1, 2} if bias else {1}))
