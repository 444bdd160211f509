"""Layers that choose elements, the best or those that an index tensor names; running sums; Einstein's summation."""

from __future__ import annotations

import numpy.typing as npt

from glulam.compiler import ops
from glulam.compiler.errors import ShapeError
from glulam.compiler.graph.types import DType
from glulam.frontends.einsum import einsum
from glulam.frontends.layers.arguments import choice, flag, integer
from glulam.frontends.layers.initial import uniform
from glulam.frontends.layers.module import Layer
from glulam.frontends.layers.tensor import Tensor, apply, apply_all, normal_axis


class ArgMax(Layer):
    """The index (int64) of the largest element along an axis, the first among equals."""

    kind = "max"

    def __init__(self, dim: int = 1, keepdim: bool = False, *, name: str | None = None) -> None:
        super().__init__(name)
        self.dim = integer(dim, f"{type(self).__name__}: dim")
        self.keepdim = flag(keepdim, f"{type(self).__name__}: keepdim")

    def forward(self, x: Tensor) -> Tensor:
        axis = normal_axis(self.dim, x.rank, type(self).__name__)
        return apply(ops.ArgReduce(self.kind, axis, self.keepdim), x, name=self.path(x.scope))


class ArgMin(ArgMax):
    """The index (int64) of the smallest element along an axis, the first among equals."""

    kind = "min"


class TopK(Layer):
    """The k largest (or smallest) elements along an axis in order, and their indices (int64)."""

    def __init__(self, k: int, dim: int = -1, largest: bool = True, *, name: str | None = None) -> None:
        super().__init__(name)
        self.k = integer(k, "TopK: k", low=0)
        self.dim = integer(dim, "TopK: dim")
        self.largest = flag(largest, "TopK: largest")

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        axis = normal_axis(self.dim, x.rank, "TopK")
        if self.k > x.shape[axis]:
            raise ShapeError(f"TopK: k is {self.k}, but axis {axis} of {x.name!r} has {x.shape[axis]} elements")
        return apply_all(ops.TopK(self.k, axis, self.largest), x, name=self.path(x.scope))


class CumSum(Layer):
    """Running sums along an axis; without the element itself if `exclusive`, from the end if `reverse`."""

    def __init__(
        self, dim: int = -1, exclusive: bool = False, reverse: bool = False, *, name: str | None = None
    ) -> None:
        super().__init__(name)
        self.dim = integer(dim, "CumSum: dim")
        self.exclusive = flag(exclusive, "CumSum: exclusive")
        self.reverse = flag(reverse, "CumSum: reverse")

    def forward(self, x: Tensor) -> Tensor:
        axis = normal_axis(self.dim, x.rank, "CumSum")
        return apply(ops.Cumulative("sum", axis, self.exclusive, self.reverse), x, name=self.path(x.scope))


class Gather(Layer):
    """torch.gather: called on (x, index), the element of x that each index names along an axis."""

    def __init__(self, dim: int, *, name: str | None = None) -> None:
        super().__init__(name)
        self.dim = integer(dim, "Gather: dim")

    def forward(self, x: Tensor, index: Tensor) -> Tensor:
        return apply(ops.GatherElements(normal_axis(self.dim, x.rank, "Gather")), x, index, name=self.path(x.scope))


class Embedding(Layer):
    """Rows of a table by their numbers: [...] of integers becomes [..., embedding_dim] of float32.

    weight: the table, [num_embeddings, embedding_dim]. A negative number counts from the end;
    one outside the table gives the nearest row.
    """

    def __init__(
        self, num_embeddings: int, embedding_dim: int, *, weight: npt.ArrayLike | None = None, name: str | None = None
    ) -> None:
        super().__init__(name)
        self.shape = (
            integer(num_embeddings, "Embedding: num_embeddings", low=1),
            integer(embedding_dim, "Embedding: embedding_dim", low=1),
        )
        self._given_weight = weight

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype.is_float:
            raise ShapeError(
                f"Embedding {self.path(x.scope)!r} takes integers, but {x.name!r} is {x.type}; make the input one of "
                'them: Input(..., dtype="int64")'
            )
        table = self.parameter("weight", self.shape, self._given_weight, uniform(-1.0, 1.0), x, dtype=DType.F32)
        return apply(ops.Gather(0), table, x, name=self.path(x.scope))


class Scatter(Layer):
    """torch.scatter: called on (x, index, source), x with the elements that the indices name along an axis replaced.

    reduction: "none", or "add", "mul", "max", "min" to combine old and new.
    """

    def __init__(self, dim: int, reduction: str = "none", *, name: str | None = None) -> None:
        super().__init__(name)
        self.dim = integer(dim, "Scatter: dim")
        self.reduction = choice(reduction, ("none", "add", "mul", "max", "min"), "Scatter: reduction")

    def forward(self, x: Tensor, index: Tensor, source: Tensor) -> Tensor:
        op = ops.ScatterElements(normal_axis(self.dim, x.rank, "Scatter"), self.reduction)
        return apply(op, x, index, source, name=self.path(x.scope))


class Einsum(Layer):
    """Einstein's summation over the tensors it is called on: Einsum("bij,bjk->bik")(x, y)."""

    def __init__(self, equation: str, *, name: str | None = None) -> None:
        super().__init__(name)
        if not isinstance(equation, str):
            raise ShapeError(f"Einsum: equation is {equation!r}; it must be a text such as 'bij,bjk->bik'")
        self.equation = equation

    def forward(self, *operands: Tensor) -> Tensor:
        self.path(operands[0].scope)
        return einsum(self.equation, operands, apply)
