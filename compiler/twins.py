"""Nodes that differ in nothing but the values of their constants are lowered once.

The kernel of such twins is the same, and what it packs lies at the same places of the other constants. That is known
where packings are views of constants; a node with constants that were changed on the way is lowered by itself.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from glulam.compiler.graph.op import Op, Trait
from glulam.compiler.graph.structure import op_key
from glulam.compiler.graph.types import Array
from glulam.compiler.kernels.context import Arg, Lowered
from glulam.compiler.kernels.operand import Operand
from glulam.compiler.ops.fused import FusedRegion

Operands = Sequence[Operand | None]


@dataclass(frozen=True, eq=False)
class Twin:
    """A node that was lowered, and with which inputs."""

    lowered: Lowered
    inputs: Operands

    def with_inputs(self, inputs: Operands) -> Lowered | None:
        """What lowering a node of the same key with other inputs would give; None if that cannot be told."""
        known = [(a.data, b.data) for a, b in zip(self.inputs, inputs, strict=True) if a is not None and b is not None]
        pairs = [(old, new) for old, new in known if old is not None and new is not None]
        if not pairs:
            return self.lowered
        args = [_moved(arg, pairs) for arg in self.lowered.args]
        found = tuple(arg for arg in args if arg is not None)
        return replace(self.lowered, args=found) if len(found) == len(args) else None


def twin_key(op: Op, inputs: Operands, outputs: Sequence[Operand]) -> Hashable | None:
    """Equal for twins; None for a node whose kernel may depend on the values of constants."""
    constant = any(operand is not None and operand.data is not None for operand in inputs)
    if Trait.RANDOM in op.traits or (constant and not _is_blind(op)):
        return None
    return op_key(op), tuple(map(_operand_key, inputs)), tuple(map(_operand_key, outputs))


def _is_blind(op: Op) -> bool:
    if isinstance(op, FusedRegion):
        return op.anchor is None or Trait.BLIND in op.anchor.op.traits
    return Trait.BLIND in op.traits or Trait.POINTWISE in op.traits


def _operand_key(operand: Operand | None) -> Hashable:
    if operand is None:
        return None
    data = operand.data
    in_code = data is not None and data.size == 1 and not operand.differs
    value = None if data is None else data.tobytes() if in_code else data.strides
    return operand.type, operand.layout, operand.strides, operand.by_channel, operand.differs, value


def _moved(arg: Arg, pairs: Sequence[tuple[Array, Array]]) -> Arg | None:
    """The argument with each view of a constant's memory as the same view of the other one's; None if it is none."""
    if isinstance(arg, tuple) or arg.table:
        return arg
    source = _view(arg.source, pairs)
    return None if source is None else replace(arg, source=source)


def _view(array: Array, pairs: Sequence[tuple[Array, Array]]) -> Array | None:
    first, end = _bounds(array)
    holders = []
    for old, new in pairs:
        begin, stop = _bounds(old)
        if begin <= first and end <= stop:
            holders.append((array.ctypes.data - begin, old, new))
    if len(holders) != 1:
        return None
    ((offset, old, new),) = holders
    if not (old.flags.c_contiguous and new.flags.c_contiguous):
        return None
    return np.ndarray(array.shape, array.dtype, new.reshape(-1).view(np.uint8).data, offset, array.strides)


def _bounds(array: Array) -> tuple[int, int]:
    """Addresses of the first byte and the one after the last."""
    reach = [(extent - 1) * stride for extent, stride in zip(array.shape, array.strides, strict=True)]
    address = array.ctypes.data
    return address + sum(min(r, 0) for r in reach), address + sum(max(r, 0) for r in reach) + array.itemsize
