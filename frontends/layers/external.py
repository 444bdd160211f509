"""Layers from elsewhere: a C function, or a Python callable as a last resort, with declared types of its results.

    y = gl.external(scale_rows.address, x, outputs=x.shape, name="scale_rows")      # numba.cfunc, ctypes, cffi
    y, n = gl.external(python_function, x, outputs=[(1, 8), ((1,), "int64")])       # called on numpy arrays

`runtime.foreign` gives the C signature and its rules. Such a layer is a kernel of its own, between others that are
fused; a model with one cannot be saved.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np

from glulam.compiler import ops
from glulam.compiler.errors import GraphError, ShapeError
from glulam.compiler.graph.types import DType, TensorType
from glulam.frontends.layers.module import Layer
from glulam.frontends.layers.tensor import Tensor, apply_all
from glulam.runtime.foreign import Foreign
from glulam.runtime.manifest import TensorSpec

OUTPUT_FORMS = 'a shape (of the first input\'s type), a pair (shape, "float32"), or a TensorType; or a list of these'


class External(Layer):
    """A function from elsewhere as a layer.

    function: the address of `void f(void **inputs, void **outputs, void *user)` as an integer, a ctypes function, a
    numba cfunc, a cffi function pointer; or a Python callable, which gets one read-only array an input and returns
    one array an output.
    outputs: what it gives: a shape (of the first input's type), a pair (shape, "float32"), or a TensorType; or a list
    of these, for a tuple of results.
    user: a pointer that the C function gets as its third argument, as an integer.
    """

    def __init__(
        self, function: Callable[..., Any] | int, outputs: Any, *, user: int = 0, name: str | None = None
    ) -> None:
        super().__init__(name)
        self.function = function
        self.outputs = outputs
        self.user = user
        self.symbol = name or str(getattr(function, "__name__", "external"))

    def forward(self, *xs: Tensor) -> Any:
        """The declared results, one tensor or a tuple; a list of outputs gives a tuple."""
        several = isinstance(self.outputs, list)
        entries = self.outputs if several else [self.outputs]
        types = tuple(_output_type(entry, xs[0].dtype, self.symbol) for entry in entries)
        address, keep = _address(self.function, self.symbol)
        foreign = Foreign(
            self.symbol,
            tuple(_spec(x.type, x.name) for x in xs),
            tuple(_spec(type, f"output {i}") for i, type in enumerate(types)),
            address,
            self.user,
            None if address else self.function,  # type: ignore[arg-type]
            keep,
        )
        results = apply_all(ops.External(self.symbol, types, foreign), *xs, name=self.path(xs[0].scope))
        return results if several else results[0]


def external(
    function: Callable[..., Any] | int, *inputs: Tensor, outputs: Any, user: int = 0, name: str | None = None
) -> Any:
    """`External(function, outputs)` called on the inputs; its name is the function's if none is given."""
    own = str(getattr(function, "__name__", ""))
    return External(function, outputs, user=user, name=name or (own if own.isidentifier() else None))(*inputs)


def _spec(type: TensorType, name: str) -> TensorSpec:
    return TensorSpec(name, str(type.dtype.numpy), type.shape)


def _output_type(entry: Any, dtype: DType, symbol: str) -> TensorType:
    match entry:
        case TensorType():
            return entry
        case (tuple() as shape, str() | type() | np.dtype() as wanted) if _is_shape(shape):
            return TensorType(DType.of(wanted), tuple(int(extent) for extent in shape))
        case tuple() if _is_shape(entry):
            return TensorType(dtype, tuple(int(extent) for extent in entry))
    raise ShapeError(f"external function {symbol!r}: outputs are {entry!r}; give {OUTPUT_FORMS}")


def _is_shape(entry: tuple[Any, ...]) -> bool:
    return all(isinstance(extent, int | np.integer) and extent >= 0 for extent in entry)


def _address(function: Any, symbol: str) -> tuple[int, object]:
    """The address of a C function and what keeps it valid; 0 for a Python callable."""
    if isinstance(function, int) and not isinstance(function, bool):
        if function <= 0:
            raise GraphError(f"external function {symbol!r}: {function} is no address")
        return function, None
    if isinstance(function, ctypes._CFuncPtr):
        return ctypes.cast(function, ctypes.c_void_p).value or 0, function
    if isinstance(address := getattr(function, "address", None), int):
        return address, function  # numba
    if type(function).__module__ == "_cffi_backend":
        from cffi import FFI  # type: ignore[import-untyped]

        return int(FFI().cast("intptr_t", function)), function
    if not callable(function):
        raise GraphError(f"external function {symbol!r} is {type(function).__name__}, neither an address nor callable")
    return 0, function
