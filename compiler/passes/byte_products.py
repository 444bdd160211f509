"""Convolutions of codes become convolutions of bytes, where the processor multiplies those several times as fast.

In a quantised network that is floats so far, a convolution's input holds whole numbers with less than 256 different
values, and its weights are within I8: both are what such networks store. Sums are exact in I32, as large as they may
be. What else reads the codes turns them back into floats.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from glulam.compiler.graph.graph import Graph, Node, Value
from glulam.compiler.graph.op import Trait
from glulam.compiler.graph.patch import Patch
from glulam.compiler.graph.types import Array, DType
from glulam.compiler.graph.uses import Uses
from glulam.compiler.kernels import conv_bytes
from glulam.compiler.ops import Add, Cast, Conv, Sub
from glulam.compiler.ops.conv_integer import ConvInteger
from glulam.compiler.passes.manager import Decision, NodePass
from glulam.compiler.passes.whole_numbers import LIMITS, Range, range_of_type, sums_of, whole_range
from glulam.compiler.targets import Target

_CODES, _WEIGHTS, _I32 = (range_of_type(dtype) for dtype in (DType.U8, DType.I8, DType.I32))
_SUMS = _BIASES = Range(_I32.low // 3, _I32.high // 3)  # of products, what the zero point adds, and a bias


@dataclass(frozen=True)
class _Codes:
    """Codes from 0 to 255 as a float or U8 `value`; the convolution's input is them less the zero point."""

    value: Value
    zero_point: int


@dataclass(frozen=True)
class ByteProducts(NodePass):
    """Looks at every convolution of whole numbers."""

    target: Target

    name = "byte_products"

    def visit(self, graph: Graph, uses: Uses, node: Node) -> Patch | Decision | None:
        if not self.target.dots_bytes or not isinstance(node.op, Conv) or (sums := sums_of(node)) is None:
            return None
        x, weights, *bias = node.present_inputs()
        if (refused := self.refuses(node, sums)) is not None:
            return Decision(node.name, False, refused)
        codes = _codes_of(x)
        if codes is None:
            return Decision(node.name, False, f"the numbers {whole_range(x)} of %{x.name} are no bytes")
        assert weights.data is not None
        patch = Patch(graph, f"bytes with the zero point {codes.zero_point}", at=node.name)
        end, shift = _with_bias(uses, node, bias)
        inputs = [self.as_bytes(patch, uses, codes.value), patch.constant(weights.data.astype(np.int8), weights.name)]
        if shift is not None:
            inputs.append(patch.constant(shift.astype(np.int32), f"{node.name}.bias"))
        op = ConvInteger(node.op.strides, node.op.pads, node.op.dilations, node.op.groups, codes.zero_point)
        total = patch.apply(op, *inputs, name=f"{node.name}.sums")
        patch.replace(end, patch.apply(Cast(end.type.dtype), total, name=node.name))
        return patch

    def refuses(self, node: Node, sums: Range) -> str | None:
        """Why there is no such kernel for a convolution, None if there is one."""
        assert isinstance(node.op, Conv)
        _, weights, *bias = node.present_inputs()
        if any(value.data is None for value in (weights, *bias)):
            return "the weights are not constants"
        if (limits := whole_range(weights)) is None or limits not in _WEIGHTS:
            return f"weights {limits} are no I8"
        if sums not in _SUMS:
            return f"sums of up to {sums.magnitude} may leave I32"
        outs, ins = weights.shape[:2]
        if not conv_bytes.fits(node.op.groups, ins, outs // node.op.groups, self.target.lanes):
            return "the channels of a group do not fill whole vectors"
        return None

    def as_bytes(self, patch: Patch, uses: Uses, value: Value) -> Value:
        """The codes as U8; what else reads them turns them into floats again, unless it needs a kernel for that."""
        if value.type.dtype is DType.U8:
            return value
        for user in uses.users(value):
            if isinstance(user.op, Cast) and user.output.type.dtype is DType.U8:
                return user.output
        found = patch.apply(Cast(DType.U8), value, name=f"{value.name}.codes")
        if not uses.is_output(value) and all(map(self.can_read_bytes, uses.users(value))):
            patch.replace(value, patch.apply(Cast(value.type.dtype), found))
        return found

    def can_read_bytes(self, node: Node) -> bool:
        """Whether no kernel needs to turn codes into floats for the node."""
        if not isinstance(node.op, Conv):
            return Trait.POINTWISE in node.op.traits
        sums = sums_of(node)
        return sums is not None and self.refuses(node, sums) is None


def _with_bias(uses: Uses, node: Node, bias: list[Value]) -> tuple[Value, Array | None]:
    """What a convolution gives with its bias, or with the one that is added behind it, and that bias."""
    result = node.output
    if bias:
        return result, bias[0].data
    readers = uses.users(result)
    if uses.shared_because(result) is not None or len(readers) != 1 or not isinstance(readers[0].op, Add):
        return result, None
    left, right = readers[0].present_inputs()
    channels = (result.shape[1], *(1,) * (result.type.rank - 2))
    limits = whole_range(right)
    if left is not result or right.data is None or right.shape not in (channels, (1, *channels)):
        return result, None
    if limits is None or limits not in _BIASES:
        return result, None
    return readers[0].output, right.data.reshape(-1)


def _codes_of(x: Value) -> _Codes | None:
    """The numbers as bytes: those that they were shifted from, if these are."""
    value, shift = x, 0
    while (node := value.producer) is not None:
        if isinstance(node.op, Cast) and node.inputs[0].type.dtype in (DType.U8, *LIMITS):
            value = node.inputs[0]
        elif (found := _shifted(node)) is not None:
            value, more = found
            shift += more
        else:
            break
        if value.type.dtype is DType.U8:
            break
    limits = whole_range(value)
    if limits is None or limits not in _CODES or -shift not in range(_CODES.high + 1):
        return None
    return _Codes(value, -shift)


def _shifted(node: Node) -> tuple[Value, int] | None:
    """The value to which a sum or difference adds one whole number."""
    if not isinstance(node.op, Add | Sub) or len(node.inputs) != 2:
        return None
    left, right = node.present_inputs()
    if right.data is None or right.type.size != 1 or left.shape != node.output.shape:
        return None
    number = float(right.data.reshape(()))
    if not number.is_integer():
        return None
    return left, int(number) if isinstance(node.op, Add) else -int(number)
