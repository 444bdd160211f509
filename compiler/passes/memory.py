"""Memory planning: every tensor gets a place in one arena, in the caller's arrays, or inside another tensor.

Lifetimes are known, so tensors that are never alive together share memory; a kernel may overwrite an input that dies
with it where it reads each element before it writes the same place.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from glulam.compiler.graph.graph import Graph, Node, Value
from glulam.compiler.graph.op import Trait
from glulam.compiler.loops.program import Ref
from glulam.compiler.ops import Identity
from glulam.compiler.ops.batch_map import BatchMap, bodies
from glulam.compiler.ops.fused import FusedRegion
from glulam.compiler.ops.separable import SeparableConv
from glulam.compiler.passes.arena import Tenant, arrange
from glulam.compiler.passes.by_channel import written_by_channel
from glulam.compiler.passes.storage import Storage, is_view
from glulam.compiler.targets import PARTNERS


@dataclass(frozen=True)
class MemoryPlan:
    """Places of all values that are not constants, and the strides of those that are parts of others."""

    refs: dict[Value, Ref]
    strides: dict[Value, tuple[int, ...]]
    arena_bytes: int
    in_place: dict[Node, str] = field(default_factory=dict)  # which input each node overwrites
    inner: dict[Node, MemoryPlan] = field(default_factory=dict)  # of the bodies of batch maps
    inner_offsets: dict[Node, int] = field(default_factory=dict)  # where in the arena the arenas of those lie


def materialise_outputs(graph: Graph) -> None:
    """Give each output memory of its own: inputs, constants, repeats and parts of other tensors are copied."""
    for body in bodies(graph):
        materialise_outputs(body)
    storage = Storage(graph.nodes)
    taken: set[Value] = set()
    for name, value in graph.outputs.items():
        place = storage.place(value)
        root, own = place.root, place.root.producer is not None and place.offset == 0
        own = own and root.layout.size(root.shape) == value.type.size
        if not own or root in taken or not value.layout.is_plain:
            node = graph.make(Identity(), value, name=f"{name}_out")
            graph.nodes.append(node)
            graph.outputs[name] = root = node.output
        taken.add(root)


def plan_memory(graph: Graph, threads: int = 1) -> MemoryPlan:
    """The plan for a graph whose layouts are chosen and whose outputs have memory of their own.

    It is right for any number of threads, and good for so many.
    """
    return _Planner(graph, threads).plan()


class _Planner:
    def __init__(self, graph: Graph, threads: int) -> None:
        self.graph, self.threads = graph, threads
        self.by_channel = written_by_channel(graph) if threads == PARTNERS else set()
        self.storage = Storage(graph.nodes)
        self.outputs = {self.storage.root(value): i for i, value in enumerate(graph.outputs.values())}
        self.inputs = {value: i for i, value in enumerate(graph.inputs.values())}
        self.birth: dict[Value, int] = {}
        self.death: dict[Value, int] = {}
        self.shared: dict[Value, Value] = {}  # a root that takes over the memory of another one
        self.in_place: dict[Node, str] = {}
        self.inner = {
            node: plan_memory(node.op.body, 1 if node.op.parallel else threads)
            for node in graph.nodes
            if isinstance(node.op, BatchMap)
        }

    def plan(self) -> MemoryPlan:
        self.lifetimes()
        self.reuse_in_place()
        offsets, total = self.offsets()
        refs, strides = {}, {}
        for value in self.graph.values():
            if value.is_constant:
                continue
            place = self.storage.place(value)
            refs[value] = self.ref(place.root, self.inner_offset(place.root, value, place.offset), offsets)
            if place.root is not value and value.layout.block > 1:
                strides[value] = self.part_strides(place.root, value)
        return MemoryPlan(refs, strides, total, self.in_place, self.inner, {node: offsets[node] for node in self.inner})

    def lifetimes(self) -> None:
        for i, node in enumerate(self.graph.nodes):
            for value in node.outputs:
                root = self.storage.root(value)
                self.birth.setdefault(root, i)
                self.death[root] = max(self.death.get(root, i), i)
            for value in node.present_inputs():
                if not value.is_constant:
                    self.death[self.storage.root(value)] = i
        for value in self.graph.outputs.values():
            self.death[self.storage.root(value)] = len(self.graph.nodes)

    def reuse_in_place(self) -> None:
        for i, node in enumerate(self.graph.nodes):
            if is_view(node) or len(node.outputs) != 1 or node.output in self.outputs:
                continue
            target = node.output
            if self.storage.root(target) is not target or self.birth[target] != i:
                continue
            read = [self.storage.root(value) for value in node.present_inputs()]
            for value in overwritable(node):
                root = self.storage.root(value)
                same = value.type == target.type and value.layout == target.layout and root is value
                same = same and read.count(root) == 1  # it may also be read as a view of another shape
                if same and root not in self.inputs and root not in self.outputs and self.death[root] == i:
                    self.shared[target] = self.owner(root)
                    self.in_place[node] = value.name
                    break

    def owner(self, root: Value) -> Value:
        while root in self.shared:
            root = self.shared[root]
        return root

    def offsets(self) -> tuple[dict[Value | Node, int], int]:
        """Where each tensor goes, and each inner arena, for which its node stands; and how long the arena gets."""
        lives: dict[Value | Node, tuple[int, int]] = {}
        for root, birth in self.birth.items():
            if root in self.outputs or root in self.inputs:
                continue
            owner = self.owner(root)
            old = lives.get(owner, (birth, self.death[root]))
            lives[owner] = (min(old[0], birth), max(old[1], self.death[root]))
        lives |= {node: (i, i) for i, node in enumerate(self.graph.nodes) if node in self.inner}
        tenants = [self.tenant(each, *life) for each, life in lives.items()]
        return arrange(tenants, for_partners=self.threads == PARTNERS)

    def tenant(self, each: Value | Node, birth: int, death: int) -> Tenant[Value | Node]:
        if isinstance(each, Node):
            assert isinstance(each.op, BatchMap)
            size = self.inner[each].arena_bytes * (each.op.parts(each) if each.op.parallel else 1)
            return Tenant(each, size, birth, death, size // 2)
        middle = self.middle(each)
        bytes_of = each.type.dtype.size
        size = each.layout.size(each.shape) * bytes_of
        return Tenant(each, size, birth, death, None if middle is None else middle * bytes_of)

    def middle(self, value: Value) -> int | None:
        """Elements that the first of two threads computes, None if these do not lie before the second one's."""
        layout, shape = value.layout, value.shape
        if layout.block == 1:
            return layout.size(shape) // 2 if len(shape) > 2 else None
        if shape[0] % 2 == 0:
            return layout.size(shape) // 2
        samples, (image, block, row, *_) = shape[0] // 2, layout.strides(shape)
        if layout.rows_first or shape[1] <= layout.block:
            before = layout.halo[0][0] if layout.halo else 0
            return samples * image + (before + -(-shape[2] // 2)) * row
        if value in self.by_channel:
            return samples * image + -(-shape[1] // (2 * layout.block)) * block
        return None

    def ref(self, root: Value, inner: int, offsets: dict[Value | Node, int]) -> Ref:
        if root in self.inputs:
            return Ref("input", self.inputs[root], inner)
        if root in self.outputs:
            return Ref("output", self.outputs[root], inner)
        return Ref("arena", 0, offsets[self.owner(root)] + inner)

    def inner_offset(self, root: Value, value: Value, offset: int) -> int:
        """Bytes from the start of the root's memory to the start of the part's, so many elements of a sample behind it.

        A root in channel blocks has whole ones before the part.
        """
        if offset and root.layout.block > 1:
            channels = offset // math.prod(root.shape[2:])
            offset = channels // root.layout.block * root.layout.strides(root.shape)[1]
        return offset * value.type.dtype.size

    def part_strides(self, root: Value, value: Value) -> tuple[int, ...]:
        if root.layout.block == 1 or root.type.rank != value.type.rank:
            return value.layout.strides(value.shape)
        return root.layout.strides(root.shape)


def overwritable(node: Node) -> list[Value]:
    """Inputs that the kernel reads only at the place that it writes next."""
    if isinstance(node.op, FusedRegion):
        if node.op.window is not None:
            return []
        anchor = node.op.anchor
        barred = set() if anchor is None else {v.name for v in anchor.present_inputs()}
        pairs = zip(node.op.body.inputs, node.inputs, strict=True)
        found = [value for name, value in pairs if name not in barred and value is not None and not value.is_constant]
    elif isinstance(node.op, SeparableConv):
        read = [node.inputs[i] for i in node.op.read_in_place()]
        found = [value for value in read if value is not None and not value.is_constant]
    elif Trait.POINTWISE in node.op.traits:
        found = [value for value in node.present_inputs() if not value.is_constant]
    else:
        return []
    barred_values = {v for v in node.present_inputs() if v not in found}
    return [value for value in found if value not in barred_values and list(node.inputs).count(value) == 1]
