"""Normalisation folding: batch norm, input normalisation and constant arithmetic go into the weights next to them.

A chain of affine maps (see `affine`) is composed in float64 and folded, rounded once,

a. into the convolution or linear layer before it, if nobody else reads what lies between;
b. else into all layers that read it, where exact: a scale always, a shift only where there is no zero padding.

On the way a map passes ops that only move elements; a max pool only if every scale is positive, an average pool if the
padding does not count. What cannot be folded stays: a batch norm, or a chain, as one ScaleShift. Layers that add up
whole numbers without rounding (see `whole_numbers`) take in whole shifts behind them, nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass

from glulam.compiler.graph.deferred import compute_aside
from glulam.compiler.graph.graph import Graph, Node, Value
from glulam.compiler.graph.op import Op
from glulam.compiler.graph.patch import Patch
from glulam.compiler.graph.types import Shape, inverse_perm
from glulam.compiler.graph.uses import Uses
from glulam.compiler.ops import (
    Add,
    AveragePool,
    BatchNorm,
    MaxPool,
    Mul,
    Pad,
    Reduce,
    Reshape,
    Round,
    ScaleShift,
    Transpose,
)
from glulam.compiler.passes.affine import Affine, affine_of
from glulam.compiler.passes.manager import Decision, NodePass, PassReport
from glulam.compiler.passes.scaled_weights import Weights, is_linear
from glulam.compiler.passes.whole_numbers import is_exact, whole_range


@dataclass(frozen=True)
class Link:
    """One map of a chain: node, what it reads, and the map."""

    node: Node
    source: Value
    affine: Affine

    @property
    def value(self) -> Value:
        return self.node.output


@dataclass(frozen=True)
class FoldNormalisation(NodePass):
    """`backward` and `forward` allow folding into the layer before and into the layers after.

    With `strict` what is rounded to codes is computed as it stands: a number next to a half would become another code.
    """

    backward: bool = True
    forward: bool = True
    strict: bool = False

    name = "fold_normalisation"

    def run(self, graph: Graph, limit: int | None = None) -> PassReport:
        report = super().run(graph, limit)
        compute_aside(value.deferred for value in graph.constants() if value.deferred is not None)
        return report

    def visit(self, graph: Graph, uses: Uses, node: Node) -> Patch | Decision | None:
        first = _link(node)
        if first is None or isinstance(first, str):
            return Decision(node.name, False, first) if first else None
        if _continues(uses, first):
            return None  # the chain is looked at from its beginning
        chain = _chain(uses, first)
        if self.strict and any(isinstance(user.op, Round) for user in uses.users(chain[-1].value)):
            rounded = chain.pop()
            if not chain:
                return Decision(rounded.node.name, False, "it is rounded to codes")
        reasons: list[str] = []
        if self.backward:
            back = _fold_backward(graph, uses, chain)
            if isinstance(back, Patch):
                return back
            reasons.append(f"before it, {back}")
        if self.forward:
            ahead = _fold_forward(graph, uses, chain)
            if isinstance(ahead, Patch):
                return ahead
            reasons.append(f"after it, {ahead}")
        return _canonical(graph, chain, "; ".join(reasons))


# ---- chains


def _link(node: Node) -> Link | str | None:
    found = affine_of(node)
    return Link(node, *found) if isinstance(found, tuple) else found


def _continues(uses: Uses, link: Link) -> bool:
    """Is the map part of a chain that begins earlier?"""
    before = link.source.producer
    earlier = _link(before) if before is not None else None
    return isinstance(earlier, Link) and uses.shared_because(link.source) is None and _composable(earlier, link)


def _composable(first: Link, second: Link) -> bool:
    """Codes less their zero point are exact, and 0 where they should be, only before they are scaled."""
    dtype = second.value.type.dtype
    if first.affine.adds_whole_numbers and not second.affine.adds_whole_numbers and whole_range(first.value):
        return False
    return first.affine.then(second.affine).fits(dtype)


def _chain(uses: Uses, first: Link) -> list[Link]:
    """The maps from the first one on, each read by the next one only."""
    chain = [first]
    while uses.shared_because(chain[-1].value) is None and uses.users(chain[-1].value):
        following = _link(uses.users(chain[-1].value)[0])
        if not isinstance(following, Link) or following.source is not chain[-1].value:
            break
        if not _composable(chain[-1], following):
            break
        chain.append(following)
    return chain


def _composed(links: list[Link]) -> Affine:
    result = links[0].affine
    for link in links[1:]:
        result = result.then(link.affine)
    return result


# ---- into the layer before


def _fold_backward(graph: Graph, uses: Uses, chain: list[Link]) -> Patch | str:
    """Fold as many maps from the beginning of the chain as the layer before it takes; or why it takes none."""
    reason = ""
    for count in range(len(chain), 0, -1):
        links = chain[:count]
        result = _into_producer(graph, uses, links)
        if isinstance(result, Patch):
            return result
        reason = result
    return reason


def _into_producer(graph: Graph, uses: Uses, links: list[Link]) -> Patch | str:
    affine = _composed(links)
    value = links[0].source
    passed: list[Node] = []
    while True:
        if why := uses.shared_because(value):
            return why
        producer = value.producer
        if producer is None:
            return f"%{value.name} is an input of the graph"
        if is_linear(producer.op):
            break
        carried = _carry(producer.op, affine, producer.inputs[0], back=True)
        if isinstance(carried, str):
            return f"{producer.name}: {carried}"
        affine = carried
        passed.append(producer)
        assert producer.inputs[0] is not None
        value = producer.inputs[0]
    if is_exact(producer) and not affine.adds_whole_numbers:
        return f"{producer.name}: its sums of whole numbers are exact"
    weights = Weights.of(producer)
    folded = weights if isinstance(weights, str) else weights.followed_by(affine)
    if isinstance(folded, str):
        return f"{producer.name}: {folded}"
    assert producer.inputs[0] is not None
    patch = Patch(graph, f"folded into {producer.name} before it", at=_names(links))
    new = folded.apply(patch, producer, producer.inputs[0])
    if isinstance(new, str):
        return new
    for node in reversed(passed):
        new = patch.apply(node.op, new, name=node.name)
    patch.replace(links[-1].value, new)
    return patch


# ---- into the layers after


def _fold_forward(graph: Graph, uses: Uses, chain: list[Link]) -> Patch | str:
    """Fold as many maps from the end of the chain as its readers take; or why they take none."""
    reason = ""
    for start in range(len(chain)):
        links = chain[start:]
        patch = Patch(graph, "", at=_names(links))
        takers: list[str] = []
        why = _push(patch, uses, links[-1].value, links[0].source, _composed(links), takers)
        if why is None:
            patch.reason = f"folded into {', '.join(takers)} after it"
            return patch
        reason = why
    return reason


def _push(patch: Patch, uses: Uses, old: Value, new: Value, affine: Affine, takers: list[str]) -> str | None:
    """Let all readers of `old` read `new` and do the map themselves; why one of them cannot, or None."""
    if uses.is_output(old):
        return f"%{old.name} is an output of the graph"
    readers = list(dict.fromkeys(uses.users(old)))
    if not readers:
        return f"nobody reads %{old.name}"
    for reader in readers:
        if reader.inputs[0] is not old or old in reader.inputs[1:]:
            return f"{reader.name} ({reader.op.name}) is not linear in it"
        if is_linear(reader.op):
            why = _into_reader(patch, reader, new, affine)
            takers.append(reader.name)
        else:
            carried = _carry(reader.op, affine, reader.outputs[0], back=False)
            if isinstance(carried, str):
                return f"{reader.name}: {carried}"
            moved = patch.apply(reader.op, new, name=reader.name)
            why = _push(patch, uses, reader.output, moved, carried, takers)
        if why:
            return why
    return None


def _into_reader(patch: Patch, reader: Node, x: Value, affine: Affine) -> str | None:
    if is_exact(reader):
        return f"{reader.name}: its sums of whole numbers are exact"
    weights = Weights.of(reader)
    folded = weights if isinstance(weights, str) else weights.preceded_by(affine)
    if isinstance(folded, str):
        return f"{reader.name}: {folded}"
    new = folded.apply(patch, reader, x)
    if isinstance(new, str):
        return new
    patch.replace(reader.output, new)
    return None


# ---- past other ops


def _carry(op: Op, affine: Affine, other: Value | None, *, back: bool) -> Affine | str:
    """The map on the other side of the op: `other` is its input if the map goes `back`, else its output."""
    assert other is not None
    match op:
        case Reshape():
            return affine.reshaped(other.shape)
        case Transpose(perm):
            return affine.transposed(inverse_perm(perm) if back else perm)
        case MaxPool():
            if not affine.is_increasing:
                return "a scale that is not positive does not pass a max pool"
            return _over_windows(affine, other.shape)
        case AveragePool():
            if affine.has_shift and op.count_include_pad and any(side for pad in op.pads for side in pad):
                return "a shift does not pass an average that counts zero padding"
            return _over_windows(affine, other.shape)
        case Reduce(kind="mean"):
            return _over_mean(op, affine, other.shape, back=back)
        case Pad():
            if op.mode == "constant" and (op.value != 0 or affine.has_shift):
                return "a shift does not pass constant padding, nor does padding that is not zero"
            if any(pad != (0, 0) for pad in op.pads[:2]):
                return "padding of the channels"
            return _over_windows(affine, other.shape)
    return f"{op.name} is not linear"


def _over_windows(affine: Affine, shape: Shape) -> Affine | str:
    return affine.resized(shape) or "the statistics differ within a window"


def _over_mean(op: Reduce, affine: Affine, shape: Shape, *, back: bool) -> Affine | str:
    full = shape if back else affine.shape
    kept = tuple(1 if axis in op.axes else extent for axis, extent in enumerate(full))
    if back:
        inner = affine.reshaped(kept)
        return Affine(full, inner.scale, inner.shift)
    if any(array.shape[axis] != 1 for array in (affine.scale, affine.shift) for axis in op.axes):
        return "the statistics differ within what is averaged"
    return Affine(kept, affine.scale, affine.shift).reshaped(shape)


# ---- what stays


def _canonical(graph: Graph, chain: list[Link], reasons: str) -> Patch | Decision:
    """A batch norm or a chain as one node; a single Mul, Add, ... is as good as it can be."""
    last = chain[-1]
    at = _names(chain)
    if len(chain) == 1 and not isinstance(last.node.op, BatchNorm):
        return Decision(at, False, f"not folded: {reasons}")
    affine = _composed(chain)
    if not affine.fits(last.value.type.dtype):
        return Decision(at, False, f"scale or shift would not be finite; not folded: {reasons}")
    scale, shift = affine.constants(last.value.type.dtype)
    patch = Patch(graph, f"kept as one map of scale and shift: {reasons}", at=at)
    x, name = chain[0].source, last.node.name
    if not affine.has_shift:
        new = patch.apply(Mul(), x, patch.constant(scale, f"{name}.scale"), name=name)
    elif (affine.scale == 1).all():
        new = patch.apply(Add(), x, patch.constant(shift, f"{name}.shift"), name=name)
    else:
        constants = patch.constant(scale, f"{name}.scale"), patch.constant(shift, f"{name}.shift")
        new = patch.apply(ScaleShift(), x, *constants, name=name)
    patch.replace(last.value, new)
    return patch


def _names(links: list[Link]) -> str:
    return " + ".join(link.node.name for link in links)
