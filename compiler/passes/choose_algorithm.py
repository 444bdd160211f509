"""Algorithm choice: of several ways to compute a convolution or linear layer the one with the fewest estimated cycles.

Where measurements on this machine are given, the fastest one instead.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from glulam.compiler.graph.graph import Graph, Node
from glulam.compiler.graph.patch import Patch
from glulam.compiler.graph.uses import Uses
from glulam.compiler.passes.algorithms import SERVED, candidates, relevant_sides, signature
from glulam.compiler.passes.candidates import Candidate
from glulam.compiler.passes.manager import Decision, NodePass
from glulam.compiler.passes.sides import Sides
from glulam.compiler.targets import Target

Choice = tuple[list[Candidate], list[str]]
"""What may compute a node, and why other algorithms may not."""


class Met(NamedTuple):
    """A node that has a choice, what it stands between, and what may compute it."""

    node: Node
    around: Sides
    candidates: Sequence[Candidate]


Measured = Mapping[Hashable, Mapping[str, float]]
"""Seconds of candidates by name, for nodes by signature."""


@dataclass(frozen=True)
class ChooseAlgorithm(NodePass):
    """By cost, not by rule: small images of many channels would stream too many transformed weights.

    With `strict` only among those that add up what the definition does. `met` is filled with the nodes that had a
    choice, by signature, and what they stood between: a choice may change what is around the neighbours.
    """

    target: Target
    measured: Measured = field(default_factory=dict)
    strict: bool = False
    met: dict[Hashable, dict[str, Met]] = field(default_factory=dict, compare=False, repr=False)
    _known: dict[Hashable, Choice] = field(default_factory=dict, init=False, compare=False, repr=False)

    name = "choose_algorithm"

    def visit(self, graph: Graph, uses: Uses, node: Node) -> Patch | Decision | None:
        if type(node.op) not in SERVED:
            return None
        around = relevant_sides(self.target, uses, node)
        key = signature(node, around)
        if key not in self._known:
            self._known[key] = candidates(self.target, node, self.strict, around)
        found, refused = self._known[key]
        if len(found) > 1:
            self.met.setdefault(key, {})[node.name] = Met(node, around, found)
        seconds = self.measured.get(key, {})
        chosen = choose(found, seconds)
        reason = "; ".join([_listed(chosen, found, seconds), *refused])
        if chosen.op == node.op:
            return Decision(node.name, False, reason)
        patch = Patch(graph, reason, at=node.name)
        patch.replace(node.output, patch.apply(chosen.op, *node.inputs, name=node.name))
        return patch


def choose(found: list[Candidate], seconds: Mapping[str, float]) -> Candidate:
    """The fastest of the measured candidates; the cheapest by estimate if none was measured."""
    measured = [candidate for candidate in found if candidate.name in seconds]
    if measured:
        return min(measured, key=lambda candidate: seconds[candidate.name])
    return min(found, key=lambda candidate: candidate.cycles)


def _listed(chosen: Candidate, found: list[Candidate], seconds: Mapping[str, float]) -> str:
    """The chosen one first, its name before a colon, then the others, with measured times and estimated costs."""

    def price(candidate: Candidate) -> str:
        if candidate.name not in seconds:
            return candidate.estimate
        return f"measured {seconds[candidate.name] * 1e6:.0f} us ({candidate.estimate})"

    others = sorted((c for c in found if c is not chosen), key=lambda c: seconds.get(c.name, c.cycles))
    told = [f"{chosen.name}: {price(chosen)}", *(f"{each.name} {price(each)}" for each in others)]
    return ", ".join(told)
