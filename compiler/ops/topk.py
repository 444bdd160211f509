"""The k largest or smallest elements along an axis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from glulam.compiler.graph.op import Case, Op
from glulam.compiler.graph.types import Array, DType, TensorType, f32
from glulam.compiler.kernels import topk
from glulam.compiler.kernels.context import Context, Lowered
from glulam.compiler.ops.inputs import NUMBERS, check_axis, check_dtype, f64, i64, required
from glulam.compiler.ops.reduce import EDGES, TIES

_NARROW = (DType.U8, DType.I8, DType.U16, DType.U32, DType.I32)


@dataclass(frozen=True)
class TopK(Op):
    """The k largest (or smallest) elements along the axis in order, and their indices (int64).

    Among equals the lower index comes first. NaN counts as larger than everything, as in PyTorch.
    """

    k: int
    axis: int
    largest: bool = True

    name = "top_k"

    def infer(self, *inputs: TensorType | None) -> tuple[TensorType, ...]:
        (x,) = required(self, inputs, 1)
        check_dtype(self, x.dtype, NUMBERS)
        check_axis(self, self.axis, x.rank)
        if not 0 <= self.k <= x.shape[self.axis]:
            raise self.fail(f"k = {self.k} of the {x.shape[self.axis]} elements along axis {self.axis} of {x}")
        values = x.with_shape((*x.shape[: self.axis], self.k, *x.shape[self.axis + 1 :]))
        return values, values.with_dtype(DType.I64)

    def flops(self, inputs: Sequence[TensorType | None], outputs: Sequence[TensorType]) -> int:
        return sum(6 * self.k * type.size for type in inputs if type is not None)

    def lower(self, ctx: Context) -> Lowered:
        return topk.build(ctx, self.axis, self.k, largest=self.largest)

    def reference(self, *inputs: Array | None) -> tuple[Array, ...]:
        (x,) = required(self, inputs, 1)
        first = slice(self.k)
        order = np.moveaxis(np.apply_along_axis(self._order, self.axis, x), self.axis, 0)[first] if x.size else x
        if not x.size or not self.k:
            shape = (*x.shape[: self.axis], self.k, *x.shape[self.axis + 1 :])
            return np.empty(shape, x.dtype), np.empty(shape, np.int64)
        index = np.moveaxis(order, 0, self.axis).astype(np.int64)
        return np.take_along_axis(x, index, self.axis), index

    def _order(self, line: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
        """A stable sort; numpy puts NaN last."""
        if not self.largest:
            return np.argsort(line, kind="stable")
        return len(line) - 1 - np.argsort(line[::-1], kind="stable")[::-1]

    @classmethod
    def cases(cls) -> Sequence[Case]:
        return (
            Case(cls(3, 1), (f32(3, 33),)),
            Case(cls(1, 1), (f32(2, 7, 3),)),
            Case(cls(5, 1, False), (f32(2, 7, 33),)),
            Case(cls(7, 0), (f32(7, 2, 3),)),
            Case(cls(4, 1), (EDGES,)),
            Case(cls(4, 1, False), (EDGES,)),
            Case(cls(5, 1), (TIES,)),
            Case(cls(5, 1, False), (TIES,)),
            Case(cls(4, 0), (EDGES.T.copy(),)),
            Case(cls(17, 0), (f32(17),)),
            Case(cls(9, 1), (f32(2, 1000),)),
            Case(cls(60, 1), (f32(3, 70),)),
            Case(cls(133, 1, False), (f32(2, 133),)),
            Case(cls(30, 1), (np.random.default_rng(0).integers(0, 9, (2, 40)),)),
            Case(cls(40, 1, False), (TensorType(DType.I32, (2, 300)),)),
            Case(cls(3, 2), (f64(2, 1, 19),)),
            Case(cls(3, 1, False), (np.array([[2**40, -(2**40), 5, np.iinfo(np.int64).min]]),)),
            Case(cls(2, 1), (i64(3, 5),)),
            *(Case(cls(3, 1, largest), (TensorType(d, (2, 9)),)) for d in _NARROW for largest in (True, False)),
            Case(cls(3, 1), (np.array([[1, 2**63 + 5, 0, 2**64 - 1, 7]], np.uint64),)),
            Case(cls(3, 1, False), (np.array([[2**63 + 5, 9, 2**64 - 1, 0], [5, 4, 3, 2]], np.uint64),)),
            Case(cls(2, 0), (np.array([[1, 2**31 + 5], [2**32 - 1, 7], [3, 8]], np.uint32),)),
            Case(cls(0, 1), (f32(2, 3),)),
            Case(cls(2, 1), (f32(0, 3),)),
        )
