"""Normalisation with statistics over groups of channels; one group per channel is instance normalisation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from glulam.compiler.graph.op import Case, Op, Prefers, Trait
from glulam.compiler.graph.types import Array, DType, TensorType, f32
from glulam.compiler.kernels import group_norm
from glulam.compiler.kernels.context import Context, Lowered
from glulam.compiler.ops.inputs import FLOATS, check_shape, f64, optional, required, same_dtype, wide

_WIDEST_BLOCK = 16


@dataclass(frozen=True)
class GroupNorm(Op):
    """x[N,C,...], scale?[C], bias?[C]: (x - mean) / sqrt(var + epsilon) * scale + bias.

    Mean and (biased) variance of each sample are over C / groups neighbouring channels and all places
    (Wu and He, 2018).
    """

    groups: int
    epsilon: float = 1e-5

    name = "group_norm"
    traits = frozenset({Trait.ANCHOR, Trait.PER_SAMPLE, Trait.SUMS_PIXELS})

    def infer(self, *inputs: TensorType | None) -> tuple[TensorType, ...]:
        (x,) = required(self, inputs, 1, 2)
        scale, bias = optional(inputs, 1), optional(inputs, 2)
        same_dtype(self, (x, scale, bias), FLOATS)
        if x.rank < 2:
            raise self.fail(f"the input {x} has no channel axis")
        if self.groups < 1 or x.shape[1] % self.groups:
            raise self.fail(f"the {x.shape[1]} channels of {x} do not divide into {self.groups} groups")
        check_shape(self, "the scale", scale, x.shape[1:2])
        check_shape(self, "the bias", bias, x.shape[1:2])
        return (x,)

    def preference(self, inputs: Sequence[TensorType | None], outputs: Sequence[TensorType]) -> Prefers:
        """Groups must be whole blocks, or parts of one block, whatever the size of blocks is."""
        (x,) = outputs
        width = x.shape[1] // self.groups
        fits = width and (width % _WIDEST_BLOCK == 0 or (_WIDEST_BLOCK % width == 0))
        return Prefers.EITHER if fits and x.dtype is DType.F32 else Prefers.PLAIN

    def flops(self, inputs: Sequence[TensorType | None], outputs: Sequence[TensorType]) -> int:
        return 7 * outputs[0].size

    def lower(self, ctx: Context) -> Lowered:
        return group_norm.build(ctx, self.groups, self.epsilon)

    def reference(self, *inputs: Array | None) -> tuple[Array, ...]:
        (x,) = required(self, inputs, 1, 2)
        if x.size == 0:
            return (x.copy(),)
        with np.errstate(all="ignore"):
            grouped = wide(x).reshape(x.shape[0], self.groups, -1)
            centred = grouped - grouped.mean(2, keepdims=True)
            result = (centred / np.sqrt(np.square(centred).mean(2, keepdims=True) + self.epsilon)).reshape(x.shape)
            for parameter, combine in ((optional(inputs, 1), np.multiply), (optional(inputs, 2), np.add)):
                if parameter is not None:
                    result = combine(result, parameter.reshape(-1, *(1,) * (x.ndim - 2)))
        return (result.astype(x.dtype),)

    @classmethod
    def cases(cls) -> Sequence[Case]:
        both = frozenset({1, 2})

        def case(groups: int, *shape: int, constants: frozenset[int] = both, epsilon: float = 1e-5) -> Case:
            return Case(cls(groups, epsilon), (f32(*shape), f32(shape[1]), f32(shape[1])), constants=constants)

        return (
            case(17, 2, 17, 7, 5),
            case(3, 1, 3, 13),
            case(1, 2, 33, 3, 3),
            case(4, 2, 32, 5, 3),
            case(2, 1, 32, 7, 7, constants=frozenset()),
            case(2, 1, 64, 3, 5, epsilon=0.5),
            case(12, 2, 24, 3, 3, constants=frozenset({1})),
            case(5, 1, 20, 2, 3, 4),
            case(20, 1, 20, 9, constants=frozenset()),
            case(3, 2, 9, 4),
            case(2, 3, 34),
            Case(cls(1), (f32(2, 1, 33, 5), None, None)),
            Case(cls(4), (f32(2, 32, 9), f32(32), None), constants=frozenset({1})),
            Case(cls(2), (f32(2, 4, 0), f32(4), f32(4)), constants=both),
            Case(cls(2), (f32(0, 4, 3), f32(4), f32(4)), constants=both),
            Case(cls(2), (f64(2, 4, 7), f64(4), f64(4)), constants=both),
            Case(cls(1), (np.full((1, 2, 5, 5), 1e4, np.float32), None, None)),
        )
