"""What a pass is, and the manager that runs passes one after the other, verified on both sides.

A pass proposes patches and declines, one at a time; committing is left to `Pass.run`. So every change is counted, the
changes can be cut off after any number of them (to bisect a wrong result), and every decision is kept as data.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from glulam.compiler.errors import GraphError
from glulam.compiler.graph.graph import Graph, Node
from glulam.compiler.graph.patch import Patch
from glulam.compiler.graph.text import to_text
from glulam.compiler.graph.uses import Uses
from glulam.compiler.graph.verify import Known, verify
from glulam.compiler.ops.batch_map import bodies


@dataclass(frozen=True)
class Decision:
    """A rewrite that was made at a node (`taken`), or one that was looked at and declined."""

    node: str
    taken: bool
    reason: str

    def __str__(self) -> str:
        return f"{'+' if self.taken else '-'} {self.node}: {self.reason}"


@dataclass
class PassReport:
    """What a pass did: the patches it committed, and its decisions in order."""

    name: str
    changed: bool = False
    patches: int = 0
    decisions: list[Decision] = field(default_factory=list)

    def __str__(self) -> str:
        head = f"{self.name}: {self.patches} patches" if self.changed else f"{self.name}: nothing changed"
        return "\n  ".join([head, *map(str, self.decisions)])


@dataclass(frozen=True)
class Pass:
    """Base of all passes: a frozen dataclass whose fields are the options.

    requires: properties that earlier passes must ensure; ensures: properties that hold afterwards.
    optional: the result is right without the pass, so it can be disabled, and `stop_after` may cut it.
    nested: the pass goes through sub-graphs like through the graph around them.
    """

    name: ClassVar[str]
    requires: ClassVar[tuple[str, ...]] = ()
    ensures: ClassVar[tuple[str, ...]] = ()
    optional: ClassVar[bool] = True
    nested: ClassVar[bool] = True

    def proposals(self, graph: Graph, uses: Uses) -> Iterator[Patch | Decision]:
        """Patches that are ready to be committed, and declines.

        A patch is committed before the next proposal is asked for; `uses` is up to date then, but whatever else the
        pass remembers of the graph across a `yield` of a patch may not be.
        """
        raise GraphError(f"pass {self.name!r} proposes nothing; define `proposals` or `run`")

    def run(self, graph: Graph, limit: int | None = None) -> PassReport:
        """Change the graph in place by at most `limit` patches."""
        report, uses = PassReport(self.name), Uses(graph)
        for proposal in self.proposals(graph, uses):
            if isinstance(proposal, Decision):
                report.decisions.append(proposal)
                continue
            if limit is not None and report.patches >= limit:
                break
            proposal.commit(uses)
            report.decisions.append(Decision(proposal.at, True, proposal.reason))
            report.patches += 1
        report.changed = report.patches > 0
        return report


class NodePass(Pass):
    """A pass that looks at one node at a time, again and again until nothing changes any more."""

    def visit(self, graph: Graph, uses: Uses, node: Node) -> Patch | Decision | None:
        """The rewrite at this node, why there is none, or None if the pass does not concern the node."""
        raise GraphError(f"pass {self.name!r} visits nothing; define `visit`")

    def proposals(self, graph: Graph, uses: Uses) -> Iterator[Patch | Decision]:
        declined: set[Decision] = set()
        changed = True
        while changed:
            changed = False
            for node in list(graph.nodes):
                if node not in uses:
                    continue
                proposal = self.visit(graph, uses, node)
                if isinstance(proposal, Patch):
                    yield proposal
                    changed = True
                elif proposal is not None and proposal not in declined:
                    declined.add(proposal)
                    yield proposal


def run_passes(
    graph: Graph,
    passes: Sequence[Pass],
    *,
    disable: Collection[str] = (),
    stop_after: int | None = None,
    dump: Callable[[str, str], None] | None = None,
) -> list[PassReport]:
    """Run the passes in order on a graph that the caller owns; it is changed in place.

    The graph is verified before the first pass and after each one that changed it. `disable` names passes to leave out;
    `stop_after` is the number of patches after which optional passes do nothing more; `dump` is called with the name of
    each pass and the text of the graph after it (first with "input").
    Raises GraphError if a pass breaks the graph, lacks what it requires, or must not be disabled.
    """
    _check_disabled(passes, disable)
    known: Known = {}
    verify(graph, known)
    if dump:
        dump("input", to_text(graph))
    held: set[str] = set()
    reports: list[PassReport] = []
    for each in passes:
        if each.name in disable:
            continue
        _check_required(each, passes, held)
        done = sum(report.patches for report in reports)
        limit = max(stop_after - done, 0) if stop_after is not None and each.optional else None
        if limit == 0:
            continue
        before = _wiring(graph)
        reports.append(_run(each, graph, limit))
        if reports[-1].changed or _wiring(graph) != before:
            _verify_after(each, graph, known)
        held.update(each.ensures)
        if dump:
            dump(each.name, to_text(graph))
    return reports


def _run(each: Pass, graph: Graph, limit: int | None) -> PassReport:
    """On the graph, and on the sub-graphs that it had before."""
    inner = bodies(graph) if each.nested else []
    report = each.run(graph, limit)
    for body in inner:
        more = _run(each, body, None if limit is None else limit - report.patches)
        report.patches += more.patches
        report.changed |= more.changed
        report.decisions += more.decisions
    return report


def _wiring(graph: Graph) -> tuple[object, ...]:
    """What differs after a change that a pass does not own up to."""
    return list(graph.nodes), [(node.op, node.inputs) for node in graph.nodes], dict(graph.outputs)


def _check_disabled(passes: Sequence[Pass], disable: Collection[str]) -> None:
    known = {each.name: each for each in passes}
    for name in disable:
        if name not in known:
            raise GraphError(f"there is no pass named {name!r}; the passes are {', '.join(known)}")
        if not known[name].optional:
            raise GraphError(f"pass {name!r} cannot be disabled: nothing works without it")


def _check_required(each: Pass, passes: Sequence[Pass], held: set[str]) -> None:
    for wanted in each.requires:
        if wanted not in held:
            makers = ", ".join(repr(p.name) for p in passes if wanted in p.ensures) or "no pass of the pipeline"
            raise GraphError(
                f"pass {each.name!r} requires {wanted!r}, which is ensured by {makers}; it must run before"
            )


def _verify_after(each: Pass, graph: Graph, known: Known) -> None:
    try:
        verify(graph, known)
    except GraphError as error:
        raise GraphError(f"pass {each.name!r} broke the graph: {error}") from error
