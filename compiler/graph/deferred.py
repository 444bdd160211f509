"""Constants whose elements are computed later, or in a thread aside, while the compiler goes on with what it knows."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from threading import Lock, Thread

from glulam.compiler.graph.types import Array, TensorType


class Deferred:
    """An array of a known type, computed once, by whoever needs it first; any thread may."""

    __slots__ = ("_array", "_compute", "_lock", "type")

    def __init__(self, type: TensorType, compute: Callable[[], Array]) -> None:
        self.type = type
        self._compute: Callable[[], Array] | None = compute
        self._array: Array | None = None
        self._lock = Lock()

    def array(self) -> Array:
        """The array, now."""
        with self._lock:
            if self._array is None:
                assert self._compute is not None
                self._array, self._compute = self._compute(), None
            return self._array


def compute_aside(arrays: Iterable[Deferred]) -> None:
    """Begin to compute them in order, in a thread that nobody has to wait for."""
    if waiting := list(arrays):
        Thread(target=_compute, args=(waiting,), name="glulam-constants").start()


def _compute(arrays: list[Deferred]) -> None:
    for each in arrays:
        each.array()
