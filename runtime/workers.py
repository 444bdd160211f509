"""The threads of a context besides its caller's: how they start, on which processor they sit, how they end.

Each worker is a Python thread that enters the emitted worker loop once and stays there, without the interpreter lock,
until it is stopped: by `stop`, when the owner is collected, or when the interpreter exits. What it does in there is
described where that code is emitted, in `compiler.codegen.workers`.

Every worker is pinned to one processor, for the sleeper that the kernel would queue behind the busy caller waits for
milliseconds. The caller is never pinned; where it has moved onto a worker's processor, the worker moves away.
"""

from __future__ import annotations

import contextlib
import os
import threading
import weakref

from glulam.runtime import processors
from glulam.runtime.loader import NativeCode


class Workers:
    """`threads` - 1 workers on a control block; `memory` is what must stay alive while one of them is running."""

    def __init__(self, code: NativeCode, control: int, bind: int, threads: int, memory: object) -> None:
        self._current = processors.current
        self._allowed = processors.allowed()
        free = [cpu for cpu in self._allowed if cpu != self._current()] or list(self._allowed)
        self._threads: list[threading.Thread] = []
        self._worker_on: dict[int, int] = {}
        # There may be no more threads to be had: those that started, and the caller, suffice.
        with contextlib.suppress(RuntimeError):
            for tid in range(1, threads):
                cpu = free[(tid - 1) % len(free)]
                worker = threading.Thread(
                    target=_work,
                    args=(code, control, bind, tid, threads, cpu, memory),
                    name=f"glulam-worker-{tid}",
                    daemon=True,
                )
                worker.start()
                self._threads.append(worker)
                self._worker_on.setdefault(cpu, tid - 1)
        self.stop = weakref.finalize(self, _stop, code, control, self._threads, os.getpid(), memory)

    def make_way(self) -> None:
        """Moves the worker, if any, that sits on the processor where the caller is now, to one that is free."""
        here = self._current()
        if here in self._worker_on:
            free = next((cpu for cpu in self._allowed if cpu not in self._worker_on), None)
            if free is not None:
                number = self._worker_on.pop(here)
                self._worker_on[free] = number
                thread = self._threads[number].native_id
                if thread is not None:
                    processors.pin(thread, free)


def _work(code: NativeCode, control: int, bind: int, tid: int, threads: int, cpu: int, memory: object) -> None:
    processors.pin(0, cpu)
    code.worker(control, bind, tid, threads)


def _stop(code: NativeCode, control: int, workers: list[threading.Thread], pid: int, memory: object) -> None:
    """Ends the loops and waits for the threads; does nothing in a forked child, which has not got them."""
    if pid != os.getpid():
        return
    code.stop_workers(control)
    for worker in workers:
        if worker is not threading.current_thread():
            worker.join()
