"""The table of a network: one row per node with its output shape, parameters and multiply-accumulates."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from glulam.compiler import ops
from glulam.compiler.graph.graph import Graph, Node, Value
from glulam.compiler.graph.types import Shape
from glulam.frontends.layers.tensor import Parameter

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class Row:
    """One node: where it stands, what it does, and what it costs."""

    name: str
    layer: str
    output_shapes: tuple[Shape, ...]
    parameters: int
    macs: int


@dataclass(frozen=True)
class Summary:
    """Rows in the order of computation, and their totals. `str()` and rich print it as a table."""

    title: str
    rows: tuple[Row, ...]
    input_shapes: tuple[Shape, ...]
    parameters: int
    buffers: int

    @property
    def macs(self) -> int:
        return sum(row.macs for row in self.rows)

    def __rich__(self) -> Table:
        from rich.table import Table  # not before a table is wanted

        table = Table(
            title=self.title,
            caption=f"{self.parameters:,} parameters, {self.buffers:,} running statistics, "
            f"{self.macs / 1e9:.3g} G multiply-accumulates",
        )
        table.add_column("layer", no_wrap=True)
        table.add_column("kind", no_wrap=True)
        table.add_column("output shape", no_wrap=True)
        table.add_column("parameters", justify="right", no_wrap=True)
        table.add_column("MACs", justify="right", no_wrap=True)
        for shape in self.input_shapes:
            table.add_row("input", "Input", _shape(shape), "", "")
        shown: list[str] = []
        for row in self.rows:
            *blocks, last = row.name.split(".")
            for depth, block in enumerate(blocks):
                if shown[: depth + 1] != blocks[: depth + 1]:
                    table.add_row("  " * depth + block, "", "", "", "", style="dim")
            shown = blocks
            shapes = " ".join(_shape(shape) for shape in row.output_shapes)
            table.add_row("  " * len(blocks) + last, row.layer, shapes, _count(row.parameters), _count(row.macs))
        return table

    def __str__(self) -> str:
        from rich.console import Console

        text = io.StringIO()
        Console(file=text, width=160, color_system=None).print(self)
        return text.getvalue()


def summary(graph: Graph) -> Summary:
    """The summary of any graph. A parameter that several nodes share counts at the first of them.

    Nodes that only put parameters in order have no row: what they read counts at the node that reads them.
    """
    known = any(isinstance(value, Parameter) for value in graph.constants())
    counted: set[Value] = set()
    rows = []
    buffers = 0
    behind: dict[Value, list[Value]] = {value: [value] for value in graph.constants()}
    for node in graph.nodes:
        sources = [behind.get(value, []) if value is not None else [] for value in node.inputs]
        if sources and all(value in behind for value in node.present_inputs()):
            behind.update((value, [constant for each in sources for constant in each]) for value in node.outputs)
            continue
        learned = 0
        for position, value in ((i, value) for i, each in enumerate(sources) for value in each):
            if value in counted or known != isinstance(value, Parameter):
                continue
            counted.add(value)
            if isinstance(node.op, ops.BatchNorm) and position >= 3:
                buffers += value.type.size
            else:
                learned += value.type.size
        shapes = tuple(value.shape for value in node.outputs)
        rows.append(Row(node.name, type(node.op).__name__, shapes, learned, multiply_accumulates(node)))
    inputs = tuple(value.shape for value in graph.inputs.values())
    return Summary(graph.name, tuple(rows), inputs, sum(row.parameters for row in rows), buffers)


def multiply_accumulates(node: Node) -> int:
    """Products of a convolution, linear or recurrent layer or matrix product, by the definition; else 0."""
    shapes = [() if value is None else value.shape for value in node.inputs]
    output = node.outputs[0].type.size
    match node.op:
        case ops.Conv():
            return output * math.prod(shapes[1][1:])
        case ops.ConvTranspose():
            return math.prod(shapes[0]) * math.prod(shapes[1][1:])
        case ops.Linear() | ops.MatMul():
            return output * shapes[0][-1]
        case ops.Lstm() | ops.Gru() | ops.Rnn():
            return node.flops // 2
    return 0


def _shape(shape: Shape) -> str:
    return "[" + ", ".join(map(str, shape)) + "]"


def _count(number: int) -> str:
    return f"{number:,}" if number else ""
