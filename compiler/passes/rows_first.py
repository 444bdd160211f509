"""Images whose rows lie outside the channel blocks, for two threads that take half of the rows each.

What a thread computes is then one piece of memory, and not one in every channel block. So the memory plan can lay
tensors that follow each other into the same place with their middles on each other (see `arena`), and threads find
that place in their own caches. Where they do not, each cache line must first come over from the other thread's, and
from cores that share no cache more slowly than from memory.

Small images stay as they are: their pixels are computed as one row, and threads share their channels.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace

from glulam.compiler.graph.graph import Graph, Node, Value
from glulam.compiler.graph.op import Trait
from glulam.compiler.ops.batch_map import BatchMap
from glulam.compiler.ops.fused import anchor_op
from glulam.compiler.passes.by_channel import written_by_channel
from glulam.compiler.passes.manager import Decision, Pass, PassReport
from glulam.compiler.passes.storage import Storage
from glulam.compiler.targets import PARTNERS

_LEAST_PIXELS = 64

_LARGE_ROW = 1 << 17
"""Bytes of an image's row, with all its channels, from which on channel blocks are better far from each other.

Two or three 1x1 convolutions around such an image take 0.74 to 0.94 of the time then, on a Zen 4 whose cores share a
cache: 1024 channels at 32x32 and at 64x64, 512 at 64x64 and at 64x128. With half of that, 256 at 64x64, 0.96 to 1.06.
"""


@dataclass(frozen=True)
class RowsFirst(Pass):
    """Turns every tensor in channel blocks whose readers and writers do not care."""

    threads: int

    name = "rows_first"
    requires = ("layout",)
    nested = False  # what one thread computes by itself stays as it is

    def run(self, graph: Graph, limit: int | None = None) -> PassReport:
        report = PassReport(self.name)
        if self.threads != PARTNERS:
            return report
        for root, values in _turned(graph):
            if limit is not None and report.patches >= limit:
                break
            for value in values:
                value.layout = replace(value.layout, rows_first=True)
            report.patches += 1
            report.decisions.append(Decision(root.name, True, f"{root.type} lies row by row"))
        report.changed = report.patches > 0
        return report


def _turned(graph: Graph) -> Iterator[tuple[Value, list[Value]]]:
    """What owns memory that may be turned, each with all values that lie in it; those of sub-graphs as well."""
    storage, barred = Storage(graph.nodes), written_by_channel(graph)
    inside: dict[Value, list[Value]] = defaultdict(list)
    for node in graph.nodes:
        if isinstance(node.op, BatchMap) and not node.op.parallel:
            yield from _turned(node.op.body)
        if _sums_pixels(node):
            barred.update(node.present_inputs(), node.outputs)
        for value in node.outputs:
            inside[storage.root(value)].append(value)
    for root, values in inside.items():
        if barred.isdisjoint(values) and _is_large_image(root):
            yield root, values


def _sums_pixels(node: Node) -> bool:
    op = anchor_op(node)
    return op is not None and Trait.SUMS_PIXELS in op.traits


def _is_large_image(value: Value) -> bool:
    """Whether there are channel blocks to be turned, not too many of them, and rows enough for two threads."""
    layout, shape = value.layout, value.shape
    if layout.block == 1 or len(shape) < 4 or shape[1] <= layout.block:
        return False
    if len(shape) == 4 and shape[1] * shape[3] * value.type.dtype.size >= _LARGE_ROW:
        return False
    return math.prod(shape[2:]) >= _LEAST_PIXELS and shape[2] >= PARTNERS
