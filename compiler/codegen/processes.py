"""Object code of many texts at once: by LLVM in this process, and in others where there are cores and work for them.

A process that cannot be started, or dies, is done without: its text is compiled here.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from queue import SimpleQueue

from glulam.compiler.codegen import llvm_process
from glulam.compiler.targets import Target
from glulam.runtime import processors

WORTH_IT = 8  # kernels for each process: it takes as long to start as to compile a few
MOST = 8

Compile = Callable[[str], bytes]


def processes_for(kernels: int) -> int:
    """How many other processes are worth their start: as many as there are cores besides, if there is enough to do."""
    return max(0, min(processors.usable() - 1, kernels // WORTH_IT, MOST))


def compiled(texts: Iterable[str], here: Compile, target: Target, processes: int) -> list[bytes]:
    """The object code of each text, in order; texts are asked for one after the other, while others are compiled."""
    helpers = [helper for helper in (_start(target) for _ in range(processes)) if helper is not None]
    free: SimpleQueue[Compile] = SimpleQueue()
    for compile_ in (here, *(helper.compiler(here) for helper in helpers)):
        free.put(compile_)

    def object_code(text: str) -> bytes:
        compile_ = free.get()
        try:
            return compile_(text)
        finally:
            free.put(compile_)

    try:
        with ThreadPoolExecutor(1 + len(helpers)) as pool:
            made: list[Future[bytes]] = [pool.submit(object_code, text) for text in texts]
            return [each.result() for each in made]
    finally:
        for helper in helpers:
            helper.close()


class Helper:
    """A process that compiles one text at a time."""

    def __init__(self, target: Target, command: list[str]) -> None:
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._requests, self._answers = self._process.stdin, self._process.stdout
        llvm_process.send(self._requests, "\0".join((target.triple, target.cpu, target.features)).encode())

    def object_code(self, text: str) -> bytes | None:
        """None if the process is gone, or if LLVM refuses the text."""
        try:
            llvm_process.send(self._requests, text.encode())
            answer = llvm_process.receive(self._answers)
        except OSError:
            return None
        return answer[1:] if answer is not None and answer.startswith(b"+") else None

    def compiler(self, otherwise: Compile) -> Compile:
        """What compiles a text in the process, or, if that fails, as `otherwise` does."""

        def compile_(text: str) -> bytes:
            made = self.object_code(text)
            return otherwise(text) if made is None else made

        return compile_

    def close(self) -> None:
        """End the process."""
        for stream in (self._requests, self._answers):
            with suppress(OSError):  # what could not be sent to it is not needed any more
                stream.close()
        self._process.kill()
        self._process.wait()


def _start(target: Target) -> Helper | None:
    if not sys.executable:
        return None
    try:
        return Helper(target, [sys.executable, "-P", llvm_process.__file__])
    except OSError:
        return None
