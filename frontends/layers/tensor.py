"""Symbolic tensors: what layers take and give while a network is written down.

A `Tensor` is a graph `Value` with Python's operators. Nodes come into being as layers are called; `Graph.of(inputs,
outputs)` then collects them. Tensors that grow from one `Input` share a `Scope`, which hands out names and the seed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import EllipsisType
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from glulam.compiler import ops
from glulam.compiler.errors import GraphError, ShapeError
from glulam.compiler.graph.graph import Node, Value
from glulam.compiler.graph.op import Op
from glulam.compiler.graph.types import Array, DType, TensorType
from glulam.frontends.compositions import Apply, sliced
from glulam.frontends.layers.arguments import numbers

Operand: TypeAlias = "Tensor | float | Array"
Index = int | slice | EllipsisType


class Scope:
    """Names already given, the path of the block being called, and what is drawn there.

    Layers on two inputs have scopes of their own, and maybe the same path; so draws depend on the input's name too.
    `source` is that name, or empty for the one that inputs have by default. `layer` is the class of the layer being
    called, by which errors of its nodes name it; empty in blocks and outside of modules.
    """

    def __init__(self, seed: int = 0, source: str = "") -> None:
        self.seed = seed
        self.source = source
        self.path = ""
        self.layer = ""
        self._nodes: dict[str, int] = {}
        self._paths: dict[str, int] = {}

    def unique(self, wanted: str) -> str:
        """A name for a value or node: `wanted`, or `wanted_1`, `wanted_2`, ... if it was given before."""
        return _untaken(wanted, self._nodes)

    def unique_path(self, wanted: str) -> str:
        """The same for the path of a module, which its node may have as its name."""
        return _untaken(wanted, self._paths)

    def drawn(self, path: str) -> str:
        """By what name something at this path is drawn, besides the seed."""
        return f"{self.source}/{path}" if self.source else path

    def inner(self, name: str) -> str:
        """The name inside the block being called."""
        return f"{self.path}.{name}" if self.path else name

    @contextmanager
    def inside(self, path: str, layer: str = "") -> Iterator[None]:
        outer, self.path, self.layer = (self.path, self.layer), path, layer
        try:
            yield
        finally:
            self.path, self.layer = outer


def _untaken(wanted: str, taken: dict[str, int]) -> str:
    name = wanted
    while name in taken:
        taken[wanted] += 1
        name = f"{wanted}_{taken[wanted]}"
    taken[name] = 0
    return name


class Tensor(Value):
    """The symbolic result of a layer: a graph value with operators `+ - * / ** @ -x` and slicing.

    The other operand may be a tensor, a number, or an array (which becomes a constant); shapes broadcast as numpy's.
    """

    __slots__ = ("scope",)
    __array_ufunc__ = None  # numpy arrays on the left leave the operation to us

    def __init__(self, name: str, type: TensorType, scope: Scope) -> None:
        super().__init__(name, type)
        self.scope = scope

    @property
    def dtype(self) -> DType:
        return self.type.dtype

    @property
    def rank(self) -> int:
        return self.type.rank

    def read(self) -> Tensor:
        """What a layer gets that is called on this tensor."""
        return self

    def __add__(self, other: Operand) -> Tensor:
        return _binary(ops.Add(), self, other)

    def __radd__(self, other: Operand) -> Tensor:
        return _binary(ops.Add(), other, self)

    def __sub__(self, other: Operand) -> Tensor:
        return _binary(ops.Sub(), self, other)

    def __rsub__(self, other: Operand) -> Tensor:
        return _binary(ops.Sub(), other, self)

    def __mul__(self, other: Operand) -> Tensor:
        return _binary(ops.Mul(), self, other)

    def __rmul__(self, other: Operand) -> Tensor:
        return _binary(ops.Mul(), other, self)

    def __truediv__(self, other: Operand) -> Tensor:
        return _binary(ops.Div(), self, other)

    def __rtruediv__(self, other: Operand) -> Tensor:
        return _binary(ops.Div(), other, self)

    def __pow__(self, other: Operand) -> Tensor:
        return _binary(ops.Pow(), self, other)

    def __rpow__(self, other: Operand) -> Tensor:
        return _binary(ops.Pow(), other, self)

    def __matmul__(self, other: Operand) -> Tensor:
        return _binary(ops.MatMul(), self, other)

    def __rmatmul__(self, other: Operand) -> Tensor:
        return _binary(ops.MatMul(), other, self)

    def __neg__(self) -> Tensor:
        return apply(ops.Neg(), self.read())

    def __getitem__(self, index: Index | tuple[Index, ...]) -> Tensor:
        """Basic slicing: integers, slices with any step, and one `...`, as numpy's."""
        return _subscript(self.read(), index if isinstance(index, tuple) else (index,))

    def __iter__(self) -> Iterator[Tensor]:
        raise TypeError("a symbolic tensor cannot be iterated; slice it, or use layers.Split")


class Parameter(Value):
    """A constant that a state dict names and may replace; `learned` is False for running statistics."""

    __slots__ = ("learned",)

    data: Array

    def __init__(self, name: str, data: Array, *, learned: bool = True) -> None:
        super().__init__(name, TensorType.of(data), data=data)
        self.learned = learned


def apply_all(op: Op, *inputs: Value | None, name: str | None = None, scope: Scope | None = None) -> tuple[Tensor, ...]:
    """The outputs of a new node. `name` is taken as it is (made unique); without one the op and the block give it.

    The scope is that of the first tensor; over constants alone it must be given.

    Raises ShapeError, with the node's name, if the inputs do not fit.
    """
    scope = scope or next(value.scope for value in inputs if isinstance(value, Tensor))
    label = scope.unique(name or scope.inner(op.name))
    try:
        types = op.infer(*(None if value is None else value.type for value in inputs))
    except ShapeError as error:
        shown = f"{scope.layer} {label!r}" if scope.layer else label
        raise ShapeError(f"{shown}: {error}") from error
    names = [label] if len(types) == 1 else [scope.unique(f"{label}.{i}") for i in range(len(types))]
    outputs = [Tensor(each, type, scope) for each, type in zip(names, types, strict=True)]
    Node(op, inputs, outputs, label)
    return tuple(outputs)


def apply(op: Op, *inputs: Value | None, name: str | None = None, scope: Scope | None = None) -> Tensor:
    """`apply_all` for an op with one output."""
    (output,) = apply_all(op, *inputs, name=name, scope=scope)
    return output


def parts(path: str) -> Apply[Tensor]:
    """`apply` for a composition whose nodes are named by their part of it below a path, the last one by the path."""

    def made(op: Op, *inputs: Value | None, part: str = "") -> Tensor:
        return apply(op, *inputs, name=f"{path}.{part}" if part else path)

    return made


def literal(data: npt.ArrayLike, like: Tensor, name: str = "const") -> Value:
    """A constant of the tensor's dtype that is no parameter.

    Raises ShapeError unless `data` is a number or an array of numbers, which an integer or boolean dtype must hold as
    they are.
    """
    given = numbers(data, f"{like.name!r} with {type(data).__name__}")
    with np.errstate(all="ignore"):
        array = given.astype(like.dtype.numpy)
    if not like.dtype.is_float and not np.array_equal(array, given):
        shown = str(given) if given.size == 1 else f"an array of {given.dtype}"
        raise ShapeError(
            f"{like.name!r} is {like.type}, and {shown} is no constant of this type; make the input a float"
        )
    return Value(like.scope.unique(like.scope.inner(name)), TensorType.of(array), data=array)


def reshape(x: Tensor, shape: Sequence[int], name: str | None = None) -> Tensor:
    """The elements of x in order under another shape; x itself if the shape is the same."""
    wanted = tuple(int(extent) for extent in shape)
    return x if wanted == x.shape else apply(ops.Reshape(wanted), x, name=name)


def slice_axis(x: Tensor, axis: int, start: int, size: int, name: str | None = None) -> Tensor:
    """Elements start ... start + size - 1 along one axis."""
    starts = tuple(start if a == axis else 0 for a in range(x.rank))
    sizes = tuple(size if a == axis else extent for a, extent in enumerate(x.shape))
    return apply(ops.Slice(starts, (1,) * x.rank, sizes), x, name=name)


def _binary(op: Op, left: Operand, right: Operand) -> Tensor:
    known = left if isinstance(left, Tensor) else right
    assert isinstance(known, Tensor)
    operands = [side.read() if isinstance(side, Tensor) else literal(side, known.read()) for side in (left, right)]
    return apply(op, *operands)


def _subscript(x: Tensor, index: tuple[Index, ...]) -> Tensor:
    gaps = [place for place, entry in enumerate(index) if entry is ...]
    if len(gaps) > 1:
        raise ShapeError(f"{x.name}: one `...` at most in a subscript")
    given = len(index) - len(gaps)
    if given > x.rank:
        raise ShapeError(f"{x.name}: {given} subscripts for a tensor of rank {x.rank}")
    at = gaps[0] if gaps else len(index)
    rest = (slice(None),) * (x.rank - given)
    full = (*index[:at], *rest, *index[at + 1 :])
    ranges, kept = [], []
    for axis, (entry, extent) in enumerate(zip(full, x.shape, strict=True)):
        if isinstance(entry, slice):
            span = _span(x, entry, extent)
            kept.append(len(span))
        elif isinstance(entry, int | np.integer) and not isinstance(entry, bool):
            if not -extent <= entry < extent:
                raise ShapeError(f"{x.name}: index {entry} is outside axis {axis} of extent {extent}")
            span = range(entry % extent, entry % extent + 1)
        else:
            raise ShapeError(f"{x.name}: subscript {entry!r}; integers, slices and `...` are possible")
        ranges.append(span)
    return reshape(sliced(x, ranges, parts(x.scope.inner(ops.Slice.name))), kept)


def _span(x: Tensor, part: slice, extent: int) -> range:
    try:
        return range(*part.indices(extent))
    except (TypeError, ValueError) as error:
        raise ShapeError(f"{x.name}: subscript {part!r}: {error}; bounds are integers, and a step is not 0") from None


def require_rank(x: Tensor, rank: int, layer: str, axes: str = "") -> None:
    """Raise ShapeError unless x has `rank` axes: batch, channels and spatial ones, or what `axes` says."""
    if x.rank != rank:
        axes = axes or f"[N, C{', spatial' * (rank - 2)}]"
        raise ShapeError(f"{layer} takes {axes}, rank {rank}, but {x.name!r} is {x.type}")


def normal_axis(axis: int, rank: int, layer: str) -> int:
    """The axis counted from the front. Raises ShapeError if there is no such axis."""
    if not -rank <= axis < rank:
        raise ShapeError(f"{layer}: axis {axis} of a tensor of rank {rank}; it must be in [{-rank}, {rank - 1}]")
    return axis % rank


def same_scope(tensors: Sequence[Tensor]) -> Scope:
    """The scope in which a layer over these tensors works."""
    if not tensors:
        raise GraphError("a layer was called without a tensor; call it on an Input or on another layer's result")
    return tensors[0].scope
