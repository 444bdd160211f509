"""The few functions of the public face that are more than a name for something else."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from glulam.compiler.driver import compile_graph
from glulam.compiler.errors import ArgumentError
from glulam.compiler.graph.evaluate import evaluate
from glulam.compiler.graph.graph import Graph
from glulam.compiler.graph.types import Array
from glulam.compiler.options import Options
from glulam.frontends.layers import Sequential
from glulam.frontends.layers.sequential import as_graph
from glulam.runtime.model import Model

if TYPE_CHECKING:
    from onnx import ModelProto

Network = Graph | Sequential


def compile(network: Network, options: Options | None = None, **settings: Any) -> Model:
    """Native code for the network, ready to run.

    Give the options as one object or by name: `gl.compile(net, threads=2, numerics="strict")`. Raises UnsupportedError
    with everything that has no kernel, TargetError if this machine cannot execute the target, ArgumentError for options
    that cannot be, GraphError for what is no network.
    """
    if not isinstance(options, Options | None):
        kind = type(options).__name__
        raise ArgumentError(f"options is of type {kind}; give gl.Options(...), or name the settings: threads=2")
    if options is not None and settings:
        raise ArgumentError("give the options as one object or by name, not both")
    known = [field.name for field in fields(Options)]
    if unknown := settings.keys() - set(known):
        raise ArgumentError(f"there is no option {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    return compile_graph(as_graph(network), options or Options(**settings))


def reference(network: Network, feeds: Mapping[str, Array]) -> dict[str, Array]:
    """The outputs by numpy, node by node, of the network as it was given: what `compile` has to agree with.

    Raises GraphError if an input is missing, unknown, or of another type, or for what is no network.
    """
    return evaluate(as_graph(network), feeds)


def to_onnx(network: Network, path: str | os.PathLike[str] | None = None, opset: int = 17) -> ModelProto:
    """The network as an ONNX model, also written to `path` if one is given; see `frontends.onnx.exporter`.

    Raises ArgumentError for an opset that is no number, UnsupportedError for one that cannot be written and for nodes
    that ONNX at this opset cannot say, GraphError for what is no network.
    """
    from glulam.frontends.onnx import to_onnx as export

    return export(as_graph(network), path, opset)
