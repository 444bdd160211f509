"""What is measured: a network of the zoo, a real model of `models.json`, or any ONNX file; with inputs to run it on."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from glulam.benchmarks.models import catalogue, fetch
from glulam.compiler.graph.graph import Graph
from glulam.feeds import random_arrays
from glulam.frontends.onnx import from_onnx, to_onnx
from glulam.frontends.zoo import NETWORKS
from glulam.runtime.errors import GlulamError

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Case:
    """A model as glulam sees it, and where its ONNX file comes from (None: the graph is exported for the peers)."""

    name: str
    graph: Graph
    source: Path | None

    @property
    def batch(self) -> int:
        """The leading extent of the first input, 1 if it has none."""
        shape = next(iter(self.graph.inputs.values())).shape
        return shape[0] if shape else 1

    def feeds(self, seed: int = 0) -> dict[str, np.ndarray]:
        """Random inputs, the same ones for the same seed."""
        return random_feeds(self.graph, seed)

    def write_onnx(self, path: Path) -> Path:
        """The model as an ONNX file with every extent of its inputs a number, as glulam compiles it."""
        shapes = {name: value.shape for name, value in self.graph.inputs.items()}
        data = to_onnx(self.graph).SerializeToString() if self.source is None else pinned(self.source, shapes)
        path.write_bytes(data)
        return path


def open_case(name: str, shapes: Shapes | None = None, batch: int | None = None) -> Case:
    """The case of that name: a network of the zoo, a model of `models.json`, or the path of an ONNX file.

    With `batch`, the leading extent of every input is that instead of 1. Raises GlulamError if it is neither, or if
    the model does not take that many samples at once.
    """
    if name in NETWORKS:
        case = Case(name, _zoo_network(name, shapes or {}), None)
    elif name in catalogue():
        path = fetch(name)
        case = Case(name, from_onnx(path, shapes=shapes or catalogue()[name].shapes), path)
    else:
        path = Path(name)
        if path.is_dir():
            raise GlulamError(f"{name} is a folder; name the .onnx file in it")
        if not path.is_file():
            raise GlulamError(f"there is no file {name!r}, and no model of that name; {_known_names(name)}")
        case = Case(path.stem, from_onnx(path, shapes=shapes), path)
    return case if batch is None else with_batch(case, batch)


def with_batch(case: Case, batch: int) -> Case:
    """The case with the leading extent of every input changed from 1 to `batch`; what has it already stays.

    Raises GlulamError if an input leads with another number, or if the model cannot be had for the batch: its own
    shapes contradict, or samples run into each other (an output changes beyond its leading extent).
    """
    shapes = {name: value.shape for name, value in case.graph.inputs.items()}
    for name, shape in shapes.items():
        if not shape or shape[0] not in (1, batch):
            raise GlulamError(f"{case.name} has no leading extent of 1 to make {batch}: its input {name!r} is {shape}")
    wanted = {name: (batch, *shape[1:]) for name, shape in shapes.items()}
    if wanted == shapes:
        return case
    try:
        graph = _zoo_network(case.name, wanted) if case.source is None else from_onnx(case.source, shapes=wanted)
    except GlulamError as error:
        raise GlulamError(f"{case.name} does not take a batch of {batch}: {error}") from error
    for name, value in graph.outputs.items():
        if value.shape[1:] != case.graph.outputs[name].shape[1:]:
            raise GlulamError(
                f"{case.name} does not take a batch of {batch}: that makes its output {name!r} {value.shape}, "
                f"with one sample it is {case.graph.outputs[name].shape}"
            )
    return Case(case.name, graph, case.source)


def _zoo_network(name: str, shapes: Shapes) -> Graph:
    """The network for inputs of the given shape; by its own default without one."""
    graph = NETWORKS[name]()
    if not shapes:
        return graph
    if set(shapes) != set(graph.inputs):
        raise GlulamError(f"{name} has the input {', '.join(graph.inputs)}, not {', '.join(shapes)}")
    (shape,), (value,) = shapes.values(), graph.inputs.values()
    if len(shape) != len(value.shape):
        raise GlulamError(f"{name}: {shape} has {len(shape)} extents; the input is N,C,H,W, by default {value.shape}")
    return NETWORKS[name](input_shape=shape[1:], batch=shape[0])


def all_names() -> list[str]:
    """Of the networks of the zoo, and of the real models."""
    return [*NETWORKS, *catalogue()]


def _known_names(name: str) -> str:
    """A guess at what was meant, or else all that there is."""
    names = all_names()
    close = difflib.get_close_matches(name.lower().replace("-", "_"), names) or [n for n in names if n in name.lower()]
    return f"did you mean {' or '.join(close)}?" if close else f"there are {', '.join(names)}"


def random_feeds(graph: Graph, seed: int = 0) -> dict[str, np.ndarray]:
    """`random_arrays` for the inputs of the graph."""
    specs = {name: (value.shape, value.type.dtype.numpy) for name, value in graph.inputs.items()}
    return random_arrays(specs, seed)


def pinned(path: Path, shapes: Shapes) -> bytes:
    """The ONNX model with the given input shapes. Shapes recorded further on may contradict them and are dropped."""
    import onnx

    model = onnx.load(path)
    for info in model.graph.input:
        if info.name in shapes:
            dims = info.type.tensor_type.shape.dim
            del dims[:]
            for extent in shapes[info.name]:
                dims.add().dim_value = extent
    del model.graph.value_info[:]
    for info in model.graph.output:
        for dim in info.type.tensor_type.shape.dim:
            dim.Clear()
    return bytes(model.SerializeToString())
