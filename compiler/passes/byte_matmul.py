"""Products of two computed matrices of codes, as those of attention, as products of bytes.

(a - p) @ (b - q) is a @ b less q times the sums of each row of a, less p, and p times the sums of each column of b. The
right matrix is packed at each run, four of its rows into one of words.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from glulam.compiler.graph.graph import Graph, Node, Value
from glulam.compiler.graph.patch import Patch
from glulam.compiler.graph.types import DType
from glulam.compiler.graph.uses import Uses
from glulam.compiler.kernels.byte_words import WORD
from glulam.compiler.ops import Add, Cast, Mul, Pad, Reshape, Sub
from glulam.compiler.ops.linear_integer import LinearInteger
from glulam.compiler.ops.matmul_integer import MatMulWords, PackWords
from glulam.compiler.passes.byte_operands import CODES, SIGNED, ByteOperand, as_bytes, byte_operand
from glulam.compiler.passes.manager import Decision
from glulam.compiler.passes.whole_numbers import range_of_type

_LARGEST = range_of_type(DType.I32).high // 4  # of products, and of what each zero point and both of them take away


def has_kernel(node: Node) -> bool:
    """Whether there is a kernel for the product of two computed matrices, if both are of codes."""
    left, right = node.present_inputs()
    return min(left.type.rank, right.type.rank) > 1 and right.shape[-1] > 1 and node.output.type.size > 0


def multiply(graph: Graph, uses: Uses, node: Node, reads_bytes: Callable[[Node], bool]) -> Patch | Decision | None:
    """The product of two computed matrices in bytes, if both are of codes; see `as_bytes` for `reads_bytes`."""
    left, right = node.present_inputs()
    a, b = byte_operand(left), byte_operand(right)
    if a is None or b is None:
        return None
    if not has_kernel(node):
        return Decision(node.name, False, "no kernel multiplies vectors, or has a single column")
    if (largest := left.shape[-1] * CODES.high**2) > _LARGEST:
        return Decision(node.name, False, f"sums of up to {largest} may leave I32")
    scales = [each.scale for each in (a, b) if each.scale is not None]
    if scales and node.output.type.dtype is not DType.F32:
        return Decision(node.name, False, f"scales of {node.output.type.dtype.value}")
    patch = Patch(graph, f"codes with the zero points {a.zero_point} and {b.zero_point}", at=node.name)
    codes = _shaped(patch, as_bytes(patch, uses, a.codes, a.offset, reads_bytes), left)
    signed = _shaped(patch, as_bytes(patch, uses, b.codes, b.offset + SIGNED.low, reads_bytes, DType.I8), right)
    if missing := -left.shape[-1] % WORD:  # whose words are zeros
        codes = patch.apply(Pad(((0, 0),) * (left.type.rank - 1) + ((0, missing),)), codes)
    words = patch.apply(PackWords(), signed, name=f"{node.name}.words")
    total = patch.apply(MatMulWords(), codes, words, name=f"{node.name}.sums")
    total = _less_rows(patch, total, codes, left.shape[-1], a, b)
    total = _less_columns(patch, total, words, a)
    total = patch.apply(Cast(node.output.type.dtype), total, name=node.name)
    if scales:
        scale = patch.constant(np.asarray(math.prod(scales), np.float32), f"{node.name}.scale")
        total = patch.apply(Mul(), total, scale, name=node.name)
    patch.replace(node.output, total)
    return patch


def _shaped(patch: Patch, codes: Value, operand: Value) -> Value:
    return codes if codes.shape == operand.shape else patch.apply(Reshape(operand.shape), codes)


def _less_rows(patch: Patch, total: Value, codes: Value, depth: int, a: ByteOperand, b: ByteOperand) -> Value:
    """The sums, if all elements of the right matrix are less by its zero point: what it takes from a row's codes."""
    zero_point = _zero_point(patch, b, SIGNED.low)
    if zero_point is None:
        return total
    ones = (np.arange(codes.shape[-1]) < depth).astype(np.int8)[None]
    inputs = patch.constant(ones, "ones"), patch.constant(np.zeros(1, np.int32), "zeros")
    rows = patch.apply(LinearInteger(a.zero_point), codes, *inputs, name="rows")
    if a.moved is not None:
        own = patch.apply(Mul(), _whole(patch, a.moved), patch.constant(np.asarray(depth, np.int32), "depth"))
        rows = patch.apply(Sub(), rows, own)
    return patch.apply(Sub(), total, patch.apply(Mul(), rows, zero_point))


def _less_columns(patch: Patch, total: Value, words: Value, a: ByteOperand) -> Value:
    """The sums, if all elements of the left matrix are less by its zero point: what it takes from a column's codes."""
    zero_point = _zero_point(patch, a, 0)
    if zero_point is None:
        return total
    ones = patch.constant(np.ones((1, words.shape[-2] * WORD), np.uint8), "ones")
    columns = patch.apply(MatMulWords(), ones, words, name="columns")
    return patch.apply(Sub(), total, patch.apply(Mul(), columns, zero_point))


def _zero_point(patch: Patch, operand: ByteOperand, offset: int) -> Value | None:
    """The code that stands for zero, plus an offset, as I32; None if that is 0."""
    known = operand.zero_point + offset
    if operand.moved is None:
        return patch.constant(np.asarray(known, np.int32), "zero_point") if known else None
    moved = _whole(patch, operand.moved)
    return patch.apply(Add(), moved, patch.constant(np.asarray(known, np.int32), "zero_point")) if known else moved


def _whole(patch: Patch, number: Value) -> Value:
    """A single element as a scalar of I32."""
    return patch.apply(Reshape(()), patch.apply(Cast(DType.I32), number))
