"""Fusion: a kernel takes over the pointwise ops that follow it and a pool behind them; pointwise chains are one kernel.

By property, not by pair: whoever has Trait.ANCHOR can carry any formula as its epilogue, and whoever PoolsResult can
fold the windows of whoever FoldsWindows. A region grows over the readers of its result as long as all of them fit in
and one value comes out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from glulam.compiler.graph.graph import Graph, Node, Value
from glulam.compiler.graph.layout import IN_BLOCKS
from glulam.compiler.graph.op import Prefers, Trait
from glulam.compiler.graph.patch import Patch
from glulam.compiler.graph.uses import Uses
from glulam.compiler.loops.expr import Expr, Param, is_long
from glulam.compiler.ops.contracts import FinishesAlone, FoldsWindows, PoolsResult
from glulam.compiler.ops.fused import FusedRegion
from glulam.compiler.ops.pointwise import Pointwise
from glulam.compiler.passes.manager import Decision, Pass
from glulam.compiler.targets import Target

_REACH = 12  # how many readers may join before the region has one result again
_DEEPEST = 128  # operations from an input to the result of a formula, which code generation goes through by recursion
_LONGEST = 4096  # operations of a formula as it is printed, where what is used twice stands twice
_OF_FUNCTION = 16  # operations into which an elementary function is expanded, one after the other
_SHORT = 4  # operations from an input to a result that may be computed again for each element


@dataclass(frozen=True)
class Fuse(Pass):
    """Anchors first, so that a pointwise op joins the kernel that computes its input; then what is left over."""

    target: Target

    name = "fuse"
    ensures = ("fused",)

    def proposals(self, graph: Graph, uses: Uses) -> Iterator[Patch | Decision]:
        for wanted in (Trait.ANCHOR, Trait.POINTWISE):
            for start in list(graph.nodes):
                if start not in uses or wanted not in start.op.traits:
                    continue
                if (grown := _Region(uses, start, self.target).grow()) is not None:
                    yield grown


class _Region:
    """Grows from one node. `nodes` always has a single result that is read outside."""

    def __init__(self, uses: Uses, start: Node, target: Target) -> None:
        self.uses, self.start, self.target = uses, start, target
        self.nodes = [start]
        self.blocks = start.prefers is Prefers.BLOCKS
        self.anchored = Trait.POINTWISE not in start.op.traits
        self.why = "nothing that reads it is pointwise"
        self.extents = dict[Value, tuple[int, int]]()
        if not self.anchored:
            self.extents[start.output] = self.extent(start)

    def grow(self) -> Patch | Decision | None:
        op = self.start.op
        if len(self.start.outputs) != 1 or not self.results(self.nodes):
            return None
        if isinstance(op, FinishesAlone) and (why := op.finishes_alone(self.start.input_types)) is not None:
            return Decision(self.start.name, False, why)
        while self.extend():
            pass
        self.absorb()
        self.add_window()
        if len(self.nodes) == 1:
            return Decision(self.start.name, False, self.why)
        return self.patch()

    def extend(self) -> bool:
        """Take in the readers of the result, and their readers, until one value comes out again."""
        trial = list(self.nodes)
        for _ in range(_REACH):
            results = self.results(trial)
            if len(trial) > len(self.nodes) and len(results) == 1 and self.can_store(results[0]):
                self.nodes = sorted(trial, key=self.uses.rank)
                return True
            joining: list[Node] = []
            for value in results:
                if self.uses.is_output(value):
                    self.why = f"%{value.name} is an output of the graph"
                    return False
                joining += self.uses.users(value)
            joining = [node for node in dict.fromkeys(joining) if node not in trial]
            if not joining:
                return False
            node = min(joining, key=self.uses.rank)  # the earliest: a later one may need what it computes
            trial += self.unreadable(node, trial)
            if (reason := self.refuses(node, trial)) is not None:
                self.why = reason
                return False
            trial.append(node)
        self.why = "its result is read in too many places"
        return False

    def unreadable(self, node: Node, trial: list[Node]) -> list[Node]:
        """What computes operands for the node alone that the kernel could not read, but may compute itself.

        Those that broadcast are computed again for each element, if they are short.
        """
        return [
            value.producer
            for value in node.present_inputs()
            if self.blocks
            and not self.fits_blocks(value)
            and value.producer is not None
            and value.producer not in trial
            and self.is_read_by(value, [node])
            and self.refuses(value.producer, trial, broadcast=True) is None
        ]

    def is_read_by(self, value: Value, nodes: list[Node]) -> bool:
        """Whether nobody else reads the value."""
        return not self.uses.is_output(value) and all(user in nodes for user in self.uses.users(value))

    def absorb(self) -> None:
        """Take in what is computed for the region alone, of the shape of its result, from other things than the region.

        It would be a kernel that writes what the region reads. What the first node reads is computed before it.
        """
        outside = [value for node in self.nodes[1:] for value in node.present_inputs()]
        while outside:
            node = (value := outside.pop()).producer
            if (
                node is None
                or node in self.nodes
                or Trait.POINTWISE not in node.op.traits
                or value in self.start.inputs
            ):
                continue
            if (
                self.is_read_by(value, self.nodes)
                and self.refuses(node, self.nodes) is None
                and self.stays_small([node, *self.nodes[1:]])
            ):
                self.nodes[1:] = sorted([*self.nodes[1:], node], key=self.uses.rank)
                outside += node.present_inputs()

    def stays_small(self, nodes: list[Node]) -> bool:
        """Whether the formulas of these nodes, behind the first one, are not too long together."""
        return all(self.too_long(node) is None for node in sorted(nodes, key=self.uses.rank))

    def too_long(self, node: Node) -> str | None:
        """Why the formula of the node behind those before it is too long, None if not. Its extent is noted."""
        depth, length = self.extents[node.output] = self.extent(node)
        if depth > _DEEPEST or length > _LONGEST:
            return f"with {node.name!r} the formula is {depth} operations deep, {length} in all"
        return None

    def can_store(self, result: Value) -> bool:
        """Whether the region may end with this value.

        Most anchors' kernels store the type that they compute, and not every type lies in channel blocks.
        """
        if self.blocks and result.type.dtype not in IN_BLOCKS:
            return False
        converts = not self.anchored or Trait.CONVERTS in self.start.op.traits
        return converts or result.type.dtype is self.start.output.type.dtype

    def add_window(self) -> None:
        """Let the kernel pool its result if a pool is all that reads it."""
        op, (result,) = self.start.op, self.results(self.nodes)
        if not isinstance(op, PoolsResult) or self.uses.is_output(result) or len(self.uses.users(result)) != 1:
            return
        (reader,) = self.uses.users(result)
        window = reader.op.as_window(result.type) if isinstance(reader.op, FoldsWindows) else None
        if window is None:
            return
        refused = op.pools(window, result.type, reader.output.type, self.target.vector_bytes)
        if not self.start.parameters_are_known:
            refused = "the weights are not constants"
        if refused is None:
            self.nodes.append(reader)
        else:
            self.why = f"{reader.op.name} {reader.name!r} stays a kernel of its own: {refused}"

    def results(self, nodes: list[Node]) -> list[Value]:
        """Values computed in the region that someone outside reads, or that the graph gives out."""
        inside = set(nodes)
        return [
            value
            for node in nodes
            for value in node.outputs
            if self.uses.is_output(value) or any(user not in inside for user in self.uses.users(value))
        ]

    def refuses(self, node: Node, trial: list[Node], broadcast: bool = False) -> str | None:
        """Why the node cannot join, None if it can; with `broadcast` a short one may have a result that broadcasts."""
        if Trait.POINTWISE not in node.op.traits:
            return f"{node.op.name} {node.name!r} reads its result and is not pointwise"
        wanted = self.start.output.type
        again = broadcast and self.extent(node)[0] <= _SHORT
        if node.output.shape != wanted.shape and not again:
            return f"{node.name!r} changes the shape to {list(node.output.shape)}"
        computed = {value for n in trial for value in n.outputs}
        for value in node.present_inputs():
            if value in computed:
                continue
            if self.depends(value, trial):
                return f"{node.name!r} also reads %{value.name}, which depends on the region"
            if self.blocks and not value.is_constant and not self.fits_blocks(value):
                return f"{node.name!r} also reads {value!r}, whose channels are not where those of the result are"
        return self.too_long(node)

    def extent(self, node: Node) -> tuple[int, int]:
        """How deep the formula of a node's result is, and how long when it is printed, from the region's inputs on."""
        assert isinstance(node.op, Pointwise)
        values, known = list(node.present_inputs()), dict[Expr, tuple[int, int]]()

        def of(e: Expr) -> tuple[int, int]:
            if e not in known:
                parts = [of(child) for child in e.children()]
                own = _OF_FUNCTION if is_long(e) else 1
                known[e] = max((depth for depth, _ in parts), default=0) + own, sum(n for _, n in parts) + 1
            return known[e]

        params = [Param(i, value.type.dtype) for i, value in enumerate(values)]
        known.update(zip(params, (self.extents.get(value, (0, 1)) for value in values), strict=True))
        return of(node.op.formula(*params))

    def fits_blocks(self, value: Value) -> bool:
        rank = self.start.output.type.rank
        padded = (1,) * (rank - value.type.rank) + value.shape
        if value.type.rank < rank:
            return padded[1] == 1
        lies_there = value.producer is not None and value.producer.prefers is Prefers.BLOCKS
        return lies_there or value.type.dtype in IN_BLOCKS

    def depends(self, value: Value, trial: list[Node]) -> bool:
        """Whether computing the value needs a node of the region."""
        inside, first = set(trial), self.uses.rank(self.start)
        stack, seen = [value.producer], set()
        while stack:
            node = stack.pop()
            if node is None or node in seen or self.uses.rank(node) < first:
                continue
            if node in inside:
                return True
            seen.add(node)
            stack.extend(v.producer for v in node.present_inputs())
        return False

    def patch(self) -> Patch:
        (result,) = self.results(self.nodes)
        inside = {value for node in self.nodes for value in node.outputs}
        body, table, given = Graph(self.start.name), dict[Value, Value](), list[Value]()
        for node in self.nodes:
            for value in node.present_inputs():
                if value not in inside and value not in table:
                    table[value] = body.input(value.name, value.type)
                    given.append(value)
        for node in self.nodes:
            inputs = [None if v is None else table[v] for v in node.inputs]
            table[node.output] = body.apply(node.op, *inputs, name=node.name)
        body.output(result.name, table[result])
        members = " + ".join(node.op.name for node in self.nodes)
        patch = Patch(self.uses.graph, f"one kernel for {members}", at=self.start.name)
        patch.replace(result, patch.apply(FusedRegion(body), *given, name=result.name))
        return patch
