"""Convolutions and linear layers of codes multiply bytes, where the processor does that several times as fast.

In a quantised network, of floats so far, the input of such a layer holds whole numbers with less than 256 different
values, perhaps times a scale, and its weights are such numbers times a scale for each channel. Sums of the whole
numbers are exact in I32, as large as they may be; scales and bias come behind them. What else reads the codes turns
them back into floats. Products of two computed matrices: `byte_matmul`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import numpy.typing as npt

from glulam.compiler.graph.graph import Graph, Node, Value
from glulam.compiler.graph.op import Op, Trait
from glulam.compiler.graph.patch import Patch
from glulam.compiler.graph.types import Array, DType
from glulam.compiler.graph.uses import Uses
from glulam.compiler.kernels import conv_bytes
from glulam.compiler.kernels.byte_words import WORD
from glulam.compiler.ops import (
    Add,
    Cast,
    Conv,
    Linear,
    MatMul,
    Mul,
    Reshape,
    Sub,
)
from glulam.compiler.ops.conv_integer import ConvInteger
from glulam.compiler.ops.linear_integer import LinearInteger
from glulam.compiler.passes import byte_matmul
from glulam.compiler.passes.added_bias import added_bias, per_channel
from glulam.compiler.passes.byte_operands import CODES, ByteOperand, as_bytes, byte_operand, chooses
from glulam.compiler.passes.manager import Decision, NodePass
from glulam.compiler.passes.weight_codes import WeightCodes, weight_codes
from glulam.compiler.passes.whole_numbers import range_of_type, whole_range
from glulam.compiler.targets import Target

_LAYERS = Conv | Linear | MatMul
_LARGEST = range_of_type(DType.I32).high // 3  # of products, of what the zero point adds, and of a bias


@dataclass(frozen=True)
class ByteProducts(NodePass):
    """Looks at every convolution and linear layer of codes."""

    target: Target

    name = "byte_products"

    def visit(self, graph: Graph, uses: Uses, node: Node) -> Patch | Decision | None:
        if not self.target.dots_bytes or not isinstance(node.op, _LAYERS):
            return None
        if _is_computed_product(node):
            return byte_matmul.multiply(graph, uses, node, partial(self.can_read_bytes, uses))
        return self.layer(graph, uses, node)

    def layer(self, graph: Graph, uses: Uses, node: Node) -> Patch | Decision | None:
        """A layer with constant weights in bytes."""
        read, weights, *bias = node.present_inputs()
        if (x := byte_operand(read)) is None:
            return None
        if not self.has_kernel(node):
            return Decision(node.name, False, "no kernel has so many channels, or weights that are not constant")
        if (known := weight_codes(_by_channel(node))) is None:
            return Decision(node.name, False, "the weights are no codes of a byte times scales")
        depthwise = isinstance(node.op, Conv) and node.op.groups == len(known.codes) > 1
        if known.offsets is not None and isinstance(node.op, Conv) and node.op.groups > 1 and not depthwise:
            return Decision(node.name, False, "weights with a zero point, of groups of several channels")
        if (largest := known.largest_sum * CODES.high) > _LARGEST:
            return Decision(node.name, False, f"sums of up to {largest} may leave I32")
        exact = x.scale is None and known.scales is None and all(map(_is_shift, bias))
        if not exact and node.output.type.dtype is not DType.F32:
            return Decision(node.name, False, f"scales of {node.output.type.dtype.value}")
        patch = Patch(graph, f"codes with the zero point {x.zero_point}", at=node.name)
        end, shift = _with_bias(uses, node, bias) if exact else (node.output, None)
        codes = as_bytes(patch, uses, x.codes, x.offset, partial(self.can_read_bytes, uses))
        codes = codes if codes.shape == read.shape else patch.apply(Reshape(read.shape), codes)
        inputs = [codes, patch.constant(known.numbers if depthwise else known.codes, weights.name)]
        if shift is not None or not isinstance(node.op, Conv):
            shift = np.zeros(len(known.codes)) if shift is None else shift
            inputs.append(patch.constant(shift.astype(np.int32), f"{node.name}.bias"))
        total = patch.apply(_of_bytes(node.op, x.zero_point), *inputs, name=f"{node.name}.sums")
        if known.offsets is not None and not depthwise:
            total = _more(patch, node, total, codes, x.zero_point, known.offsets)
        if x.moved is not None:
            total = _less(patch, node, total, x.moved, known)
        total = patch.apply(Cast(end.type.dtype), total, name=node.name)
        patch.replace(end, total if exact else _scaled(patch, node, total, _scales(x, known), bias))
        return patch

    def has_kernel(self, node: Node) -> bool:
        """Whether there is such a kernel for a layer, if it is one of codes."""
        x, weights, *bias = node.present_inputs()
        if _is_computed_product(node):
            return byte_matmul.has_kernel(node)
        if isinstance(node.op, Conv):
            outs, ins = weights.shape[:2]
            fits = conv_bytes.fits(node.op.groups, ins, outs // node.op.groups, self.target.lanes)
        else:
            fits = weights.type.rank == 2 and x.shape[-1] % WORD == 0 and node.output.shape[-1] > 1
        return fits and x.type.size > 0 and all(value.is_constant for value in (weights, *bias))

    def can_read_bytes(self, uses: Uses, node: Node) -> bool:
        """Whether no kernel needs to turn codes into floats for the node."""
        if isinstance(node.op, _LAYERS):
            return self.has_kernel(node)
        if chooses(node):  # among codes, if a layer reads what it gives
            return any(self.leads_to_bytes(uses, user) for value in node.outputs for user in uses.users(value))
        return Trait.POINTWISE in node.op.traits

    def leads_to_bytes(self, uses: Uses, node: Node) -> bool:
        """Whether the node is a layer of codes, or moves them to one."""
        return (isinstance(node.op, _LAYERS) or chooses(node)) and self.can_read_bytes(uses, node)


def _is_computed_product(node: Node) -> bool:
    return isinstance(node.op, MatMul) and not any(value.is_constant for value in node.present_inputs())


def _of_bytes(op: Op, zero_point: int) -> Op:
    """The same layer of bytes."""
    if isinstance(op, Conv):
        return ConvInteger(op.strides, op.pads, op.dilations, op.groups, zero_point)
    return LinearInteger(zero_point)


def _by_channel(node: Node) -> Array:
    """The constant weights of a layer, those of each output channel together."""
    weights = list(node.present_inputs())[1].data
    assert weights is not None
    return weights.T if isinstance(node.op, MatMul) else weights


# ---- what comes behind the sums


def _more(
    patch: Patch, node: Node, total: Value, codes: Value, zero_point: int, offsets: npt.NDArray[np.int32]
) -> Value:
    """The sums, if all weights of a channel are more by a number: it counts as often as the codes together.

    These are the sums of the same layer with one output channel, and weights of 1.
    """
    inputs = [codes, patch.constant(np.ones((1, *_by_channel(node).shape[1:]), np.int8), "ones")]
    if not isinstance(node.op, Conv):
        inputs.append(patch.constant(np.zeros(1, np.int32), "zeros"))
    together = patch.apply(_of_bytes(node.op, zero_point), *inputs, name=f"{node.name}.codes")
    each = patch.constant(offsets.reshape(per_channel(node)), f"{node.name}.offsets")
    return patch.apply(Add(), total, patch.apply(Mul(), together, each))


def _less(patch: Patch, node: Node, total: Value, moved: Value, weights: WeightCodes) -> Value:
    """The sums, if all codes are less by a number: it counts as often as the weights of a channel together.

    Of a convolution these are the weights that meet the image, and not its padding.
    """
    sums: Array = weights.sums.reshape(per_channel(node))
    if isinstance(node.op, Conv) and any(map(any, node.op.pads)):
        ones = np.ones((1, 1, *next(node.present_inputs()).shape[2:]))
        (sums,) = replace(node.op, groups=1).reference(ones, weights.numbers.sum(1, np.float64, keepdims=True))
    own = patch.constant(sums.astype(np.int32), "weights.sums")
    number = patch.apply(Reshape(()), patch.apply(Cast(DType.I32), moved))
    return patch.apply(Sub(), total, patch.apply(Mul(), own, number))


def _scales(x: ByteOperand, weights: WeightCodes) -> npt.NDArray[np.float32]:
    """What each output channel's sums are multiplied with."""
    ones = np.ones(len(weights.codes)) if weights.scales is None else weights.scales.astype(np.float64)
    return (ones if x.scale is None else ones * x.scale).astype(np.float32)


def _scaled(patch: Patch, node: Node, total: Value, scales: npt.NDArray[np.float32], bias: Sequence[Value]) -> Value:
    """The sums times the scales, plus the bias, in place of the node's result."""
    channels = per_channel(node)
    result = patch.apply(Mul(), total, patch.constant(scales.reshape(channels), f"{node.name}.scales"), name=node.name)
    for each in bias:
        assert each.data is not None
        result = patch.apply(Add(), result, patch.constant(each.data.reshape(channels), each.name), name=node.name)
    return result


def _is_shift(bias: Value) -> bool:
    """Whether it can be added to sums in I32."""
    limits = whole_range(bias)
    return limits is not None and limits.magnitude <= _LARGEST


def _with_bias(uses: Uses, node: Node, bias: Sequence[Value]) -> tuple[Value, Array | None]:
    """A layer's result with its whole bias, or with the one that is added behind it, and that bias."""
    if bias:
        return node.output, bias[0].data
    if (found := added_bias(uses, node)) is None or not _is_shift(found[1]) or found[1].data is None:
        return node.output, None
    return found[0], found[1].data.reshape(-1)
