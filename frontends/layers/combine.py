"""Layers over several tensors, and reductions over axes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import ClassVar

from glulam.compiler import ops
from glulam.compiler.errors import ShapeError
from glulam.compiler.graph.op import Op
from glulam.frontends.layers.arguments import dimensions, flag, integer
from glulam.frontends.layers.module import Layer
from glulam.frontends.layers.tensor import Tensor, apply, normal_axis


class _Combine(Layer):
    op: ClassVar[type[Op]]

    def forward(self, *xs: Tensor) -> Tensor:
        if len(xs) < 2:
            raise ShapeError(f"{type(self).__name__} takes two tensors or more, and was called on {len(xs)}")
        path = self.path(xs[0].scope)
        return reduce(lambda x, y: apply(self.op(), x, y, name=path), xs)


class Add(_Combine):
    """The sum of two or more tensors, with numpy's broadcasting."""

    op = ops.Add


class Sub(_Combine):
    """The first tensor less the others, with numpy's broadcasting."""

    op = ops.Sub


class Mul(_Combine):
    """The product of two or more tensors, with numpy's broadcasting."""

    op = ops.Mul


class Div(_Combine):
    """The first tensor divided by the others, with numpy's broadcasting."""

    op = ops.Div


class Concat(Layer):
    """Tensors joined along an axis, by default the channels; all other extents are equal."""

    def __init__(self, dim: int = 1, *, name: str | None = None) -> None:
        super().__init__(name)
        self.dim = integer(dim, "Concat: dim")

    def forward(self, *xs: Tensor) -> Tensor:
        axis = normal_axis(self.dim, xs[0].rank, "Concat")
        for x in xs[1:]:
            if x.rank != xs[0].rank or any(
                a != b for i, (a, b) in enumerate(zip(x.shape, xs[0].shape, strict=True)) if i != axis
            ):
                raise ShapeError(
                    f"Concat along axis {axis}: {x.name!r}: {x.type} does not fit {xs[0].name!r}: {xs[0].type}"
                )
        return apply(ops.Concat(axis), *xs, name=self.path(xs[0].scope))


class _Reduction(Layer):
    kind: ClassVar[str]

    def __init__(
        self, dim: int | Sequence[int] | None = None, keepdim: bool = False, *, name: str | None = None
    ) -> None:
        super().__init__(name)
        self.dims = None if dim is None else dimensions(dim, f"{type(self).__name__}: dim")
        self.keepdim = flag(keepdim, f"{type(self).__name__}: keepdim")

    def forward(self, x: Tensor) -> Tensor:
        dims = range(x.rank) if self.dims is None else self.dims
        axes = tuple(sorted({normal_axis(axis, x.rank, type(self).__name__) for axis in dims}))
        return apply(ops.Reduce(self.kind, axes, self.keepdim), x, name=self.path(x.scope))


class Mean(_Reduction):
    """The mean over the given axes, by default all of them, the batch included."""

    kind = "mean"


class Sum(_Reduction):
    """The sum over the given axes, by default all of them, the batch included."""

    kind = "sum"


class Max(_Reduction):
    """The maximum over the given axes, by default all of them, the batch included."""

    kind = "max"


class Min(_Reduction):
    """The minimum over the given axes, by default all of them, the batch included."""

    kind = "min"
