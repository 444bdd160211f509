"""Transposes sink below ops for which the order of the axes makes no difference, until they meet others and cancel.

A network that was written for channels last has a transpose before and behind each convolution. Between them are
pointwise ops, concats, slices and reductions, which compute the same from tensors that were not transposed yet:
constants are transposed once and for all, and what is left to transpose is the result. Then only a transpose and its
inverse follow each other, which `identity_elimination` removes, and what was between convolutions fuses with them.
Bytes that are packed into words for a product are transposed as words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np

from glulam.compiler.graph.graph import Graph, Node, Value
from glulam.compiler.graph.op import Op, Trait
from glulam.compiler.graph.patch import Patch
from glulam.compiler.graph.types import Shape, inverse_perm
from glulam.compiler.graph.uses import Uses
from glulam.compiler.kernels.byte_words import WORD
from glulam.compiler.ops import Concat, Dropout, Identity, Pad, Reduce, Reshape, Slice, Transpose
from glulam.compiler.ops.matmul_integer import PackWords
from glulam.compiler.passes.manager import Decision, NodePass

Perm = tuple[int, ...]
T = TypeVar("T")

_PASSING_ON = (Identity, Dropout)
_FORESEEN = 4  # ops between a transpose and where its readers meet: the gate of a swish, squeeze and excitation


class SinkTransposes(NodePass):
    """Looks at every op that reads a transpose, and at every transpose of a padded tensor.

    It declines where the transpose would stay for other readers, which would make two of one; and behind graph inputs
    and views, where no kernel could take what comes before the transpose.
    """

    name = "sink_transposes"

    def visit(self, graph: Graph, uses: Uses, node: Node) -> Patch | Decision | None:
        if isinstance(node.op, Transpose):
            return _above_padding(graph, uses, node, node.op.perm)
        for value in node.present_inputs():
            perm = _perm(value)
            if perm is None or not _sinks_below(node, perm):
                continue
            if not isinstance(node.op, PackWords) and not _is_computed(_transposed(value)):
                return Decision(node.name, False, f"no kernel computes what {value.name} transposes")
            if uses.is_output(value) or not all(_goes_on(uses, reader, perm) for reader in uses.users(value)):
                return Decision(node.name, False, f"{value.name} has other readers")
            return _sunk(graph, node, perm)
        return None


def _above_padding(graph: Graph, uses: Uses, node: Node, perm: Perm) -> Patch | None:
    """The transpose before the padding that it follows, which whoever reads both may then take."""
    (padded,) = node.present_inputs()
    pad = padded.producer
    if pad is None or not isinstance(pad.op, Pad) or uses.shared_because(padded):
        return None
    patch = Patch(graph, f"goes before the padding {pad.name}", at=node.name)
    x = patch.apply(Transpose(perm), *pad.inputs)
    patch.replace(node.output, patch.apply(replace(pad.op, pads=_permuted(pad.op.pads, perm)), x, name=pad.name))
    return patch


def _sunk(graph: Graph, node: Node, perm: Perm) -> Patch:
    """The node on what was transposed, and a transpose of its result."""
    op, behind = _moved(node, perm)
    patch = Patch(graph, f"{node.op.name} works on what {perm} transposes", at=node.name)
    name = f"{node.name}.untransposed"
    result = patch.apply(op, *(_before(patch, value, perm) for value in node.present_inputs()), name=name)
    patch.replace(node.output, patch.apply(Transpose(behind), result) if behind != tuple(sorted(behind)) else result)
    return patch


def _goes_on(uses: Uses, reader: Node, perm: Perm) -> bool:
    """Whether a transpose will not stay for this reader."""
    if isinstance(reader.op, Pad):
        return all(isinstance(each.op, Transpose) for each in uses.users(reader.output))
    return isinstance(reader.op, Transpose) or _sinks_below(reader, perm, _FORESEEN)


def _sinks_below(node: Node, perm: Perm, foreseen: int = 0) -> bool:
    """Whether the op does the same before the transpose, which must not become one of more elements.

    An operand may be the result of so many ops that are `foreseen` to work on what was not transposed.
    """
    op, values = node.op, list(node.present_inputs())

    def is_transposed(value: Value) -> bool:
        producer = value.producer
        above = foreseen > 0 and producer is not None and _sinks_below(producer, perm, foreseen - 1)
        return _perm(value) == perm or above

    if isinstance(op, (Reduce, Slice, *_PASSING_ON)):
        return is_transposed(values[0])
    if isinstance(op, PackWords):
        return not op.perm and is_transposed(values[0]) and _has_words(node, perm)
    if Trait.POINTWISE in op.traits:
        if not any(value.shape == node.output.shape and is_transposed(value) for value in values):
            return False
    elif not isinstance(op, Concat):
        return False
    return all(_has_before(value, perm) or is_transposed(value) for value in values)


def _moved(node: Node, perm: Perm) -> tuple[Op, Perm]:
    """The op on what was transposed, and the order in which its result is to be transposed."""
    match node.op:
        case Concat(axis):
            return Concat(perm[axis]), perm
        case PackWords():
            return PackWords(perm), ()
        case Slice(starts, steps, sizes):
            back = inverse_perm(perm)
            return Slice(*(_permuted(each, back) for each in (starts, steps, sizes))), perm
        case Reduce(kind, axes, keepdims):
            gone = tuple(sorted(perm[axis] for axis in axes))
            left = [perm[axis] for axis in range(len(perm)) if axis not in axes]
            return Reduce(kind, gone, keepdims), perm if keepdims else tuple(sorted(left).index(axis) for axis in left)
    return node.op, perm


def _has_words(node: Node, perm: Perm) -> bool:
    """Whether the bytes that become words lay side by side before the transpose."""
    (value,) = node.present_inputs()
    return perm[-2] == len(perm) - 1 and value.shape[-2] % WORD == 0


# ---- values before a transpose


def _perm(value: Value) -> Perm | None:
    """The order in which the value was transposed, if it was."""
    node = value.producer
    return node.op.perm if node is not None and isinstance(node.op, Transpose) else None


def _is_computed(value: Value) -> bool:
    """Whether a kernel computes the value, and may take in what follows."""
    node = value.producer
    while node is not None and isinstance(node.op, _PASSING_ON):
        (value,) = node.present_inputs()
        node = value.producer
    return node is not None and Trait.VIEW not in node.op.traits


def _transposed(value: Value) -> Value:
    """What became the value when it was transposed."""
    assert value.producer is not None
    (x,) = value.producer.present_inputs()
    return x


def _has_before(value: Value, perm: Perm) -> bool:
    """Whether it costs nothing to have the value as it was before the transpose."""
    if _perm(value) == perm or value.is_constant:
        return True
    shape = _aligned(value, perm)
    order = [axis for axis in inverse_perm(perm) if shape[axis] != 1]
    return order == sorted(order)


def _before(patch: Patch, value: Value, perm: Perm) -> Value:
    if _perm(value) == perm:
        return _transposed(value)
    shape, back = _aligned(value, perm), inverse_perm(perm)
    if value.data is not None:
        return patch.constant(np.ascontiguousarray(value.data.reshape(shape).transpose(back)), value.name)
    return patch.apply(Reshape(_permuted(shape, back)), value)


def _aligned(value: Value, perm: Perm) -> Shape:
    """The value's shape with as many axes as are transposed."""
    return (1,) * (len(perm) - len(value.shape)) + value.shape


def _permuted(entries: Sequence[T], perm: Perm) -> tuple[T, ...]:
    return tuple(entries[axis] for axis in perm)
