"""External: a function from elsewhere, called by the native program."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from glulam.compiler.errors import UnsupportedError
from glulam.compiler.graph.op import Op, Trait
from glulam.compiler.graph.types import Array, DType, TensorType
from glulam.compiler.kernels.context import Context, Lowered
from glulam.runtime.foreign import Foreign


@dataclass(frozen=True)
class External(Op):
    """Outputs of declared types from a C function or a Python callable; `runtime.foreign` says how it is called.

    The text of a graph has the name alone, so a graph that was read from text has no `function` and cannot be compiled.
    """

    symbol: str
    outputs: tuple[TensorType, ...]
    function: Foreign | None = field(default=None)

    name = "external"
    traits = frozenset({Trait.RANDOM})  # nobody knows whether it gives the same values twice

    def attributes(self) -> dict[str, Any]:
        return {"symbol": self.symbol, "outputs": self.outputs}

    def bound(self) -> Foreign:
        """The function. Raises UnsupportedError if the graph came from text."""
        if self.function is None:
            raise UnsupportedError(f"external function {self.symbol!r} is not here; build the graph where it is")
        return self.function

    def infer(self, *inputs: TensorType | None) -> tuple[TensorType, ...]:
        if any(type is None for type in inputs):
            raise self.fail("no input may be left out")
        if self.function is not None:
            declared = [TensorType(DType.of(spec.numpy), spec.shape) for spec in self.function.inputs]
            if list(inputs) != declared:
                raise self.fail(f"{self.symbol!r} takes {list(map(str, declared))}, not {list(map(str, inputs))}")
        return self.outputs

    def reference(self, *inputs: Array | None) -> tuple[Array, ...]:
        arrays = [np.ascontiguousarray(array) for array in inputs if array is not None]
        results = tuple(np.zeros(type.shape, type.dtype.numpy) for type in self.outputs)
        self.bound().call(arrays, results)
        return results

    def lower(self, ctx: Context) -> Lowered:
        """An empty kernel with the operands as its parameters: the function does the work."""
        function = self.bound()
        for i, operand in enumerate(ctx.inputs):
            assert operand is not None
            if operand.data is None:
                ctx.memory("input", i, operand.shape)
            else:
                ctx.constant(operand.data)
        for i, operand in enumerate(ctx.outputs):
            ctx.memory("output", i, operand.shape)
        with ctx.builder.section():
            pass
        lowered = ctx.finished()
        return Lowered(lowered.kernel, lowered.args, foreign=function)
