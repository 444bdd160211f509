"""Tuning: the few best candidates for each distinct convolution and linear layer, measured on this machine.

A candidate is measured as a program of its own, by the runtime's time stamps around its kernel: from cold weights, as
in a network, where other layers have used the caches since, and an input that was just written. The candidates of a
layer take turns, and the least of several medians counts. Measurements are kept in the cache on disk under a hash of
the layer, the target, the processor, the number of threads, and all sources of the compiler.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from glulam.compiler.cache import Cache, key_of
from glulam.compiler.codegen.module import generator
from glulam.compiler.graph.graph import Graph, Node
from glulam.compiler.passes.algorithms import signature
from glulam.compiler.passes.candidates import Candidate
from glulam.compiler.passes.choose_algorithm import ChooseAlgorithm, Met, choose
from glulam.compiler.passes.manager import run_passes
from glulam.compiler.passes.sides import Sides
from glulam.compiler.targets import Target
from glulam.runtime.artifact import Artifact
from glulam.runtime.cpu import processor_name
from glulam.runtime.model import Model

_MOST = 4  # candidates that are measured
_HOPELESS = 3.0  # times the cheapest one's estimated cycles
_ROUNDS, _RUNS = 3, 5
_NAME, _INPUT = "layer under test", "x"
_EVICTED = 1.5  # times the last-level cache that is gone through between two runs

Build = Callable[[Graph], Artifact]
"""Compiles a graph of one node as it is, without another choice of algorithm."""


@dataclass(frozen=True)
class Tuned:
    """One distinct layer: the nodes that are like it, its candidates, and the seconds of those that were measured."""

    nodes: tuple[str, ...]
    signature: Hashable
    candidates: tuple[Candidate, ...]
    seconds: Mapping[str, float]

    @property
    def estimated(self) -> Candidate:
        """What the cost model would take."""
        return choose(list(self.candidates), {})

    @property
    def chosen(self) -> Candidate:
        return choose(list(self.candidates), self.seconds)

    @property
    def loss(self) -> float:
        """Seconds that a run would lose in each of the nodes by the cost model's choice."""
        return self.seconds[self.estimated.name] - self.seconds[self.chosen.name] if self.seconds else 0.0


def tune(
    graph: Graph, target: Target, threads: int, store: Cache, build: Build,
    progress: Callable[[str], None] = lambda text: None, strict: bool = False,
) -> list[Tuned]:  # fmt: skip
    """Measurements for all nodes of the graph that have a choice, from the store or made now.

    Choices made by what was measured may put other layers between other neighbours, which are measured then, until
    nothing new is met. With `strict` only of algorithms that add up what the definition does. Raises CpuMismatchError
    if this machine cannot execute the target's code.
    """
    seconds: dict[Hashable, Mapping[str, float]] = {}
    while True:
        choice = ChooseAlgorithm(target, seconds, strict)
        run_passes(graph.copy(), [choice])
        new = [key for key in choice.met if key not in seconds]
        for number, key in enumerate(new, 1):
            first = next(iter(choice.met[key].values()))
            progress(f"measuring {first.node.name} ({number} of {len(new)})")
            seconds[key] = _stored(first, target, threads, store, build)
        if not new:
            return [
                Tuned(tuple(alike), key, tuple(next(iter(alike.values())).candidates), seconds[key])
                for key, alike in choice.met.items()
            ]


def _stored(met: Met, target: Target, threads: int, store: Cache, build: Build) -> dict[str, float]:
    """Seconds of the candidates worth it, from the store if they are there."""
    node, around, found = met
    shortlist = _shortlist(found)
    if len(shortlist) < 2:
        return {}
    names = [candidate.name for candidate in shortlist]
    layer = repr(signature(node, around))
    key = key_of("tune", (*_making(target, threads), layer, *names))
    known = _read(store.get(key), names)
    if known is None:
        known = _measure(node, shortlist, target, threads, build, around)
        record = {"seconds": known, "node": layer, "processor": processor_name()}
        store.put(key, json.dumps(record).encode())
    return known


def _shortlist(found: Sequence[Candidate]) -> list[Candidate]:
    ranked = sorted(found, key=lambda candidate: candidate.cycles)
    return [candidate for candidate in ranked if candidate.cycles <= _HOPELESS * ranked[0].cycles][:_MOST]


def _making(target: Target, threads: int) -> Iterator[str]:
    """What a measurement depends on besides the layer."""
    yield from (repr(target), processor_name(), str(threads), *generator(), _sources())


@cache
def _sources() -> str:
    sha = hashlib.sha256()
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        sha.update(path.read_bytes())
    return sha.hexdigest()


def _read(contents: bytes | None, names: Sequence[str]) -> dict[str, float] | None:
    """The times of a record, None for anything that does not have all of them."""
    if contents is None:
        return None
    try:
        found = json.loads(contents)["seconds"]
        times = {name: float(found[name]) for name in names}
    except (ValueError, KeyError, TypeError):
        return None
    return times if all(math.isfinite(t) and t > 0 for t in times.values()) else None


# ---- measuring


def _measure(
    node: Node, shortlist: Sequence[Candidate], target: Target, threads: int, build: Build, around: Sides
) -> dict[str, float]:
    flush = np.zeros(int(_EVICTED * target.l3_bytes), np.uint8)
    best = {candidate.name: math.inf for candidate in shortlist}
    feeds = _feeds(node)
    with ExitStack() as open_models:
        models = {each.name: open_models.enter_context(_model(node, each, threads, build)) for each in shortlist}
        for _ in range(_ROUNDS):
            for name, model in models.items():
                profile = model.profile(feeds, _RUNS, before=lambda: _evict(flush))
                seconds = sum(step.seconds for step in profile.steps if _belongs(step.label, around))
                best[name] = min(best[name], seconds)
    return best


def _evict(memory: np.ndarray[tuple[int], np.dtype[np.uint8]]) -> None:
    """Go through memory that fills the caches. Written alone, much of it may pass them by."""
    np.add(memory, 1, out=memory)


def _belongs(label: str, around: Sides) -> bool:
    """Whether a step computes the layer, or a stage of it, or converts what comes or goes plain in the network too."""
    if label.startswith(f"{_INPUT}_"):
        return around.comes_plain
    return label.split(".")[0] == _NAME or (label.startswith(f"{_NAME}_") and around.goes_plain)


def _model(node: Node, candidate: Candidate, threads: int, build: Build) -> Model:
    x, parameters = node.operand(0), node.inputs[1:]
    graph = Graph("tuning")
    source = graph.input(_INPUT, x.type)
    constants = [
        None if v is None or v.data is None else graph.constant(v.data, f"parameter{i}")
        for i, v in enumerate(parameters)
    ]
    graph.output("y", graph.apply(candidate.op, source, *constants, name=_NAME))
    return Model(build(graph), threads)


def _feeds(node: Node) -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]]:
    x = node.operand(0)
    return {_INPUT: np.random.default_rng(0).standard_normal(x.shape, np.float32)}
