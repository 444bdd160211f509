"""How far float32 results are from the exact ones: glulam's error beside ONNX Runtime's, both against float64.

python -m glulam.benchmarks.error
python -m glulam.benchmarks.error all
python -m glulam.benchmarks.error resnet50 mobilenet_v2 --numerics fast,strict --json out/error.json

The exact result is that of the same graph with every float32 value and constant a float64, between layers as well. An
error is the root mean square of the deviation as a fraction of the exact output's own. A ratio below one says that
glulam is nearer.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import statistics
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from glulam.arguments import output_file, positive
from glulam.benchmarks.cases import Case, all_names, open_case, random_feeds
from glulam.benchmarks.worker import OnnxRuntime
from glulam.compiler.driver import compile_graph
from glulam.compiler.errors import ShapeError
from glulam.compiler.graph.graph import Graph, Value
from glulam.compiler.graph.op import Op
from glulam.compiler.graph.types import Array, DType
from glulam.compiler.ops.pointwise import Cast
from glulam.compiler.options import Options
from glulam.console import exit_with, wide_console, write_json
from glulam.frontends.zoo import NETWORKS
from glulam.runtime.cpu import processor_name
from glulam.runtime.errors import GlulamError

Numerics = Literal["fast", "strict"]
Outputs = Mapping[str, Array]
Step = Callable[[str, int, int], None]

DEFAULT_MODELS = (
    "resnet18",
    "resnet50",
    "mobilenet_v2",
    "mobilenet_v3_large",
    "squeezenet1_1",
    "densenet121",
    "googlenet",
    "efficientnet_b0",
    "shufflenet_v2_x1_0",
    "unet",
)


@dataclass(frozen=True)
class Errors:
    """Of one model: ours by numerics, and ONNX Runtime's."""

    model: str
    inputs: Mapping[str, tuple[int, ...]]
    samples: int
    ours: Mapping[str, float]
    theirs: float

    def ratio(self, numerics: str) -> float:
        """Our error over theirs; 1 if neither errs."""
        ours = self.ours[numerics]
        return ours / self.theirs if self.theirs else 1.0 if not ours else float("inf")


def widened(graph: Graph) -> Graph:
    """The graph with float64 for float32, in inputs, constants and all between them; other types stay.

    Raises GlulamError if an op has no float64 form.
    """
    wide = Graph(graph.name)
    table: dict[Value, Value] = {}
    for name, value in graph.inputs.items():
        dtype = DType.F64 if value.type.dtype is DType.F32 else value.type.dtype
        table[value] = wide.input(name, value.type.with_dtype(dtype))
    for value in graph.constants():
        if value.data is not None:
            table[value] = wide.constant(_wide_array(value.data), value.name)
    for node in graph.nodes:
        operands = [None if v is None else table[v] for v in node.inputs]
        try:
            outputs = wide.add(_wide_op(node.op), *operands, name=node.name)
        except ShapeError as error:
            raise GlulamError(f"{graph.name} cannot be evaluated in float64: {error}") from error
        for old, new in zip(node.outputs, outputs, strict=True):
            if new.type.dtype is DType.F32:
                raise GlulamError(f"{graph.name} cannot be evaluated in float64: {node.op.name} gives float32")
            table[old] = new
    for name, value in graph.outputs.items():
        wide.output(name, table[value])
    return wide


def _wide_array(data: Array) -> Array:
    return data.astype(np.float64) if data.dtype == np.float32 else data


def _wide_op(op: Op) -> Op:
    """The op itself, but a cast to float32 goes to float64."""
    return dataclasses.replace(op, dtype=DType.F64) if isinstance(op, Cast) and op.dtype is DType.F32 else op


def exact(wide: Graph, feeds: Mapping[str, Array], step: Step = lambda label, done, of: None) -> dict[str, Array]:
    """The outputs of a `widened` graph; values are dropped after their last use, and `step` is told of every node."""
    table: dict[Value, Array] = {v: v.data for v in wide.constants() if v.data is not None}
    table |= {value: _wide_array(feeds[name]) for name, value in wide.inputs.items()}
    uses = Counter(v for node in wide.nodes for v in node.present_inputs())
    uses.update(wide.outputs.values())
    for index, node in enumerate(wide.nodes):
        step(node.name, index, len(wide.nodes))
        results = node.op.reference(*(None if v is None else table[v] for v in node.inputs))
        table.update(zip(node.outputs, results, strict=True))
        for value in node.present_inputs():
            uses[value] -= 1
            if not uses[value]:
                del table[value]
    return {name: table[value] for name, value in wide.outputs.items()}


def error_of(samples: Sequence[tuple[Outputs, Outputs]]) -> float:
    """Of results beside exact ones, taken in order: RMS of the deviation over the exact RMS, all samples together.

    Of several outputs the root mean square over them; those that are not floating point do not count. NaN or infinity
    where the exact result has none gives infinity.
    """
    squares: dict[int, float] = {}
    norms: dict[int, float] = {}
    for results, expected in samples:
        for index, (result, wanted) in enumerate(zip(results.values(), expected.values(), strict=True)):
            if result.shape != wanted.shape:
                raise GlulamError(f"an output is {result.shape}, and by the definition {wanted.shape}")
            if not np.issubdtype(wanted.dtype, np.floating):
                continue
            known = np.isfinite(wanted)
            deviation = np.where(known, result.astype(np.float64) - np.where(known, wanted, 0), 0)
            squares[index] = squares.get(index, 0.0) + float(np.sum(np.square(deviation)))
            norms[index] = norms.get(index, 0.0) + float(np.sum(np.square(np.where(known, wanted, 0))))
    if not squares:
        raise GlulamError("no output is floating point: there is no error to measure")
    shares = [squares[index] / (norms[index] or 1.0) for index in squares]
    error = float(np.sqrt(np.mean(shares)))
    return error if np.isfinite(error) else float("inf")


def measure(
    case: Case, numerics: Sequence[Numerics], samples: int, step: Step = lambda label, done, of: None
) -> Errors:
    """The errors of one model over `samples` random inputs, pooled. ONNX Runtime has its default optimisations."""
    feeds = [random_feeds(case.graph, seed) for seed in range(samples)]
    wide = widened(case.graph)
    truth = [
        exact(wide, feed, lambda label, done, of, i=i: step(label, i * of + done, samples * of))  # type: ignore[misc]
        for i, feed in enumerate(feeds)
    ]
    ours = {}
    for kind in numerics:
        step(f"glulam, {kind}", 1, 1)
        model = compile_graph(case.graph, Options(numerics=kind))
        ours[kind] = error_of([(model.run(feed), wanted) for feed, wanted in zip(feeds, truth, strict=True)])
    step("onnxruntime", 1, 1)
    with tempfile.TemporaryDirectory(prefix="glulam-") as folder:
        peer = OnnxRuntime(str(case.write_onnx(Path(folder) / "model.onnx")), threads=1)
        theirs = error_of([(peer.run(feed), wanted) for feed, wanted in zip(feeds, truth, strict=True)])
    return Errors(case.name, {name: value.shape for name, value in case.graph.inputs.items()}, samples, ours, theirs)


def open_sized(name: str, size: int | None) -> Case:
    """The case; a network of the zoo with `size` for all its spatial extents if one is given."""
    if size is None or name not in NETWORKS:
        return open_case(name)
    inputs = open_case(name).graph.inputs
    return open_case(name, {key: (*value.shape[:2], *(size,) * (value.type.rank - 2)) for key, value in inputs.items()})


def medians(table: Sequence[Errors]) -> dict[str, float]:
    """The median ratio over models, by numerics."""
    return {kind: statistics.median(errors.ratio(kind) for errors in table) for kind in table[0].ours}


def table_of(table: Sequence[Errors], title: str) -> Table:
    """The errors as a table for the terminal."""
    caption = "error against float64: RMS, relative; ratio: glulam / onnxruntime"
    view = Table(title=title, caption=caption, show_footer=True)
    view.add_column("model", footer="median", no_wrap=True)
    middle = medians(table)
    for kind in middle:
        view.add_column(f"ratio,\n{kind}", footer=f"{middle[kind]:.3f}", justify="right")
    for label in (*(f"glulam,\n{kind}" for kind in middle), "onnxruntime"):
        view.add_column(label, justify="right")
    for errors in table:
        view.add_row(
            errors.model,
            *(f"{errors.ratio(kind):.3f}" for kind in middle),
            *(f"{error:.2e}" for error in (*errors.ours.values(), errors.theirs)),
        )
    return view


def as_json(table: Sequence[Errors], version: str) -> dict[str, object]:
    """Everything that was measured."""
    rows = [
        {**dataclasses.asdict(errors), "ratios": {kind: errors.ratio(kind) for kind in errors.ours}} for errors in table
    ]
    return {"cpu": processor_name(), "onnxruntime": version, "models": rows, "median_ratios": medians(table)}


def numerics_list(text: str) -> list[Numerics]:
    """For argparse: `fast`, `strict` or both, by commas."""
    known: Mapping[str, Numerics] = {"fast": "fast", "strict": "strict"}
    if unknown := [kind for kind in text.split(",") if kind not in known]:
        raise argparse.ArgumentTypeError(f"no numerics {', '.join(map(repr, unknown))}; there are fast and strict")
    return [known[kind] for kind in dict.fromkeys(text.split(","))]


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m glulam.benchmarks.error", description=__doc__.partition("\n")[0])
    parser.add_argument(
        "models", nargs="*", metavar="MODEL", help="networks, real models or .onnx files; or all (ten networks)"
    )
    parser.add_argument("--numerics", type=numerics_list, default="fast", help="fast, strict, or both by commas (fast)")
    parser.add_argument("--samples", type=positive, default=3, metavar="N", help="random inputs per model (3)")
    parser.add_argument("--size", type=positive, metavar="N", help="spatial extents of the zoo's networks (their own)")
    parser.add_argument("--json", type=output_file, metavar="FILE", help="write everything that was measured here")
    options = parser.parse_args(arguments)
    options.models = all_names() if options.models == ["all"] else options.models or list(DEFAULT_MODELS)
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    if importlib.util.find_spec("onnxruntime") is None:
        raise GlulamError("onnxruntime is not installed, and nothing to compare with: pip install 'glulam[bench]'")
    import onnxruntime

    console = wide_console()
    table: list[Errors] = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        whole = progress.add_task("models", total=len(options.models))
        for name in options.models:
            task = progress.add_task(name)

            def step(label: str, done: int, of: int, name: str = name, task: TaskID = task) -> None:
                progress.update(task, description=f"{name}: {label}", completed=done, total=of)

            table.append(measure(open_sized(name, options.size), options.numerics, options.samples, step))
            progress.remove_task(task)
            progress.advance(whole)
    size = f", zoo at {options.size}" if options.size else ""
    console.print(table_of(table, f"{processor_name()}, onnxruntime {onnxruntime.__version__}{size}"))
    if options.json:
        write_json(options.json, as_json(table, onnxruntime.__version__))
    return 0


if __name__ == "__main__":
    exit_with(main)
