"""What an algorithm for convolutions or linear layers is, and a candidate: a way to compute a node by it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from glulam.compiler.graph.graph import Node
from glulam.compiler.graph.op import Op
from glulam.compiler.graph.types import DType
from glulam.compiler.passes.sides import Sides
from glulam.compiler.targets import Target

OTHER_TILES = 2  # tiles besides the model's own that are worth a measurement


@dataclass(frozen=True)
class Candidate:
    """A way to compute a node: its name, the estimated cycles on one core, and the op that stands for it.

    `weights` are the bytes that the cycles take from a cache with room for them; from memory they may take longer. 0 if
    the cycles hold either way.
    """

    name: str
    cycles: float
    op: Op
    weights: float = 0.0

    @property
    def estimate(self) -> str:
        return f"{self.cycles / 1e3:.0f}k cycles"


@dataclass(frozen=True)
class Algorithm:
    """`refuses` says why it does not serve a node, None if it does; `candidates` are its variants, the best first.

    `refuses_between` may have a reason as well, in what the node stands between.

    An algorithm serves nodes of the op class `serves` only; the first that serves a class must refuse nothing. An
    `exact` one adds up what the definition does.
    """

    name: str
    serves: type[Op]
    refuses: Callable[[Target, Node], str | None]
    candidates: Callable[[Target, Node], list[Candidate]]
    exact: bool = True
    refuses_between: Callable[[Target, Node, Sides], str | None] | None = None

    def refusal(self, target: Target, node: Node, around: Sides) -> str | None:
        """The first reason, None if there is none."""
        why = self.refuses(target, node)
        return why if why or not self.refuses_between else self.refuses_between(target, node, around)


def needs_packing(node: Node) -> str | None:
    """Why the weights cannot be packed at compile time, None if they can."""
    if not node.parameters_are_known or node.operand(0).type.dtype is not DType.F32:
        return "the weights are not float32 constants"
    return "nothing to compute" if 0 in node.output.shape else None


def never(target: Target, node: Node) -> str | None:
    """What an algorithm refuses that serves every node."""
    return None
