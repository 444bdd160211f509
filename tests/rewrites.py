"""Help for tests of passes: graphs as text, passes run on them, and the numbers compared before and after."""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass

import numpy as np

from glulam.compiler.driver import compile_graph, optimise
from glulam.compiler.graph.evaluate import evaluate
from glulam.compiler.graph.graph import Graph
from glulam.compiler.graph.text import digest, parse
from glulam.compiler.graph.types import DType, TensorType
from glulam.compiler.ops import OPS_BY_NAME
from glulam.compiler.options import Options
from glulam.compiler.passes.manager import Decision, Pass, run_passes

_RANDOM = re.compile(r"const %(\w+): (\w+)\[([\d,]*)\] = (random|positive)")


def graph_of(text: str) -> Graph:
    """The graph `text` describes (without the outer `graph { }`); `= random` and `= positive` give data by the name."""
    constants = {}

    def fill(match: re.Match[str]) -> str:
        name, dtype, extents, kind = match.groups()
        data = random(TensorType(DType(dtype), tuple(map(int, extents.split(","))) if extents else ()), name)
        data = np.abs(data) + 0.25 if kind == "positive" else data
        data = data.astype(DType(dtype).numpy)
        constants[digest(data)] = data
        return f"const %{name}: {dtype}[{extents}] = #{digest(data)}"

    return parse("graph g {\n" + _RANDOM.sub(fill, text) + "\n}", OPS_BY_NAME, constants)


def random(type: TensorType, seed: str) -> np.ndarray:
    rng = np.random.default_rng(zlib.crc32(seed.encode()))
    if type.dtype is DType.BOOL:
        return rng.integers(0, 2, type.shape).astype(bool)
    return rng.uniform(-2, 2, type.shape).astype(type.dtype.numpy)


@dataclass
class Result:
    graph: Graph
    decisions: list[Decision]
    error: float

    @property
    def ops(self) -> str:
        return " ".join(node.op.name for node in self.graph.nodes)

    @property
    def taken(self) -> list[str]:
        return [f"{d.node}: {d.reason}" for d in self.decisions if d.taken]

    @property
    def declined(self) -> str:
        return "\n".join(f"{d.node}: {d.reason}" for d in self.decisions if not d.taken)


def rewrite(text: str | Graph, *passes: Pass, tolerance: float = 1e-6) -> Result:
    """Run the passes and check that the outputs stay what they were, relative to their largest magnitude."""
    graph = text.copy() if isinstance(text, Graph) else graph_of(text)
    feeds = {name: random(value.type, f"feed {name}") for name, value in graph.inputs.items()}
    before = evaluate(graph, feeds)
    reports = run_passes(graph, passes)
    after = evaluate(graph, feeds)
    assert list(before) == list(after)
    error = 0.0
    for name, wanted in before.items():
        got = after[name]
        assert (got.dtype, got.shape) == (wanted.dtype, wanted.shape)
        if np.array_equal(got, wanted, equal_nan=wanted.dtype.kind == "f"):
            continue
        if wanted.size and wanted.dtype.kind == "f":
            scale = max(float(np.abs(wanted).max()), 1e-30)
            error = max(error, float(np.abs(got.astype(np.float64) - wanted).max()) / scale)
        else:
            assert np.array_equal(got, wanted)
    assert error <= tolerance, error
    return Result(graph, [d for report in reports for d in report.decisions], error)


def compiled(text: str, options: Options | None = None, tolerance: float = 1e-4) -> str:
    """Compile the graph, check a run against the reference, and give the names of the ops that became kernels."""
    graph, options = graph_of(text), options or Options()
    feeds = {name: random(value.type, f"feed {name}") for name, value in graph.inputs.items()}
    results = compile_graph(graph, options).run(feeds)
    for name, wanted in evaluate(graph, feeds).items():
        scale = max(float(np.abs(wanted).max(initial=0.0)), 1e-30)
        np.testing.assert_allclose(results[name], wanted, rtol=0, atol=tolerance * scale, err_msg=name)
    return " ".join(node.op.name for node in optimise(graph, options)[0].nodes)
