"""Weights of linear layers with an affine map multiplied in: after the layer or before it.

Everything is computed in float64; rounding to the weights' type is left to `rounded`, once, at the end.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TypeGuard

import numpy as np

from glulam.compiler.graph.deferred import Deferred
from glulam.compiler.graph.graph import Node, Value
from glulam.compiler.graph.op import Op
from glulam.compiler.graph.patch import Patch
from glulam.compiler.graph.types import Array, Shape, TensorType
from glulam.compiler.ops import Conv, ConvTranspose, Linear
from glulam.compiler.passes.affine import Affine, Wide, rounded
from glulam.runtime.memory import allocate

LinearOp = Conv | ConvTranspose | Linear


def is_linear(op: Op) -> TypeGuard[LinearOp]:
    """Does the op multiply its first input by weights and add a bias?"""
    return isinstance(op, Conv | ConvTranspose | Linear)


@dataclass(frozen=True, eq=False)
class Weights:
    """Constant weights, what they are to be multiplied by, and the bias (or None) of a linear node."""

    op: LinearOp
    weight: Array
    factor: Wide | None
    bias: Wide | None

    @classmethod
    def of(cls, node: Node) -> Weights | str:
        """Those of the node, or why they are not known."""
        weight, bias = _parameters(node)
        if weight.data is None or (bias is not None and bias.data is None):
            return f"the weights of {node.name} are not constant"
        assert is_linear(node.op)
        return cls(
            node.op,
            weight.data,
            None,
            None if bias is None or bias.data is None else bias.data.astype(np.float64),
        )

    def followed_by(self, affine: Affine) -> Weights | str:
        """Weights of the layer and the map behind it: (w x + b) s + t = (s w) x + (s b + t)."""
        vectors = affine.along(channel_axis(self.op, affine.shape))
        if vectors is None:
            return "the statistics differ within a channel"
        scale, shift = vectors
        bias = self.bias * scale + shift if self.bias is not None else shift if affine.has_shift else None
        return Weights(self.op, self.weight, self._per_output(scale), bias)

    def preceded_by(self, affine: Affine) -> Weights | str:
        """Weights of the map and the layer behind it: w (x s + t) + b = (w s) x + (w t + b).

        With zero padding, or in a transposed convolution, the border sees only a part of the shift: then none is
        allowed.
        """
        vectors = affine.along(channel_axis(self.op, affine.shape))
        if vectors is None:
            return "the statistics differ within a channel"
        scale, shift = (self._per_input(vector) for vector in vectors)
        bias = self.bias
        if affine.has_shift:
            if isinstance(self.op, ConvTranspose):
                return "fewer taps see the shift at the border of a transposed convolution"
            if isinstance(self.op, Conv) and any(side for pad in self.op.pads for side in pad):
                return "the shift must not reach the zero padding"
            offset = (self.weight.astype(np.float64) * shift).reshape(self.weight.shape[0], -1).sum(1)
            bias = offset if bias is None else bias + offset
        return Weights(self.op, self.weight, scale, bias)

    def apply(self, patch: Patch, node: Node, x: Value) -> Value | str:
        """The node over x with these weights, rounded; or why it cannot be."""
        weight, bias = _parameters(node)
        product, shift = self._product(), None if self.bias is None else rounded(self.bias, weight.type.dtype)
        if product is None or not (shift is None or np.isfinite(shift).all()):
            return f"the weights of {node.name} would not be finite, or vanish"
        constants = [patch.constant(product, weight.name)]
        if shift is not None:
            constants.append(patch.constant(shift, bias.name if bias is not None else f"{node.name}.bias"))
        return patch.apply(node.op, x, *constants, name=node.name)

    def _product(self) -> Array | Deferred | None:
        """The weights with the factor, rounded once, None if not finite or less than normal numbers.

        They are deferred if that can be told before.
        """
        weight, factor = self.weight, self.factor
        if factor is None or (factor == 1.0).all():
            return weight if np.isfinite(weight).all() else None
        largest = float(max(weight.max(), -weight.min())) if weight.size else 0.0  # NaN if there is one
        limits, product = np.finfo(str(weight.dtype)), largest * float(np.abs(factor).max(initial=0.0))
        if 0 < product < float(limits.tiny):
            return None
        if product < float(limits.max) / 2:
            return Deferred(TensorType.of(weight), partial(_product, weight, factor))
        scaled = _product(weight, factor)
        return scaled if np.isfinite(scaled).all() else None

    def _per_output(self, vector: Wide) -> Wide:
        """A vector over the output channels, shaped for multiplication with the weights."""
        taps = (1,) * (self.weight.ndim - 2)
        if isinstance(self.op, ConvTranspose):  # weights are [C, OC / groups, *K]
            blocks = vector.reshape(self.op.groups, 1, -1)
            inputs = self.weight.shape[0] // self.op.groups
            return np.broadcast_to(blocks, (self.op.groups, inputs, blocks.shape[2])).reshape(
                *self.weight.shape[:2], *taps
            )
        return vector.reshape(-1, 1, *taps)

    def _per_input(self, vector: Wide) -> Wide:
        """A vector over the input channels, shaped for multiplication with the weights."""
        taps = (1,) * (self.weight.ndim - 2)
        if isinstance(self.op, Linear):
            return vector.reshape(1, -1)
        if isinstance(self.op, ConvTranspose):
            return vector.reshape(-1, 1, *taps)
        blocks = vector.reshape(self.op.groups, 1, -1)  # weights are [OC, C / groups, *K]
        outputs = self.weight.shape[0] // self.op.groups
        return np.broadcast_to(blocks, (self.op.groups, outputs, blocks.shape[2])).reshape(
            *self.weight.shape[:2], *taps
        )


def channel_axis(op: LinearOp, shape: Shape) -> int:
    """The axis of input and output that the weights go over."""
    return len(shape) - 1 if isinstance(op, Linear) else 1


def _product(weight: Array, factor: Wide) -> Array:
    """The product in float64, rounded once to the weights' type, without a copy of all weights in float64."""
    out = allocate(weight.nbytes).view(weight.dtype).reshape(weight.shape)
    with np.errstate(over="ignore"):
        return np.multiply(weight, factor, out=out, dtype=np.float64, casting="unsafe")


def _parameters(node: Node) -> tuple[Value, Value | None]:
    weight, rest = node.operand(1), node.inputs[2:]
    return weight, rest[0] if rest else None
