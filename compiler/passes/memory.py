"""Memory planning: every tensor gets a place in one arena, in the caller's arrays, or inside another tensor.

Lifetimes are known, so tensors that are never alive together share memory; a kernel may overwrite an input that dies
with it where it reads each element before it writes the same place.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from glulam.compiler.graph.graph import Graph, Node, Value
from glulam.compiler.graph.op import Trait
from glulam.compiler.loops.ir import dense_strides
from glulam.compiler.loops.program import Ref
from glulam.compiler.ops import Identity
from glulam.compiler.ops.batch_map import BatchMap, bodies
from glulam.compiler.ops.fused import FusedRegion
from glulam.compiler.passes.storage import Storage, is_view

_ALIGNMENT = 64


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
        root, channel = storage.root(value), storage.place(value).channel
        own = root.producer is not None and channel == 0 and root.layout.size(root.shape) == value.type.size
        if not own or root in taken or not value.layout.is_plain:
            node = graph.make(Identity(), value, name=f"{name}_out")
            graph.nodes.append(node)
            graph.outputs[name] = root = node.output
        taken.add(root)


def plan_memory(graph: Graph) -> MemoryPlan:
    """The plan for a graph whose layouts are chosen and whose outputs have memory of their own."""
    return _Planner(graph).plan()


class _Planner:
    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.storage = Storage(graph.nodes)
        self.outputs = {self.storage.root(value): i for i, value in enumerate(graph.outputs.values())}
        self.inputs = {value: i for i, value in enumerate(graph.inputs.values())}
        self.birth: dict[Value, int] = {}
        self.death: dict[Value, int] = {}
        self.shared: dict[Value, Value] = {}  # a root that takes over the memory of another one
        self.in_place: dict[Node, str] = {}
        self.inner = {n: plan_memory(n.op.body) for n in graph.nodes if isinstance(n.op, BatchMap)}

    def plan(self) -> MemoryPlan:
        self.lifetimes()
        self.reuse_in_place()
        offsets, total = self.offsets()
        refs, strides = {}, {}
        for value in self.graph.values():
            if value.is_constant:
                continue
            place = self.storage.place(value)
            refs[value] = self.ref(place.root, self.inner_offset(place.root, value, place.channel), offsets)
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
        """Largest first, each at the lowest place that is free during its life. A node stands for its own arena."""
        lives: dict[Value | Node, tuple[int, int]] = {}
        sizes: dict[Value | Node, int] = {}
        for root, birth in self.birth.items():
            if root in self.outputs or root in self.inputs:
                continue
            owner = self.owner(root)
            old = lives.get(owner, (birth, self.death[root]))
            lives[owner] = (min(old[0], birth), max(old[1], self.death[root]))
            sizes[owner] = owner.layout.size(owner.shape) * owner.type.dtype.size
        for i, node in enumerate(self.graph.nodes):
            if node in self.inner:
                assert isinstance(node.op, BatchMap)
                arenas = node.op.parts(node) if node.op.parallel else 1
                lives[node], sizes[node] = (i, i), arenas * self.inner[node].arena_bytes
        placed: list[tuple[int, int, int, int]] = []
        offsets: dict[Value | Node, int] = {}
        for each in sorted(lives, key=lambda each: (-sizes[each], lives[each])):
            birth, death = lives[each]
            size = -(-sizes[each] // _ALIGNMENT) * _ALIGNMENT
            busy = sorted((lo, hi) for lo, hi, b, d in placed if b <= death and birth <= d)
            offset = 0
            for low, high in busy:
                if low - offset >= size:
                    break
                offset = max(offset, high)
            offsets[each] = offset
            placed.append((offset, offset + size, birth, death))
        return offsets, max((high for _, high, _, _ in placed), default=0)

    def ref(self, root: Value, inner: int, offsets: dict[Value | Node, int]) -> Ref:
        if root in self.inputs:
            return Ref("input", self.inputs[root], inner)
        if root in self.outputs:
            return Ref("output", self.outputs[root], inner)
        return Ref("arena", 0, offsets[self.owner(root)] + inner)

    def inner_offset(self, root: Value, value: Value, channel: int) -> int:
        """Bytes from the start of the root's memory to the start of the part's."""
        if not channel:
            return 0
        strides = dense_strides(root.layout.physical_shape(root.shape))
        return channel // root.layout.block * strides[1] * value.type.dtype.size

    def part_strides(self, root: Value, value: Value) -> tuple[int, ...]:
        if root.layout.block == 1 or root.type.rank != value.type.rank:
            return dense_strides(value.layout.physical_shape(value.shape))
        return dense_strides(root.layout.physical_shape(root.shape))


def overwritable(node: Node) -> list[Value]:
    """Inputs that the kernel reads only at the place that it writes next."""
    if isinstance(node.op, FusedRegion):
        if node.op.window is not None:
            return []
        anchor = node.op.anchor
        barred = set() if anchor is None else {v.name for v in anchor.present_inputs()}
        pairs = zip(node.op.body.inputs, node.inputs, strict=True)
        found = [value for name, value in pairs if name not in barred and value is not None and not value.is_constant]
    elif Trait.POINTWISE in node.op.traits:
        found = [value for value in node.present_inputs() if not value.is_constant]
    else:
        return []
    barred_values = {v for v in node.present_inputs() if v not in found}
    return [value for value in found if value not in barred_values and list(node.inputs).count(value) == 1]
