"""glulam as an ONNX backend (`onnx.backend.base`): what ONNX's own test suite, and tools written for it, can run.

    import glulam.frontends.onnx.backend as backend
    (y,) = backend.run_model(model, [x])

    suite = onnx.backend.test.BackendTest(backend, __name__)

Shapes are fixed by the arrays of a run, so a model is compiled when it meets arrays of new shapes. Where an operator
has to know a value that the model takes as an input (the shape of a Reshape), the code holds for this value, and
another value is compiled anew.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, checker, helper
from onnx.backend.base import Backend, BackendRep
from onnx.backend.test.runner import BackendIsNotSupposedToImplementIt

from glulam.compiler.driver import compile_graph
from glulam.compiler.errors import UnsupportedError
from glulam.compiler.graph.graph import Graph
from glulam.compiler.graph.types import Array
from glulam.compiler.options import Options
from glulam.frontends.onnx.importer import specialise
from glulam.frontends.onnx.proto import is_bfloat16
from glulam.frontends.onnx.refused import refusals
from glulam.runtime.errors import InputError
from glulam.runtime.model import Model

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["GlulamBackend", "Prepared", "is_compatible", "prepare", "run_model", "run_node", "supports_device"]


_BFLOAT16 = helper.tensor_dtype_to_np_dtype(TensorProto.BFLOAT16)


@dataclass(frozen=True)
class _Variant:
    """Code for inputs of some shapes and, where `built_in` says so, of some values."""

    shapes: tuple[tuple[int, ...], ...]
    built_in: Mapping[str, Array]
    model: Model
    graph: Graph

    def serves(self, feeds: Mapping[str, Array]) -> bool:
        return tuple(array.shape for array in feeds.values()) == self.shapes and all(
            np.array_equal(feeds[name], array) for name, array in self.built_in.items()
        )


class Prepared(BackendRep):
    """A model, compiled as often as its inputs' shapes ask for."""

    def __init__(self, model: ModelProto, options: Options) -> None:
        stored = {tensor.name for tensor in model.graph.initializer}
        self._proto = model
        self._options = options
        self._names = [value.name for value in model.graph.input if value.name not in stored]
        self._outputs = [value.name for value in model.graph.output]
        self._short = {v.name: _BFLOAT16 for v in model.graph.output if is_bfloat16(v.type.tensor_type.elem_type)}
        self.variants: list[_Variant] = []

    def run(self, inputs: Any, **_: Any) -> tuple[Array, ...]:
        """The outputs in the model's order.

        inputs: arrays in the order of the model's inputs (those with a stored value left out), or by name, or the
        only one. Raises InputError if they do not fit, UnsupportedError for what glulam does not offer.
        """
        feeds = self._feeds(inputs)
        results = self.variant(feeds).model.run(feeds)
        return tuple(results[name].astype(self._short.get(name, results[name].dtype)) for name in self._outputs)

    def variant(self, feeds: Mapping[str, Array]) -> _Variant:
        """The compiled code that serves these inputs."""
        for known in self.variants:
            if known.serves(feeds):
                return known
        graph, names = specialise(self._proto, feeds)
        built_in = {name: feeds[name].copy() for name in sorted(names)}
        shapes = tuple(array.shape for array in feeds.values())
        self.variants.append(_Variant(shapes, built_in, compile_graph(graph, self._options), graph))
        return self.variants[-1]

    def _feeds(self, inputs: Any) -> dict[str, Array]:
        if isinstance(inputs, np.ndarray | np.generic):
            inputs = [inputs]
        if not isinstance(inputs, Mapping):
            inputs = list(inputs)
            if len(inputs) != len(self._names):
                raise InputError(f"{len(inputs)} inputs; the model takes {len(self._names)}: {self._names}")
            inputs = dict(zip(self._names, inputs, strict=True))
        if set(inputs) != set(self._names):
            raise InputError(f"inputs {sorted(inputs)}; the model takes {self._names}")
        for name, value in inputs.items():
            if not isinstance(value, np.ndarray | np.generic):
                raise UnsupportedError(f"input {name!r} is a {type(value).__name__}, not an array")
        arrays = {name: np.asarray(inputs[name]) for name in self._names}
        return {k: array.astype(np.float32) if array.dtype == _BFLOAT16 else array for k, array in arrays.items()}


class GlulamBackend(Backend):
    """The backend; its methods stand in this module as functions too, as ONNX's tools expect it."""

    @classmethod
    def is_compatible(cls, model: ModelProto, device: str = "CPU", **_: Any) -> bool:
        """Whether nothing in the model is refused on purpose (`frontends.onnx.refused` lists it all)."""
        return cls.supports_device(device) and not refusals(model)

    @classmethod
    def prepare(cls, model: ModelProto, device: str = "CPU", **settings: Any) -> Prepared:
        """The model, ready to run; `settings` are fields of `Options`.

        Raises BackendIsNotSupposedToImplementIt for what is refused on purpose, ValidationError for a model that
        breaks ONNX's rules, UnsupportedError for another device.
        """
        if not cls.supports_device(device):
            raise UnsupportedError(f"device {device!r}: glulam compiles for the CPU")
        if reasons := refusals(model):
            raise BackendIsNotSupposedToImplementIt("; ".join(reasons))
        checker.check_model(model)
        return Prepared(model, Options(**settings))

    @classmethod
    def run_model(cls, model: ModelProto, inputs: Any, device: str = "CPU", **settings: Any) -> tuple[Array, ...]:
        """`prepare` and one run."""
        return cls.prepare(model, device, **settings).run(inputs)

    @classmethod
    def run_node(  # type: ignore[override]  # settings are no dicts
        cls,
        node: NodeProto,
        inputs: Any,
        device: str = "CPU",
        outputs_info: Sequence[tuple[Any, tuple[int, ...]]] | None = None,
        *,
        opset_version: int | None = None,
        **settings: Any,
    ) -> tuple[Array, ...]:
        """One node on arrays, in the order of its inputs that are not left out.

        outputs_info: (dtype, shape) of each output, of which only the dtype is used; without it ONNX infers them.
        """
        names = [name for name in node.input if name]
        arrays = [np.asarray(x) for x in ([inputs] if isinstance(inputs, np.ndarray) else inputs)]
        if len(arrays) != len(names):
            raise InputError(f"{len(arrays)} inputs; the node {node.op_type} takes {len(names)}: {names}")
        entries = [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
            for name, array in zip(names, arrays, strict=True)
        ]
        outputs = list(_outputs(node, outputs_info))
        opsets = [helper.make_opsetid(node.domain, opset_version)] if opset_version else None
        model = helper.make_model(helper.make_graph([node], "node", entries, outputs), opset_imports=opsets)
        return cls.run_model(model, dict(zip(names, arrays, strict=True)), device, **settings)

    @classmethod
    def supports_device(cls, device: str) -> bool:
        return device.split(":")[0].upper() == "CPU"


def _outputs(node: NodeProto, info: Sequence[tuple[Any, tuple[int, ...]]] | None) -> Iterator[ValueInfoProto]:
    for index, name in enumerate(node.output):
        if name:
            element = helper.np_dtype_to_tensor_dtype(np.dtype(info[index][0])) if info else TensorProto.UNDEFINED
            yield helper.make_tensor_value_info(name, element, None)


is_compatible = GlulamBackend.is_compatible
prepare = GlulamBackend.prepare
run_model = GlulamBackend.run_model
run_node = GlulamBackend.run_node
supports_device = GlulamBackend.supports_device
