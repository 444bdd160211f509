"""Modules: layers (one operator and its parameters) and blocks (modules that call other modules)."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from glulam.compiler.errors import ArgumentError, GraphError, ShapeError
from glulam.compiler.graph.graph import Graph
from glulam.compiler.graph.types import Array, DType, Shape
from glulam.frontends.layers import state
from glulam.frontends.layers.initial import Initializer
from glulam.frontends.layers.inputs import Input
from glulam.frontends.layers.tensor import Parameter, Scope, Tensor, same_scope


class Module:
    """Base of everything that can be called on tensors.

    A module has a path: its parent's path and its key there ("layer1.0.conv1"), or its own `name`. The path names its
    nodes and parameters and seeds what is drawn for them. It is settled by the first call, after which the module
    may be called again: the parameters are shared.
    """

    inferred: ClassVar[str] = ""
    """An argument that PyTorch's module of this name has and this one leaves out, for the input says it."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Raises ArgumentError for the argument that is left out, if the class's own `__init__` is not the user's."""
        if cls.inferred in kwargs and cls.__init__.__module__.startswith(__package__):
            raise ArgumentError(f"{cls.__name__} takes no {cls.inferred}: it is inferred from the input; leave it out")
        return super().__new__(cls)

    def __init__(self, name: str | None = None) -> None:
        if name is not None and not isinstance(name, str):
            raise ShapeError(f"{type(self).__name__}: name is {name!r}; it must be a text")
        self.name = name
        self._parent: Module | None = None
        self._key = ""
        self._path: str | None = None
        self._children: dict[str, Module] = {}
        self._parameters: dict[str, Parameter] = {}

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the module computes from tensors; subclasses define it, with the inputs that they take."""
        raise GraphError(f"{type(self).__name__} has no forward; define `def forward(self, x)`, which gives the result")

    def __call__(self, *inputs: Any) -> Any:
        """Apply the module to tensors, given one by one or as one list."""
        tensors = [tensor.read() for tensor in _tensors(self, inputs)]
        scope = same_scope(tensors)
        if not self.takes(len(tensors)):
            wanted = ", ".join(map(str, inspect.signature(self.forward).parameters.values()))
            raise ShapeError(
                f"{type(self).__name__} {self.path(scope)!r} was called on {len(tensors)} tensors; it takes ({wanted})"
            )
        with scope.inside(self.path(scope), type(self).__name__ if isinstance(self, Layer) else ""):
            return self.forward(*tensors)

    def takes(self, count: int) -> bool:
        """Whether the module can be called on so many tensors."""
        try:
            inspect.signature(self.forward).bind(*range(count))
        except TypeError:
            return False
        return True

    def path(self, scope: Scope) -> str:
        """The dotted path, settled now if it was not before."""
        if self._path is None:
            if self._parent is not None:
                outer = self._parent.path(scope)
                self._path = f"{outer}.{self._key}" if outer else self._key
            else:
                self._path = scope.unique_path(scope.inner(self.name or _snake(type(self).__name__)))
        return self._path

    def add(self, key: str, child: Module) -> Module:
        """Make `child` a part of this module under a name, or under the child's own name if it has one.

        Raises GraphError if another part has that name.
        """
        key = child.name or key
        if key in self._children:
            raise GraphError(f"{type(self).__name__} has two parts named {key!r}; parts need names of their own")
        self._children[key] = child
        if child._parent is None:
            child._parent, child._key = self, key
        return child

    def parameters(self) -> dict[str, Parameter]:
        """All parameters by their path relative to this module, in the order of construction.

        They exist once the module has been called, for only then are the channel counts known.
        """
        return dict(self._named_parameters(""))

    def _named_parameters(self, prefix: str) -> Iterator[tuple[str, Parameter]]:
        for key, parameter in self._parameters.items():
            yield prefix + key, parameter
        for key, child in self._children.items():
            yield from child._named_parameters(f"{prefix}{key}.")

    def state_dict(self) -> dict[str, Array]:
        """A copy of every parameter and running statistic under PyTorch's name."""
        return {name: parameter.data.copy() for name, parameter in self._built_parameters().items()}

    def load_state_dict(
        self, source: Mapping[str, npt.ArrayLike] | str | Path, strict: bool = True
    ) -> state.IncompatibleKeys:
        """Fill the module from a mapping, an .npz or a .safetensors file, by PyTorch's parameter names.

        With `strict`, names and parameters must match one to one. Raises ShapeError (listing every misfit, and
        leaving the module as it was) or ModelFileError for a damaged file.
        """
        return state.fill(self._built_parameters(), state.read(source), strict=strict)

    def _built_parameters(self) -> dict[str, Parameter]:
        return self.parameters()

    def parameter(
        self,
        key: str,
        shape: Shape,
        given: npt.ArrayLike | None,
        initializer: Initializer,
        like: Tensor,
        *,
        learned: bool = True,
        dtype: DType | None = None,
    ) -> Parameter:
        """The parameter `key`, made at the first call: a checked copy of `given`, or drawn.

        Its dtype is that of `like` unless one is given. Raises ShapeError if that is no float, if `given`
        has another shape, or if an earlier call made it with another one.
        """
        path = self.path(like.scope)
        name = f"{path}.{key}" if path else key
        known = self._parameters.get(key)
        if known is None:
            dtype = dtype or like.dtype
            if not dtype.is_float:
                raise ShapeError(f"{type(self).__name__} {path!r}: {key} is a float, but {like.name!r} is {like.type}")
            if given is None:
                data = initializer(shape, like.scope.seed, like.scope.drawn(name)).astype(dtype.numpy, copy=False)
            else:
                data = state.checked_copy(given, shape, dtype, f"{type(self).__name__} {path!r}: {key}")
            known = self._parameters[key] = Parameter(name, data, learned=learned)
        elif known.shape != shape:
            raise ShapeError(
                f"{type(self).__name__} {path!r} was first called with {key} of shape {known.shape}, and now needs "
                f"{shape}; use a second layer for an input of another shape"
            )
        return known

    def check_names(self, given: Iterable[str]) -> None:
        """Raises ShapeError if weights were given for parameters that the calls so far have not made."""
        if unknown := sorted(set(given) - set(self._parameters)):
            raise ShapeError(
                f"{type(self).__name__} {self._path!r} has no parameter {', '.join(map(repr, unknown))}; "
                f"it has {list(self._parameters)}"
            )


class Layer(Module):
    """A module without parts: its node carries the layer's own path as its name."""


class Block(Module):
    """A module made of others. Modules assigned to attributes in `__init__` become parts under the attribute's name.

    >>> class Residual(Block):
    ...     def __init__(self, channels):
    ...         super().__init__()
    ...         self.conv = Conv2d(channels, 3, padding=1)
    ...     def forward(self, x):
    ...         return x + self.conv(x)
    """

    def __setattr__(self, key: str, value: Any) -> None:
        if not key.startswith("_"):
            if isinstance(value, Module):
                self.add(key, value)
            elif isinstance(value, list | tuple) and value and all(isinstance(v, Module) for v in value):
                for index, child in enumerate(value):
                    self.add(f"{key}.{index}", child)
        super().__setattr__(key, value)

    def graph(self, *inputs: Input, name: str | None = None) -> Graph:
        """The graph of this block alone, over the given inputs; parameters are named without a prefix.

        One result is the output "output"; several are "output0", "output1", ...; a dict names them.
        Raises GraphError unless it is given Inputs, one at least.
        """
        if not inputs or not all(isinstance(x, Input) for x in inputs):
            raise GraphError(f"{type(self).__name__}.graph() takes the Inputs of the network")
        if self._parent is None and self._path is None:
            self._path = ""
        outputs = self(*inputs)
        if isinstance(outputs, Tensor):
            outputs = {"output": outputs}
        elif isinstance(outputs, list | tuple):
            outputs = {f"output{i}": tensor for i, tensor in enumerate(outputs)}
        return Graph.of(list(inputs), outputs, self._title(name))

    def _title(self, name: str | None) -> str:
        """What a graph of this block is called: by the name if one is given, by the block's own, or by its class."""
        return name or self.name or _snake(type(self).__name__)


def _tensors(module: Module, inputs: Iterable[Any]) -> list[Tensor]:
    flat = [x for entry in inputs for x in (entry if isinstance(entry, list | tuple) else (entry,))]
    for x in flat:
        if not isinstance(x, Tensor):
            hint = "run a compiled model on arrays" if isinstance(x, np.ndarray) else "call it on an Input or a result"
            raise GraphError(f"{type(module).__name__} was called on {type(x).__name__}, not on a tensor; {hint}")
    return flat


def _snake(name: str) -> str:
    """MaxPool2d -> max_pool2d, ReLU -> relu."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z][a-z])", "_", name).lower()
