"""Functions that are not glulam's own, called in the middle of a run: C functions by address, Python ones by callback.

A function has the signature

    void f(void **inputs, void **outputs, void *user)

`inputs[i]` and `outputs[j]` point to dense arrays, C order, of the types that were declared; the inputs must not be
changed, and every element of the outputs must be written. `user` is what the caller gave. A run with several threads
calls the function once, on any one of them; runs of a model on one thread may call it at the same time. A Python
callable takes the interpreter lock for its time; what it raises is raised again by the run. It may run the model that
calls it, also by a thread that it waits for, but each such thread waits a little first for its turn.
"""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from glulam.runtime.errors import ForeignError, GlulamError
from glulam.runtime.manifest import TensorSpec

Array = npt.NDArray[np.generic]

_POINTERS = ctypes.POINTER(ctypes.c_void_p)
_SIGNATURE = ctypes.CFUNCTYPE(None, _POINTERS, _POINTERS, ctypes.c_void_p)


class Inside(threading.local):
    """Whether the current thread is `here`, in a Python callable of some runs; and the `calls` that go on in any."""

    here = False

    def __init__(self, calls: set[threading.Event]) -> None:
        """Called in every thread, each time with the same set."""
        self.calls = calls

    def lasts(self, seconds: float) -> bool:
        """Whether one of the calls that go on does so for longer than that; it waits for them to end."""
        end = time.monotonic() + seconds
        return any(not call.wait(max(0.0, end - time.monotonic())) for call in tuple(self.calls))


@dataclass(frozen=True, eq=False)
class Foreign:
    """A function with the types of what it reads and writes: an `address`, or a `python` callable on arrays.

    `keep` is whatever must live as long as the address is valid.
    """

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    address: int = 0
    user: int = 0
    python: Callable[..., Any] | None = None
    keep: object = None

    def bind(self, failures: list[BaseException], inside: Inside) -> Bound:
        """The function as native code calls it. What a Python callable raises goes to `failures`.

        A thread is `inside` while it is in a Python callable, which may be a worker.
        """
        if self.python is None:
            return Bound(self.address, self.user, self.keep)

        def callback(inputs: Any, outputs: Any, user: Any) -> None:
            if failures:  # the run has failed already, and its arrays hold anything
                return
            outer, ended = inside.here, threading.Event()
            try:
                inside.here = True
                inside.calls.add(ended)
                self.call(
                    [_kept(_view(inputs[i], spec)) for i, spec in enumerate(self.inputs)],
                    [_view(outputs[i], spec) for i, spec in enumerate(self.outputs)],
                )
            except BaseException as error:  # nothing can be raised through native code
                failures.append(self._failure(error))
            finally:
                inside.here = outer
                inside.calls.discard(ended)
                ended.set()

        function = _SIGNATURE(callback)
        address = ctypes.cast(function, ctypes.c_void_p).value
        assert address is not None
        return Bound(address, 0, function)

    def _failure(self, error: BaseException) -> BaseException:
        if isinstance(error, GlulamError) or not isinstance(error, Exception):
            return error
        failure = ForeignError(f"external function {self.name!r} raised {type(error).__name__}: {error}")
        failure.__cause__ = error
        return failure

    def call(self, inputs: Sequence[Array], outputs: Sequence[Array]) -> None:
        """One call on dense arrays of the declared types. Raises ForeignError for a wrong result."""
        if self.python is None:
            tables = [
                (ctypes.c_void_p * max(len(side), 1))(*(a.ctypes.data for a in side)) for side in (inputs, outputs)
            ]
            _SIGNATURE(self.address)(tables[0], tables[1], self.user or None)
            return
        made = self.python(*inputs)
        results = list(made) if isinstance(made, tuple | list) else [made]
        if len(results) != len(outputs):
            raise ForeignError(
                f"external function {self.name!r} gave {len(results)} results; {len(outputs)} are declared"
            )
        for result, target, spec in zip(results, outputs, self.outputs, strict=True):
            array = np.asarray(result)
            if array.shape != spec.shape or array.dtype != spec.numpy:
                shown = f"{array.dtype}{list(array.shape)}"
                raise ForeignError(f"external function {self.name!r} gave {shown}, but {spec} is declared")
            np.copyto(target, array)


@dataclass(frozen=True)
class Bound:
    """What stands in the binding table, and what keeps it valid."""

    address: int
    user: int
    keep: object


def raise_first(failures: list[BaseException]) -> None:
    """Raises what went wrong in Python callables during a run, and forgets it."""
    if failures:
        error = failures[0]
        failures.clear()
        raise error


def _kept(view: Array) -> Array:
    """A read-only copy, which stays as it is when the run's memory gets other contents, or is given back."""
    array = view.copy()
    array.flags.writeable = False
    return array


def _view(address: int | None, spec: TensorSpec) -> Array:
    dtype = spec.numpy
    size = int(np.prod(spec.shape, dtype=np.int64))
    if not size or address is None:
        return np.empty(spec.shape, dtype)
    memory = (ctypes.c_char * (size * dtype.itemsize)).from_address(address)
    array: Array = np.frombuffer(memoryview(memory), dtype).reshape(spec.shape)
    return array
