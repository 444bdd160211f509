"""What a layer of codes multiplies: whole numbers of a byte, what they are less by, and a scale; and those as bytes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from glulam.compiler.graph.graph import Node, Value
from glulam.compiler.graph.op import Trait
from glulam.compiler.graph.patch import Patch
from glulam.compiler.graph.types import DType
from glulam.compiler.graph.uses import Uses
from glulam.compiler.ops import Add, Cast, Concat, Mul, Sub
from glulam.compiler.passes.codes import BYTES, moved, moves, stored
from glulam.compiler.passes.codes_as_floats import before_cast
from glulam.compiler.passes.whole_numbers import LIMITS, range_of_type, whole_range

CODES, SIGNED = range_of_type(DType.U8), range_of_type(DType.I8)


def chooses(node: Node) -> bool:
    """Whether all that the node gives are some of the codes that it reads."""
    return isinstance(node.op, Concat) or moves(node)


@dataclass(frozen=True)
class ByteOperand:
    """(codes + offset - zero_point - moved) * scale.

    `codes` are whole numbers, as floats or U8, of any shape; with the `offset` they are from 0 to 255. `moved` is one
    whole number that only a run knows, of the codes' range.
    """

    codes: Value
    offset: int
    zero_point: int
    moved: Value | None
    scale: float | None


def byte_operand(value: Value) -> ByteOperand | None:
    """What a layer that reads the value multiplies, by codes; None if it is none of them."""
    scale, shift = None, 0
    moved: Value | None = None
    while (made_by := value.producer) is not None and value.type.dtype is not DType.U8:
        source = next(made_by.present_inputs(), None)
        if Trait.VIEW in made_by.op.traits and source is not None:
            value = source
        elif scale is None and value.type.dtype is DType.F32 and (scaled := _with_number(value, (Mul,))) is not None:
            if shift or moved is not None:
                break
            value, scale = scaled
        elif isinstance(made_by.op, Cast) and source is not None and source.type.dtype in (DType.U8, *LIMITS):
            value = source
        elif (shifted := _with_number(value, (Add, Sub))) is not None and shifted[1].is_integer():
            shift += int(shifted[1]) if isinstance(made_by.op, Add) else -int(shifted[1])
            value = shifted[0]
        elif moved is None and (less := _less_one(made_by)) is not None:
            value, moved = less
        else:
            break
    for codes in (CODES, SIGNED):
        offset, ranges = -codes.low, [whole_range(each) for each in (value, moved or value)]
        fits = all(each is not None and each in codes for each in ranges) and 0 <= offset - shift <= CODES.high
        if fits and not value.is_constant and (scale is None or math.isfinite(scale)):
            return ByteOperand(value, offset, offset - shift, moved, scale)
    return None


def _with_number(value: Value, ops: tuple[type, ...]) -> tuple[Value, float] | None:
    """The left operand and the constant number on the right of the op that makes the value, if it is one of these."""
    node = value.producer
    if node is None or not isinstance(node.op, ops):
        return None
    left, right = node.present_inputs()
    if not right.is_number or right.data is None or left.type != value.type:
        return None
    return left, float(right.data.reshape(()))


def _less_one(node: Node) -> tuple[Value, Value] | None:
    """The two operands of a difference whose second one is a single element."""
    if not isinstance(node.op, Sub):
        return None
    left, right = node.present_inputs()
    return (left, right) if right.type.size == 1 and left.type == node.output.type else None


def as_bytes(
    patch: Patch, uses: Uses, value: Value, offset: int, reads_bytes: Callable[[Node], bool], dtype: DType = DType.U8
) -> Value:
    """The codes, plus the offset, in a type of bytes.

    What else reads them turns them into floats again, unless it needs a kernel for that: if it `reads_bytes`, it does
    not.
    """
    if value.type.dtype is dtype and not offset:
        return value
    if value.data is not None:
        return patch.constant((value.data + offset).astype(dtype.numpy), value.name)
    if (known := _known_bytes(uses, value, offset, dtype)) is not None:
        return known
    if (node := value.producer) is not None and chooses(node):
        codes = [as_bytes(patch, uses, each, offset, reads_bytes, dtype) for each in node.present_inputs()]
        found = patch.add(node.op, *codes, name=f"{value.name}.codes")[value.index]
    else:
        found = stored(patch, value, offset, f"{value.name}.codes", dtype)
    if value.type.dtype in BYTES or uses.is_output(value):
        return found
    if all(map(reads_bytes, uses.users(value))):
        patch.replace(value, moved(patch, patch.apply(Cast(value.type.dtype), found), -offset, dtype))
    return found


def _known_bytes(uses: Uses, value: Value, offset: int, dtype: DType) -> Value | None:
    """The codes as another layer reads them already."""
    if (bytes_ := _made_of_bytes(value, offset)) is not None and bytes_.type.dtype is dtype:
        return bytes_
    sources = [before_cast(value, dtype)]
    if offset:
        readers = [user.output for user in uses.users(value) if isinstance(user.op, Add)]
        sources = [each for each in readers if _with_number(each, (Add,)) == (value, offset)]
    casts = (user.output for source in sources for user in uses.users(source) if isinstance(user.op, Cast))
    return next((cast for cast in casts if cast.type.dtype is dtype), None)


def _made_of_bytes(value: Value, offset: int) -> Value | None:
    """What became the codes by a cast, and by taking the offset away again."""
    if offset:
        value, number = _with_number(value, (Add,)) or (value, offset)
        if number != -offset:
            return None
    node = value.producer
    return next(node.present_inputs()) if node is not None and isinstance(node.op, Cast) else None
