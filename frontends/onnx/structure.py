"""The structure of an ONNX graph before any conversion: unique names, defined inputs, order, and what is needed."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING

from glulam.compiler.errors import ModelFileError

if TYPE_CHECKING:
    from onnx import GraphProto, NodeProto


def subgraphs(node: NodeProto) -> Iterator[GraphProto]:
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def reads(node: NodeProto) -> set[str]:
    """Names that the node reads, those that its branches take from outside included."""
    names = {name for name in node.input if name}
    for graph in subgraphs(node):
        own = {v.name for v in graph.input} | {t.name for t in graph.initializer}
        own.update(name for inner in graph.node for name in inner.output)
        inner_reads = set[str]().union(*(reads(inner) for inner in graph.node), (v.name for v in graph.output))
        names |= inner_reads - own
    return names


def shown(node: NodeProto) -> str:
    """How messages call a node."""
    name = node.name or next((name for name in node.output if name), "")
    return f"{full_name(node)} {name!r}"


def full_name(node: NodeProto) -> str:
    """The operator: with its domain, unless that is ONNX's own."""
    return node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}"


def ordered(nodes: Sequence[NodeProto], given: Collection[str], wanted: Collection[str]) -> list[NodeProto]:
    """The nodes that `wanted` need, in an order in which every input is there before it is read.

    given: names that exist already (inputs, initialisers, the scope outside). Raises ModelFileError on a name that is
    made twice or by nobody, and on a cycle. ONNX asks for sorted nodes; files that break only this rule are taken.
    """
    nodes = list(nodes)
    makers: dict[str, int] = {}
    for i, node in enumerate(nodes):
        for name in filter(None, node.output):
            if name in makers or name in given:
                raise ModelFileError(f"the name {name!r} is made twice: by {shown(node)} and before it")
            makers[name] = i
    sources: list[list[int]] = []
    for node in nodes:
        names = reads(node)
        if missing := sorted(name for name in names if name not in makers and name not in given):
            raise ModelFileError(
                f"{shown(node)} reads {missing[0]!r}, which is no input, initialiser or output of a node"
            )
        sources.append(sorted({makers[name] for name in names if name in makers}))
    for name in wanted:
        if name not in makers and name not in given:
            raise ModelFileError(f"the graph's output {name!r} is made by nobody")
    order = _depth_first(nodes, sources, sorted({makers[name] for name in wanted if name in makers}))
    if all(source < index for index in order for source in sources[index]):
        order.sort()
    return [nodes[index] for index in order]


def _depth_first(nodes: Sequence[NodeProto], sources: Sequence[Sequence[int]], roots: Sequence[int]) -> list[int]:
    """Places of the nodes that the roots need, sources first."""
    order: list[int] = []
    finished: dict[int, bool] = {}  # False while the sources are being visited
    stack = [(root, False) for root in reversed(roots)]
    while stack:
        index, done = stack.pop()
        if done:
            finished[index] = True
            order.append(index)
        elif index not in finished:
            finished[index] = False
            stack.append((index, True))
            stack.extend((source, False) for source in reversed(sources[index]))
        elif not finished[index]:
            raise ModelFileError(f"the graph has a cycle through {shown(nodes[index])}")
    return order
