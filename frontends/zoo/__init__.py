"""Well-known networks, written with the Python layers: torchvision's topology and parameter names, seeded weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from glulam.compiler.graph.graph import Graph
from glulam.frontends.zoo.mobilenet_v2 import mobilenet_v2
from glulam.frontends.zoo.resnet import resnet18, resnet50

NETWORKS: Mapping[str, Callable[..., Graph]] = MappingProxyType(
    {network.__name__: network for network in (resnet18, resnet50, mobilenet_v2)}
)

__all__ = ["NETWORKS", "mobilenet_v2", "resnet18", "resnet50"]
