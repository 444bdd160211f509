"""The algorithms among which a convolution or linear layer may choose, each with its estimated cycles.

`ALGORITHMS` is the one list: the cost model takes the cheapest candidate, tuning measures the few that look best, and
`explain` prints them all. A new algorithm joins in by an entry in `conv_algorithms` or `linear_algorithms`.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import replace

from glulam.compiler.graph.graph import Node
from glulam.compiler.graph.op import Prefers
from glulam.compiler.graph.uses import Uses
from glulam.compiler.kernels.rates import COPY_RATE, stays_cached
from glulam.compiler.ops.conv import Conv
from glulam.compiler.ops.matmul import Linear
from glulam.compiler.passes.candidates import Candidate
from glulam.compiler.passes.conv_algorithms import CONVOLUTIONS, no_narrow, no_narrow_between
from glulam.compiler.passes.linear_algorithms import LINEAR_LAYERS, no_fixed_point
from glulam.compiler.passes.sides import BLOCKED, Sides, sides
from glulam.compiler.passes.whole_numbers import is_exact
from glulam.compiler.targets import Target


def candidates(
    target: Target, node: Node, strict: bool = False, around: Sides = BLOCKED
) -> tuple[list[Candidate], list[str]]:
    """What may compute the node, with equal costs in order of preference, and why other algorithms may not.

    With `strict` the sums are to be the definition's, as sums of whole numbers are where nothing is rounded. `around`
    says what the node stands between.
    """
    found: list[Candidate] = []
    refused: list[str] = []
    exact = is_exact(node)
    for algorithm in ALGORITHMS:
        if type(node.op) is not algorithm.serves:
            continue
        if strict and not algorithm.exact:
            refused.append(f"no {algorithm.name}: numerics are strict")
        elif exact and not algorithm.exact:
            refused.append(f"no {algorithm.name}: sums of whole numbers are to be exact")
        elif (why := algorithm.refusal(target, node, around)) is not None:
            refused.append(f"no {algorithm.name}: {why}")
        else:
            found += algorithm.candidates(target, node)
    if len({_is_plain(candidate, node) for candidate in found}) > 1:
        found = [_with_conversions(target, node, candidate, around) for candidate in found]
    if around.cold:
        found = [replace(each, cycles=max(each.cycles, each.weights / target.memory_rate)) for each in found]
    return found, refused


def relevant_sides(target: Target, uses: Uses, node: Node) -> Sides:
    """What is around a node, as far as its candidates' costs depend on it."""
    if type(node.op) is Conv and no_narrow(target, node) is None:
        around = sides(uses, node)
        return around if no_narrow_between(target, node, around) is None else BLOCKED
    if type(node.op) is Linear and no_fixed_point(target, node) is None:
        return Sides(cold=not stays_cached(target, uses.constant_bytes))
    return BLOCKED


def _is_plain(candidate: Candidate, node: Node) -> bool:
    """Whether a candidate works on plain tensors, not on channel blocks."""
    return candidate.op.preference(node.input_types, node.output_types) is Prefers.PLAIN


def _with_conversions(target: Target, node: Node, candidate: Candidate, around: Sides) -> Candidate:
    """A candidate with the conversions that it takes, of tensors that have a channel block at least.

    What comes plain is copied where it needs padding.
    """
    x, op, plain, moved = node.operand(0), node.op, _is_plain(candidate, node), 0
    padded = isinstance(op, Conv) and any(map(any, op.pads))
    if x.shape[1] >= target.lanes and (plain != around.comes_plain or (plain and padded)):
        moved += x.type.nbytes
    if node.output.shape[1] >= target.lanes and plain != around.goes_plain:
        moved += node.output.type.nbytes
    return replace(candidate, cycles=candidate.cycles + moved / COPY_RATE)


def signature(node: Node, around: Sides = BLOCKED) -> Hashable:
    """Equal for nodes that the same kernels may compute at the same cost."""
    values = [None if v is None else (v.type, v.is_constant) for v in node.inputs]
    exact = ("exact",) if is_exact(node) else ()
    return type(node.op).name, tuple(node.op.attributes().items()), tuple(values), node.output.type, around, *exact


ALGORITHMS = (*CONVOLUTIONS, *LINEAR_LAYERS)
"""For each class of ops the general one first."""

SERVED = frozenset(algorithm.serves for algorithm in ALGORITHMS)
