"""Identity elimination: nodes that give their input back, and views of views.

Only what is exact to the bit, signed zeros and NaN included:

1. Identity, Dropout (it is the identity at inference), Cast to the same type.
2. Reshape and Expand to the same shape, Transpose with the identity permutation, Tile once.
3. Pad by nothing, Slice of everything, Concat of one tensor (empty ones do not count), Split into one piece.
4. x * 1, x / 1, x + (-0.0), x - (+0.0), and x + 0 of integers. Not x + (+0.0): it turns -0.0 into +0.0.
5. Reshape of a reshape (one is enough), transpose of a transpose (composed).
6. Transpose that moves only axes of extent 1: it keeps the elements' order, so it becomes a reshape.
7. Expand before a pointwise op that broadcasts by itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from glulam.compiler.graph.graph import Graph, Node, Value
from glulam.compiler.graph.op import Op, Trait
from glulam.compiler.graph.patch import Patch
from glulam.compiler.graph.uses import Uses
from glulam.compiler.ops import (
    Add,
    Cast,
    Concat,
    Div,
    Dropout,
    Expand,
    Identity,
    Mul,
    Pad,
    Reshape,
    Slice,
    Split,
    Sub,
    Tile,
    Transpose,
)
from glulam.compiler.passes.manager import Decision, NodePass


class IdentityElimination(NodePass):
    """Lets the readers of such a node read its input."""

    name = "identity_elimination"

    def visit(self, graph: Graph, uses: Uses, node: Node) -> Patch | Decision | None:
        same = _SAME.get(type(node.op))
        source = same(node) if same else None
        if isinstance(source, Value) and source.type == node.outputs[0].type:
            patch = Patch(graph, f"{node.op.name} gives %{source.name} as it is", at=node.name)
            patch.replace(node.outputs[0], source)
            return patch
        if isinstance(source, str):
            return Decision(node.name, False, source)
        if Trait.POINTWISE in node.op.traits:
            return _without_expand(graph, node)
        return _shorter(graph, node)


def _shorter(graph: Graph, node: Node) -> Patch | None:
    """The node on an earlier input, or as a cheaper op."""
    simpler = _SIMPLER.get(type(node.op))
    found = simpler(node) if simpler else None
    if found is None:
        return None
    op, inputs, reason = found
    patch = Patch(graph, reason, at=node.name)
    patch.replace(node.output, patch.apply(op, *inputs, name=node.name))
    return patch


def _without_expand(graph: Graph, node: Node) -> Patch | None:
    """The pointwise node over the tensors as they were before they were expanded, if its output stays."""
    sources = [_before_expand(value) for value in node.inputs]
    if sources == list(node.inputs):
        return None
    if node.op.infer(*(None if value is None else value.type for value in sources)) != (node.output.type,):
        return None
    patch = Patch(graph, f"{node.op.name} broadcasts by itself", at=node.name)
    patch.replace(node.output, patch.apply(node.op, *sources, name=node.name))
    return patch


def _before_expand(value: Value | None) -> Value | None:
    expand = value.producer if value is not None else None
    return expand.inputs[0] if expand is not None and isinstance(expand.op, Expand) else value


# ---- nodes that give their input back: the input, the reason why not, or None if there is nothing to say

Same = Callable[[Node], Value | str | None]


def _input(node: Node) -> Value | None:
    """The first input; the caller checks that its type is that of the output."""
    return node.inputs[0]


def _when(holds: Callable[[Op], bool]) -> Same:
    return lambda node: node.inputs[0] if holds(node.op) else None


def _concat_of_one(node: Node) -> Value | None:
    filled = _filled(node)
    return filled[0] if len(filled) == 1 else None


def _neutral_right(neutral: float) -> Same:
    """x op c where c is all `neutral`, of that very sign if it is a zero and x is a float."""

    def same(node: Node) -> Value | str | None:
        x, c = node.inputs
        return x if x and c and _is_all(c, neutral) else None

    return same


def _neutral_either(neutral: float) -> Same:
    def same(node: Node) -> Value | str | None:
        for x, c in (node.inputs, node.inputs[::-1]):
            if x and c and x.type == node.output.type:
                if _is_all(c, neutral):
                    return x
                if neutral == 0 and _is_all(c, -neutral):
                    return "adding +0.0 is not the identity: it turns -0.0 into +0.0"
        return None

    return same


def _is_all(value: Value, number: float) -> bool:
    """Is the value a constant whose elements are all the number? Zeros of floats must have its sign."""
    data = value.data
    if data is None or data.size == 0 or not bool((data == number).all()):
        return False
    return (
        number != 0 or not value.type.dtype.is_float or bool((np.signbit(data) == (math.copysign(1, number) < 0)).all())
    )


_SAME: dict[type[Op], Same] = {
    Identity: _input,
    Dropout: _input,
    Cast: _input,
    Reshape: _input,
    Expand: _input,
    Transpose: _when(lambda op: isinstance(op, Transpose) and op.perm == tuple(sorted(op.perm))),
    Tile: _when(lambda op: isinstance(op, Tile) and all(times == 1 for times in op.repeats)),
    Pad: _when(lambda op: isinstance(op, Pad) and all(pad == (0, 0) for pad in op.pads)),
    Slice: _when(lambda op: isinstance(op, Slice) and not any(op.starts) and all(step == 1 for step in op.steps)),
    Concat: _concat_of_one,
    Split: _when(lambda op: isinstance(op, Split) and len(op.sizes) == 1),
    Mul: _neutral_either(1),
    Div: _neutral_right(1),
    Add: _neutral_either(-0.0),
    Sub: _neutral_right(0.0),
}


# ---- nodes that can be said more simply: the op, its inputs, the reason

Simpler = tuple[Op, list[Value | None], str]


def _reshape(node: Node) -> Simpler | None:
    inner = _producer(node, Reshape)
    return (node.op, [inner.inputs[0]], f"reshape of the reshape {inner.name}") if inner else None


def _transpose(node: Node) -> Simpler | None:
    op = node.op
    x = node.inputs[0]
    if not isinstance(op, Transpose) or x is None:
        return None
    if inner := _producer(node, Transpose):
        assert isinstance(inner.op, Transpose)
        perm = tuple(inner.op.perm[axis] for axis in op.perm)
        return Transpose(perm), [inner.inputs[0]], f"composed with the transpose {inner.name}"
    moved = [axis for axis in op.perm if x.shape[axis] != 1]
    if moved == sorted(moved):
        return Reshape(node.output.shape), [x], "moves only axes of extent 1, so it is a reshape"
    return None


def _concat(node: Node) -> Simpler | None:
    filled = _filled(node)
    if not filled or len(filled) == len(node.inputs):
        return None
    return node.op, list(filled), "empty inputs left out"


def _filled(node: Node) -> list[Value]:
    return [value for value in node.present_inputs() if value.type.size]


def _producer(node: Node, op: type[Op]) -> Node | None:
    """The node that computes the first input, if it is of that op."""
    producer = node.inputs[0].producer if node.inputs[0] else None
    return producer if producer is not None and isinstance(producer.op, op) else None


_SIMPLER: dict[type[Op], Callable[[Node], Simpler | None]] = {
    Reshape: _reshape,
    Transpose: _transpose,
    Concat: _concat,
}
