"""Memory and threads in which a program runs: one context serves one run at a time.

A forked child has the memory but not the threads; its contexts are thrown away and made anew.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from glulam.runtime import abi
from glulam.runtime.errors import GlulamError
from glulam.runtime.foreign import Foreign, Inside, raise_first
from glulam.runtime.loader import NativeCode
from glulam.runtime.memory import Bytes, address_of, allocate
from glulam.runtime.workers import Workers

Ticks = npt.NDArray[np.int64]
T = TypeVar("T")

_PATIENCE = 0.1
"""Seconds after which a thread no longer waits for the end of an external function that another run calls."""


@dataclass(frozen=True)
class Program:
    """Loaded code with its weights and the sizes of the memory that it works in; shared by all contexts."""

    code: NativeCode
    weights: Bytes
    arena_bytes: int
    scratch_bytes: int
    steps: int
    inputs: int
    outputs: int
    foreign: tuple[Foreign, ...] = ()


class ContextPool:
    """The contexts of a model. With one thread as many as there are runs at a time; with more one, which runs share.

    Contexts, and the lock for the only one, belong to a process: a forked child starts with none. An external function
    may use the pool that calls it, on whatever thread: it has the lock of its caller, and gets a context of its own.
    So does a thread that has waited for a while, for the function may be waiting for this very thread.
    """

    def __init__(self, program: Program, threads: int) -> None:
        self._program = program
        self._threads = threads
        self._home = Home()
        self._inside = Inside(set())
        self.closed = False

    def use(self, work: Callable[[Context], T]) -> T:
        """What `work` gives on a context that nobody else has meanwhile. Raises GlulamError if the pool is closed."""
        home = self._home
        if home.pid != os.getpid():
            home = self._home = Home()
            self._inside.calls.clear()  # they go on in the parent
        if self._threads == 1 or self._inside.here or self._inside.lasts(_PATIENCE):
            return self._use(home, work)
        with home.lock:  # no signal comes between this and the block; one would between a call and a `try`
            return self._use(home, work)

    def _use(self, home: Home, work: Callable[[Context], T]) -> T:
        context = self._next(home)
        try:
            return work(context)
        finally:
            home.free.append(context)
            if self.closed:
                home.clear()

    def _next(self, home: Home) -> Context:
        if self.closed:
            raise GlulamError("the model is closed; load or compile it again")
        try:
            return home.free.pop()
        except IndexError:
            return Context(self._program, self._threads, self._inside)

    def close(self) -> None:
        """Stops all workers, after the run that they are in; `use` fails from now on.

        In an external function that the pool calls it does not wait, nor long for one that another thread is in: then
        the run that goes on stops them at its end.
        """
        self.closed = True
        home = self._home
        if home.pid != os.getpid() or self._inside.here or self._inside.lasts(_PATIENCE):
            return
        with home.lock:
            home.clear()


class Home:
    """What a pool has in one process."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.lock = threading.RLock()  # what is called between the runs of a profile may run the model itself
        self.free: list[Context] = []

    def clear(self) -> None:
        """Closes the contexts that are free; several threads may at a time."""
        while True:
            try:
                context = self.free.pop()
            except IndexError:
                return
            context.close()


class Context:
    """Arena, scratch, binding table and, for threads > 1, counters and workers.

    The arena is zero at first, and belongs to the program from then on: what one run leaves there, the next one finds.
    """

    def __init__(self, program: Program, threads: int, inside: Inside) -> None:
        """`inside` is told by the threads that call external functions."""
        self.threads = threads
        self._program = program
        arena = allocate(program.arena_bytes)
        scratch = allocate(abi.scratch_stride(program.scratch_bytes) * threads)
        self._failures: list[BaseException] = []
        bound = [function.bind(self._failures, inside) for function in program.foreign]
        self._first_function = abi.BIND_FIRST_INPUT + program.inputs + program.outputs
        slots = self._first_function + 2 * len(bound)
        self._bind: Any = (ctypes.c_void_p * slots)(address_of(arena), address_of(program.weights), address_of(scratch))
        self._bind[self._first_function :] = [pointer for each in bound for pointer in (each.address, each.user)]
        self._bind_at = ctypes.addressof(self._bind)
        self._control = allocate(abi.control_bytes(threads, program.steps))
        self._control_at = address_of(self._control)
        self._ticks: Ticks | None = None
        self._memory: list[object] = [arena, scratch, self._control, self._bind, program, bound]
        self._single = program.code.run_single
        self._shared = program.code.run_shared
        place = (self._control_at, self._bind_at)
        self._workers = Workers(program.code, *place, threads, self._memory) if threads > 1 else None

    def run(self, addresses: list[int]) -> None:
        """One inference on inputs and outputs at `addresses`. Raises what an external Python function raised."""
        self._bind[abi.BIND_FIRST_INPUT : self._first_function] = addresses
        self._failures.clear()  # of a run that was interrupted before it could raise them
        if self._workers is None:
            self._single(self._bind_at)
        else:
            self._workers.make_way()
            self._shared(self._control_at, self._bind_at, self.threads, None)
        if self._failures:
            raise_first(self._failures)

    def run_profiled(self, addresses: list[int]) -> Ticks:
        """As `run`; returns the duration of every step, as the caller saw it, in ticks of the clock."""
        self._bind[abi.BIND_FIRST_INPUT : self._first_function] = addresses
        self._failures.clear()  # of a run that was interrupted before it could raise them
        if self._ticks is None:
            self._ticks = np.zeros((self.threads, abi.ticks_count(self._program.steps)), np.int64)
            self._memory.append(self._ticks)
        if self._workers is None:
            self._program.code.run_single_profiled(self._bind_at, address_of(self._ticks))
        else:
            self._workers.make_way()
            self._shared(self._control_at, self._bind_at, self.threads, address_of(self._ticks))
        raise_first(self._failures)
        return self._ticks[0, 1:] - self._ticks[0, :-1]

    def read_ticks(self) -> int:
        """The clock that durations of `run_profiled` are counted in."""
        return int(self._program.code.read_ticks())

    def close(self) -> None:
        """Stops the workers and waits until they have left. No run may be going on."""
        if self._workers is not None:
            self._workers.stop()
