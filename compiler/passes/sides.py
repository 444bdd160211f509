"""What a layer stands between: whether its neighbours leave and want plain tensors, so that a kernel on channel blocks
takes conversions, and whether the caches still have its weights from the last run."""

from __future__ import annotations

from dataclasses import dataclass

from glulam.compiler.graph.graph import Node, Value
from glulam.compiler.graph.op import Prefers
from glulam.compiler.graph.uses import Uses

_STEPS = 3  # neighbours that work either way and are asked for theirs


@dataclass(frozen=True)
class Sides:
    """Whether a node's first input comes plain, and whether its result is wanted so; else both are channel blocks.

    Constants are `cold` if all of the graph's together are more than the caches keep from one run to the next.
    """

    comes_plain: bool = False
    goes_plain: bool = False
    cold: bool = False


BLOCKED = Sides()


def sides(uses: Uses, node: Node) -> Sides:
    x = node.inputs[0]
    return Sides(x is not None and comes_plain(x), _goes_plain(uses, node.output, _STEPS))


def comes_plain(value: Value) -> bool:
    """Whether what computes the value gives a plain tensor."""
    return _comes_plain(value, _STEPS)


def _comes_plain(value: Value, steps: int) -> bool:
    node = value.producer
    if node is None:
        return True
    if node.prefers is not Prefers.EITHER:
        return node.prefers is Prefers.PLAIN
    varying = [v for v in node.present_inputs() if not v.is_constant]
    return steps > 0 and all(_comes_plain(v, steps - 1) for v in varying)


def _goes_plain(uses: Uses, value: Value, steps: int) -> bool:
    users = uses.users(value)
    return bool(users or uses.is_output(value)) and all(_wants_plain(uses, user, value, steps) for user in users)


def _wants_plain(uses: Uses, node: Node, value: Value, steps: int) -> bool:
    if node.prefers is not Prefers.EITHER:
        return node.prefers is Prefers.PLAIN
    if not steps or any(result.type != value.type for result in node.outputs):
        return False  # what is smaller costs less to convert afterwards
    return all(_goes_plain(uses, result, steps - 1) for result in node.outputs)
