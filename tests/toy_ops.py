"""Small ops of the tests' own: the graph's machinery does not depend on the real ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from glulam.compiler.graph.graph import Graph
from glulam.compiler.graph.op import Op
from glulam.compiler.graph.types import DType


@dataclass(frozen=True)
class Plus(Op):
    name: ClassVar[str] = "plus"

    def infer(self, x, y):
        if x != y:
            raise self.fail(f"{x} and {y} differ")
        return (x,)

    def reference(self, x, y):
        return (x + y,)


@dataclass(frozen=True)
class Halve(Op):
    """Two halves along the last axis."""

    name: ClassVar[str] = "halve"

    def infer(self, x):
        half = x.with_shape((*x.shape[:-1], x.shape[-1] // 2))
        return half, half

    def reference(self, x):
        first, second = np.split(x, 2, axis=-1)
        return first, second


@dataclass(frozen=True)
class Note(Op):
    """The input as it is, with any attribute."""

    name: ClassVar[str] = "note"
    what: Any = None
    dtype: DType = DType.F32

    def infer(self, x, extra=None):
        return (x,)

    def reference(self, x, extra=None):
        return (x,)


@dataclass(frozen=True)
class Region(Op):
    name: ClassVar[str] = "region"
    body: Graph
    label: str = ""

    def infer(self, *inputs):
        return tuple(value.type for value in self.body.outputs.values())


OPS = {op.name: op for op in (Plus, Halve, Note, Region)}
