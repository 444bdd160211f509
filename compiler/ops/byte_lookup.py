"""Codes as a table has them: any function of one byte. A pass puts it in; no frontend does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from glulam.compiler.graph.op import Case
from glulam.compiler.graph.types import DType, TensorType
from glulam.compiler.loops.expr import LOOKED_UP, Expr, Lookup
from glulam.compiler.ops.pointwise import SHAPES, Pointwise


@dataclass(frozen=True)
class ByteLookup(Pointwise):
    """The entry of `table` that x says, both U8; there is one for each of the 256 bytes."""

    table: tuple[int, ...]

    name = "byte_lookup"
    accepts = frozenset({DType.U8})

    def formula(self, x: Expr) -> Expr:
        if len(self.table) != LOOKED_UP or not all(0 <= entry <= 255 for entry in self.table):
            raise self.fail(f"the table has {len(self.table)} entries; it takes {LOOKED_UP} from 0 to 255")
        return Lookup(x, bytes(self.table))

    @classmethod
    def cases(cls) -> Sequence[Case]:
        rng = np.random.default_rng(0)
        mixed, squares = cls(tuple(rng.permutation(256).tolist())), cls(tuple(i * i % 256 for i in range(256)))
        types = [TensorType(DType.U8, shape) for (shape,) in SHAPES[1]]
        return (Case(mixed, (np.arange(256, dtype=np.uint8),)), *(Case(squares, (each,)) for each in types))
