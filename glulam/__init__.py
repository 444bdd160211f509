"""glulam: a graph compiler for neural-network layer stacks on CPUs.

The public names are found on first use, so that a process which only loads and runs a compiled model never imports the
compiler.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from glulam.api import compile, reference, to_onnx
    from glulam.compiler import errors
    from glulam.compiler.graph.graph import Graph
    from glulam.compiler.options import Options
    from glulam.frontends import layers, zoo
    from glulam.frontends.layers import Sequential, Weight, external, layer
    from glulam.frontends.layers import math as math
    from glulam.frontends.onnx import from_onnx
    from glulam.runtime.model import Model, load

__version__ = "0.1.0"
__all__ = [
    "Graph",
    "Model",
    "Options",
    "Sequential",
    "Weight",
    "compile",
    "errors",
    "external",
    "from_onnx",
    "layer",
    "layers",
    "load",
    "math",
    "reference",
    "to_onnx",
    "zoo",
]

_HOMES = {
    "Graph": "glulam.compiler.graph.graph",
    "Model": "glulam.runtime.model",
    "Options": "glulam.compiler.options",
    "Sequential": "glulam.frontends.layers",
    "Weight": "glulam.frontends.layers",
    "compile": "glulam.api",
    "external": "glulam.frontends.layers",
    "from_onnx": "glulam.frontends.onnx",
    "layer": "glulam.frontends.layers",
    "load": "glulam.runtime.model",
    "reference": "glulam.api",
    "to_onnx": "glulam.api",
}
_MODULES = {
    "errors": "glulam.compiler.errors",
    "layers": "glulam.frontends.layers",
    "math": "glulam.frontends.layers.math",
    "zoo": "glulam.frontends.zoo",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(_MODULES[name])
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'glulam' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
