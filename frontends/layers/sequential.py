"""Sequential: modules called one after the other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from os import PathLike
from typing import Any

from glulam.compiler.errors import GraphError, ShapeError
from glulam.compiler.graph.graph import Graph
from glulam.frontends.layers.inputs import Input
from glulam.frontends.layers.module import Block, Module
from glulam.frontends.layers.summary import Summary, summary
from glulam.frontends.layers.tensor import Parameter, Tensor


class Sequential(Block):
    """A chain of modules, itself a module; parts are named "0", "1", ..., or by the keys of a mapping, or by `name=`.

    With an `Input` in front it is a whole network, which `glulam.compile` and `reference` take as it is; the Input
    is not counted in the names, as PyTorch has none. Without one it is a block to be called.
    """

    def __init__(
        self,
        layers: Sequence[Input | Module] | Mapping[str, Input | Module] = (),
        *more: Module,
        name: str | None = None,
    ) -> None:
        super().__init__(name)
        if isinstance(layers, Mapping):
            entries = list(layers.items())
        else:
            flat = [*layers, *more] if isinstance(layers, Sequence) else [layers, *more]
            shift = 1 if flat and isinstance(flat[0], Input) else 0
            entries = [(str(i - shift), layer) for i, layer in enumerate(flat)]
        self._input: Input | None = None
        self._graph: Graph | None = None
        self._chain: list[Module] = []
        for index, (key, layer) in enumerate(entries):
            if isinstance(layer, Input) and index == 0:
                self._input = layer
            elif isinstance(layer, Module):
                self._chain.append(self.add(key, layer))
            else:
                where = "an Input stands in front only" if isinstance(layer, Input) else "a layer object is needed"
                raise GraphError(f"Sequential: entry {index} is {layer!r}; {where}")

    def __len__(self) -> int:
        return len(self._chain)

    def __iter__(self) -> Iterator[Module]:
        return iter(self._chain)

    def __getitem__(self, index: int) -> Module:
        return self._chain[index]

    def forward(self, *inputs: Any) -> Any:
        result: Any = inputs if len(inputs) != 1 else inputs[0]
        before: Module | None = None
        for module in self._chain:
            if before is not None and isinstance(result, tuple) and not module.takes(len(result)):
                raise _misfit(before, module, result)
            result = module(result)
            before = module
        return result

    def graph(self, *inputs: Input, name: str | None = None) -> Graph:
        """The network as a graph, its nodes made once. Without an Input in front, give the inputs here.

        Raises GraphError if there are inputs in neither place, or in both.
        """
        if inputs:
            if self._input is not None:
                raise GraphError("Sequential.graph(): the network has an Input of its own")
            return super().graph(*inputs, name=name)
        if self._input is None:
            raise GraphError("Sequential: there is no Input in front; put one there, or give it to graph()")
        if self._graph is None:
            self._graph = super().graph(self._input, name=name)
        elif self._graph.name != self._title(name):
            self._graph = Graph.of(self._graph.inputs, self._graph.outputs, self._title(name))
        return self._graph

    def summary(self) -> Summary:
        """The table of layers, output shapes, parameters and multiply-accumulates; print it or read its rows."""
        return summary(self.graph())

    def _built_parameters(self) -> dict[str, Parameter]:
        if self._input is not None:
            self.graph()
        return self.parameters()


def _misfit(before: Module, module: Module, results: Sequence[Tensor]) -> ShapeError:
    scope = results[0].scope
    return ShapeError(
        f"{type(module).__name__} {module.path(scope)!r} does not take the {len(results)} results of "
        f"{type(before).__name__} {before.path(scope)!r} before it; write a Block whose forward says which goes where"
    )


def as_graph(model: Graph | Sequential) -> Graph:
    """The graph of what `compile`, `reference` and `to_onnx` take. Raises GraphError for anything else."""
    if isinstance(model, Graph):
        return model
    if isinstance(model, Sequential):
        return model.graph()
    remedy = "; from_onnx makes one of an ONNX file" if isinstance(model, str | PathLike) else ""
    raise GraphError(f"a Graph or a Sequential with an Input in front is needed, not {type(model).__name__}{remedy}")
