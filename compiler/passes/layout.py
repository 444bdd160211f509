"""Layout choice: which tensors lie in channel blocks, which concats are free, and how much padding a tensor carries.

Kernels on channel blocks read past the edge of a tensor instead of testing for it, so a tensor is given a halo as wide
as its widest reader wants, and its producer fills it. Conversions are inserted only where a reader needs another
layout.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from glulam.compiler.graph.graph import Graph, Node, Value
from glulam.compiler.graph.layout import IN_BLOCKS, PLAIN, Layout
from glulam.compiler.graph.op import Op, Padding, Prefers
from glulam.compiler.graph.types import DType, TensorType
from glulam.compiler.ops import Concat, Split, Transpose
from glulam.compiler.ops.reorder import Reorder
from glulam.compiler.ops.views import ConcatView, SplitView
from glulam.compiler.passes.manager import Decision, Pass, PassReport
from glulam.compiler.passes.nonnegative import is_nonnegative
from glulam.compiler.passes.storage import Storage, is_alias
from glulam.compiler.targets import Target

_STEPS = 3  # kernels that work either way, between a transpose and a reader that wants channel blocks


@dataclass(frozen=True)
class ChooseLayout(Pass):
    """`block` is the number of channels that lie together: the lanes of the target's vectors."""

    target: Target

    name = "layout"
    ensures = ("layout",)
    optional = False

    def run(self, graph: Graph, limit: int | None = None) -> PassReport:
        report = PassReport(self.name)
        work = _Layouts(graph, self.target, report)
        work.choose_blocks()
        work.plain_outputs()
        work.make_views()
        work.choose_halos()
        report.changed = bool(report.decisions)
        return report


@dataclass
class _Layouts:
    graph: Graph
    target: Target
    report: PassReport
    converted: dict[tuple[Value, int], Value] = field(default_factory=dict)

    @property
    def block(self) -> int:
        return self.target.lanes

    def note(self, node: Node, taken: bool, reason: str) -> None:
        self.report.decisions.append(Decision(node.name, taken, reason))

    # ---- channel blocks

    def choose_blocks(self) -> None:
        order: list[Node] = []
        users = self.graph.users()
        for node in self.graph.nodes:
            blocked = node.prefers is Prefers.BLOCKS or (node.prefers is Prefers.EITHER and self.follows(node))
            blocked = blocked and not self.stays_plain(node, users)
            inputs: list[Value | None] = []
            for i, value in enumerate(node.inputs):
                want = self.wanted_block(node, i, value, blocked)
                if value is None or want is None or (value.layout.block == want and not value.is_constant):
                    inputs.append(value)
                else:
                    inputs.append(self.convert(value, want, order))
            node.inputs = tuple(inputs)
            turned = is_channels_first(node.op) and any(self.in_blocks_soon(v, users) for v in node.outputs)
            for value in node.outputs:
                value.layout = self.blocks(value.type) if blocked or turned else PLAIN
            order.append(node)
        self.graph.nodes = order

    def in_blocks_soon(self, value: Value, users: Mapping[Value, Sequence[Node]], steps: int = _STEPS) -> bool:
        """Whether a kernel on channel blocks reads the value, or what kernels that can work either way make of it."""
        if value.type.dtype is not DType.F32 or value.shape[1] < self.block or not steps:
            return False
        for node in users.get(value, ()):
            if node.prefers is Prefers.BLOCKS:
                return True
            same = node.prefers is Prefers.EITHER and all(v.type == value.type for v in node.outputs)
            if same and any(self.in_blocks_soon(v, users, steps - 1) for v in node.outputs):
                return True
        return False

    def stays_plain(self, node: Node, users: Mapping[Value, Sequence[Node]]) -> bool:
        """Whether plain tensors suit a node too, and no more is converted: what comes in blocks, not the results."""
        if not node.op.plain_suits(self.target, node.input_types, node.output_types):
            return False
        readers = (user for value in node.outputs for user in users.get(value, ()))
        if any(user.prefers is not Prefers.PLAIN for user in readers):
            return False
        coming = sum(value.type.size for value in node.present_inputs() if value.layout.block > 1)
        return coming <= sum(value.type.size for value in node.outputs)

    def blocks(self, type: TensorType) -> Layout:
        if type.rank < 3:
            return PLAIN
        return Layout(self.block, ((0, 0),) * (type.rank - 2))

    def follows(self, node: Node) -> bool:
        """Whether a node that can work either way has an input in channel blocks, and all others can follow."""
        rank = max(v.type.rank for v in (*node.present_inputs(), *node.outputs))
        if rank < 3 or any(v.type.dtype not in IN_BLOCKS for v in node.outputs):
            return False
        some = False
        for value in node.present_inputs():
            extents = (1,) * (rank - value.type.rank) + value.shape
            if value.is_constant or len(extents) < 2 or extents[1] == 1:
                continue
            if value.type.rank != rank or value.type.dtype not in IN_BLOCKS:
                return False
            some |= value.layout.block > 1
        return some

    def wanted_block(self, node: Node, i: int, value: Value | None, blocked: bool) -> int | None:
        """Channel block in which the node wants input `i`; None if any serves.

        Kernels pack constants as they need them, but for the image that those on channel blocks go through.
        """
        if value is None or (value.is_constant and (i or node.prefers is not Prefers.BLOCKS)):
            return None
        if blocked and node.op.reads_blocks(i):
            return self.block
        if not blocked or value.type.rank < max(3, *(v.type.rank for v in (*node.present_inputs(), *node.outputs))):
            return 1  # of a lower rank it is broadcast, and its second dimension is not the channels
        if node.op.needs_plain(i) or (value.layout.block == 1 and node.op.reads_plain(i, node.input_types, self.block)):
            return 1
        if node.prefers is Prefers.EITHER and value.shape[1] == 1:
            return None
        return self.block

    def convert(self, value: Value, block: int, order: list[Node]) -> Value:
        """The value in another arrangement; one conversion serves all readers."""
        if (value, block) not in self.converted:
            self.converted[value, block] = self.reorder(value, block, order)
        return self.converted[value, block]

    def reorder(self, value: Value, block: int, order: list[Node]) -> Value:
        node = self.graph.make(Reorder(block), value, name=f"{value.name}_{'plain' if block == 1 else f'c{block}'}")
        node.output.layout = PLAIN if block == 1 else self.blocks(value.type)
        order.append(node)
        return node.output

    def plain_outputs(self) -> None:
        for name, value in self.graph.outputs.items():
            if not value.layout.is_plain:
                self.graph.outputs[name] = self.convert(value, 1, self.graph.nodes)

    # ---- views

    def make_views(self) -> None:
        """Concats and splits of which each part is one piece of memory become views.

        So are whole blocks, and channels of a single plain sample. Inputs that cannot lie in the output are copied.
        """
        users = self.graph.users()
        for node in list(self.graph.nodes):
            if not (isinstance(node.op, Split) and node.op.axis == 1 and self.in_pieces(node)):
                continue
            if any(value.is_constant for value in node.present_inputs()):
                continue  # which has no place in the arena
            if self.is_plain(node) or all(size % self.block == 0 for size in node.op.sizes[:-1]):
                node.op = SplitView(node.op.axis, node.op.sizes)
        storage = Storage(self.graph.nodes)
        for node in reversed(list(self.graph.nodes)):
            if not (isinstance(node.op, Concat) and node.op.axis == 1 and self.in_pieces(node)):
                continue
            inputs = list(node.present_inputs())
            if not self.is_plain(node) and any(v.shape[1] % self.block for v in inputs[:-1]):
                self.note(node, False, "the channels of its inputs do not fill whole blocks: they are copied")
                continue
            if any(v.is_constant or v.producer is None for v in inputs):
                self.note(node, False, "one of its inputs is not computed here: they are copied")
                continue
            reason = storage.concat(node, inputs)
            if reason is None:
                node.op = ConcatView(node.op.axis)
                self.note(node, True, f"its inputs are written where they belong ({len(users[node.output])} readers)")
            else:
                self.note(node, False, f"{reason}: they are copied")

    def in_pieces(self, node: Node) -> bool:
        """Whether all is in channel blocks, or plain and of one sample."""
        values = (*node.present_inputs(), *node.outputs)
        in_blocks = all(value.layout.block == self.block for value in values)
        return in_blocks or (self.is_plain(node) and all(value.shape[0] == 1 for value in values))

    @staticmethod
    def is_plain(node: Node) -> bool:
        return all(value.layout.is_plain for value in (*node.present_inputs(), *node.outputs))

    # ---- halo

    def choose_halos(self) -> None:
        order = list(self.graph.nodes)
        storage = Storage(order)
        # Views that take all elements to be neighbours: no padding may come between them.
        dense = {storage.root(v) for node in order if is_alias(node) for v in node.outputs}
        carrying = self.padded_everywhere(order)
        chosen: dict[Value, Padding] = {}
        copies: dict[tuple[Value, float], Value] = {}
        self.graph.nodes = []
        for node in order:
            inputs = list(node.inputs)
            for i, padding in self.demands(node):
                value = inputs[i]
                assert value is not None
                root = storage.root(value)
                merged = self.merge(chosen.get(root), padding, root)
                if (self.can_carry(root) or root in carrying) and root not in dense and merged is not None:
                    chosen[root] = merged
                    continue
                key = (value, padding.value)
                if key not in copies:
                    copies[key] = self.reorder(value, value.layout.block, self.graph.nodes)
                    self.note(node, False, f"{value!r} is copied to get its padding")
                inputs[i] = copies[key]
                chosen[copies[key]] = self.merge(chosen.get(copies[key]), padding, value) or padding
            node.inputs = tuple(inputs)
            self.graph.nodes.append(node)
        for value in self.graph.values():
            root = storage.root(value)
            if root in chosen:
                block = value.layout.block
                value.layout = Layout(block, chosen[root].spans, chosen[root].value)

    def demands(self, node: Node) -> Iterator[tuple[int, Padding]]:
        for i, value in enumerate(node.inputs):
            padding = None if value is None else node.op.padding(i, node.input_types)
            if value is None or padding is None or padding.or_none or not any(map(any, padding.spans)):
                continue
            if value.layout.block > 1 or not padding.only_blocks:
                yield i, padding

    def padded_everywhere(self, nodes: Sequence[Node]) -> set[Value]:
        """Plain tensors that were converted for readers all of which want padding: they are written with it."""
        read = Counter(value for node in nodes for value in node.present_inputs())
        read.update(self.graph.outputs.values())
        wanted = Counter(node.inputs[i] for node in nodes for i, _ in self.demands(node))
        converted = (value for (_, block), value in self.converted.items() if block == 1)
        return {value for value in converted if wanted[value] == read[value]}

    def can_carry(self, root: Value) -> bool:
        """Whether padding can be put around the tensor where it is computed."""
        return root.producer is not None and root.layout.block > 1

    def merge(self, old: Padding | None, new: Padding, value: Value) -> Padding | None:
        """One padding around the value that serves the readers of all its parts, None if there is none."""
        if old is None:
            return new
        spans = tuple((max(a, c), max(b, d)) for (a, b), (c, d) in zip(old.spans, new.spans, strict=True))
        if old.value == new.value:
            return Padding(spans, old.value, old.or_less and new.or_less)
        for fixed, free in ((old, new), (new, old)):
            if fixed.value == 0.0 and free.or_less and is_nonnegative(value):
                return replace(fixed, spans=spans)
        return None


def is_channels_first(op: Op) -> bool:
    """Whether the op moves the last axis behind the first: its kernel can write channel blocks."""
    return (
        isinstance(op, Transpose) and len(op.perm) > 2 and op.perm == (0, len(op.perm) - 1, *range(1, len(op.perm) - 1))
    )
