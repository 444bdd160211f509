"""Memory and threads in which a program runs: one context serves one run at a time.

A context with more than one thread owns workers. Each is a Python thread that enters the emitted worker loop once and
stays there, without the interpreter lock, until the context is closed, collected, or the interpreter exits. The
protocol between them is described where its code is emitted, in `compiler.codegen.workers`.

A forked child has the memory but not the threads; its contexts are thrown away and made anew.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from glulam.runtime import abi, processors
from glulam.runtime.errors import GlulamError
from glulam.runtime.loader import NativeCode
from glulam.runtime.memory import Bytes, address_of, allocate

Ticks = npt.NDArray[np.int64]


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


class ContextPool:
    """The contexts of a model. With one thread as many as there are runs at a time; with more one, which runs share.

    Contexts, and the lock for the only one, belong to a process: a forked child starts with none.
    """

    def __init__(self, program: Program, threads: int) -> None:
        self._program = program
        self._threads = threads
        self._home = _Home()
        self.closed = False

    def take(self) -> Context:
        """A context for one run; `give` it back. Raises GlulamError if the pool is closed."""
        home = self._home
        if home.pid != os.getpid():
            home = self._home = _Home()
        if self._threads > 1:
            home.lock.acquire()
        try:
            if self.closed:
                raise GlulamError("the model is closed; load or compile it again")
            return home.free.pop() if home.free else Context(self._program, self._threads, home)
        except BaseException:
            if self._threads > 1:
                home.lock.release()
            raise

    def give(self, context: Context) -> None:
        context.home.free.append(context)
        if self._threads > 1:
            context.home.lock.release()

    def close(self) -> None:
        """Stops all workers, after the run that they are in; `take` fails from now on."""
        self.closed = True
        home = self._home
        if home.pid != os.getpid():
            return
        with home.lock:
            while home.free:
                home.free.pop().close()


class _Home:
    """What a pool has in one process."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.lock = threading.Lock()
        self.free: list[Context] = []


class Context:
    """Arena, scratch, binding table and, for threads > 1, counters and workers.

    The arena is zero at first, and belongs to the program from then on: what one run leaves there, the next one finds.
    """

    def __init__(self, program: Program, threads: int, home: _Home) -> None:
        self.home = home
        self.threads = threads
        self._program = program
        arena = allocate(program.arena_bytes)
        scratch = allocate(abi.scratch_stride(program.scratch_bytes) * threads)
        slots = abi.BIND_FIRST_INPUT + program.inputs + program.outputs
        self._bind: Any = (ctypes.c_void_p * slots)(address_of(arena), address_of(program.weights), address_of(scratch))
        self._bind_at = ctypes.addressof(self._bind)
        self._control = allocate(abi.control_bytes(threads, program.steps))
        self._control_at = address_of(self._control)
        self._ticks: Ticks | None = None
        self._memory = (arena, scratch)
        self._single = program.code.run_single
        self._shared = program.code.run_shared
        self._stop = self._start_workers() if threads > 1 else None

    def run(self, addresses: list[int]) -> None:
        """One inference on inputs and outputs at `addresses`."""
        self._bind[abi.BIND_FIRST_INPUT :] = addresses
        if self._stop is None:
            self._single(self._bind_at)
        else:
            self._shared(self._control_at, self._bind_at, self.threads, None)

    def run_profiled(self, addresses: list[int]) -> Ticks:
        """As `run`; returns the duration of every step, as the caller saw it, in ticks of the clock."""
        self._bind[abi.BIND_FIRST_INPUT :] = addresses
        if self._ticks is None:
            self._ticks = np.zeros((self.threads, abi.ticks_count(self._program.steps)), np.int64)
        if self._stop is None:
            self._program.code.run_single_profiled(self._bind_at, address_of(self._ticks))
        else:
            self._shared(self._control_at, self._bind_at, self.threads, address_of(self._ticks))
        return self._ticks[0, 1:] - self._ticks[0, :-1]

    def read_ticks(self) -> int:
        """The clock that durations of `run_profiled` are counted in."""
        return int(self._program.code.read_ticks())

    def close(self) -> None:
        """Stops the workers and waits until they have left. No run may be going on."""
        if self._stop is not None:
            self._stop()

    def _start_workers(self) -> Callable[[], object]:
        """Starts threads - 1 workers; the finalizer stops them on close, on collection, or when Python exits."""
        cpus = processors.allowed()
        memory = (self._control, self._bind, self._memory, self._program)
        place = (self._program.code, self._control_at, self._bind_at)
        workers: list[threading.Thread] = []
        with contextlib.suppress(
            RuntimeError
        ):  # no more threads to be had: those that started, and the caller, suffice
            for tid in range(1, self.threads):
                mine = (*place, tid, self.threads, cpus[tid % len(cpus)], memory)
                worker = threading.Thread(target=_work, args=mine, name=f"glulam-worker-{tid}", daemon=True)
                worker.start()
                workers.append(worker)
        return weakref.finalize(
            self, _stop_workers, self._program.code, self._control_at, workers, self.home.pid, memory
        )


def _work(code: NativeCode, control: int, bind: int, tid: int, threads: int, cpu: int, memory: object) -> None:
    """The life of a worker. `memory` keeps alive what the addresses point at."""
    if hasattr(os, "sched_setaffinity"):
        with contextlib.suppress(OSError):
            os.sched_setaffinity(0, {cpu})
    code.worker(control, bind, tid, threads)


def _stop_workers(code: NativeCode, control: int, workers: list[threading.Thread], pid: int, memory: object) -> None:
    if pid != os.getpid():
        return
    code.stop_workers(control)
    for worker in workers:
        if worker is not threading.current_thread():
            worker.join()
