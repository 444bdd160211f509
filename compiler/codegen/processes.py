"""Object code of many texts at once: by LLVM in this process, and in others where there are cores and work for them.

A process takes part from when it has said that it is ready. One that cannot be started, or never says so, or dies, is
done without: the texts are compiled here.
"""

from __future__ import annotations

import os
import selectors
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from queue import SimpleQueue
from threading import Thread
from typing import IO

from glulam.compiler.codegen import llvm_process
from glulam.compiler.targets import Target
from glulam.runtime import processors

WORTH_IT = 8  # kernels for each process: it takes as long to start as to compile a few
MOST = 8

_PATIENCE = 20.0  # seconds until a process has to be ready
_LOOK = 0.05  # seconds between looks whether it is still needed

Compile = Callable[[str], bytes]


def processes_for(kernels: int) -> int:
    """How many other processes are worth their start: as many as there are cores besides, if there is enough to do."""
    return max(0, min(processors.usable() - 1, kernels // WORTH_IT, MOST))


def compiled(texts: Iterable[str], here: Compile, target: Target, processes: int) -> list[bytes]:
    """The object code of each text, in order; texts are asked for one after the other, while others are compiled."""
    free: SimpleQueue[Compile] = SimpleQueue()
    free.put(here)

    def object_code(text: str) -> bytes:
        compile_ = free.get()
        try:
            return compile_(text)
        finally:
            free.put(compile_)

    def take_part(helper: Helper) -> None:
        free.put(helper.compiler(here))

    with _helpers(target, processes, take_part) as helpers, ThreadPoolExecutor(1 + len(helpers)) as pool:
        try:
            made: list[Future[bytes]] = [pool.submit(object_code, text) for text in texts]
            return [each.result() for each in made]
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


@contextmanager
def _helpers(target: Target, count: int, ready: Callable[[Helper], None]) -> Iterator[list[Helper]]:
    """Up to so many processes; `ready` is called with each one that can be used, in a thread of its own."""

    def greet(helper: Helper) -> None:
        if helper.is_ready():
            ready(helper)

    helpers: list[Helper] = []
    greeters: list[Thread] = []
    try:
        for _ in range(count):
            helper = _start(target)
            if helper is not None:
                helpers.append(helper)
                greeter = Thread(target=greet, args=(helper,), name="glulam-helper")
                greeter.start()
                greeters.append(greeter)
        yield helpers
    finally:
        for helper in helpers:
            helper.end()
        for greeter in greeters:
            greeter.join()
        for helper in helpers:
            helper.close()


class Helper:
    """A process that compiles one text at a time, once it `is_ready`."""

    def __init__(self, target: Target, command: list[str]) -> None:
        """Raises OSError if the process cannot be started."""
        self._target = "\0".join((target.triple, target.cpu, target.features)).encode()
        self._process, self._requests, self._answers = _spawned(command)
        self._ended = False

    def is_ready(self) -> bool:
        """Waits until the process says so; False if it takes too long, is gone, is ended meanwhile, or is no helper."""
        try:
            llvm_process.send(self._requests, self._target)
            return self._first_word(len(llvm_process.READY)) == llvm_process.READY
        except OSError:
            return False

    def _first_word(self, length: int) -> bytes:
        said, until = b"", time.monotonic() + _PATIENCE
        with _readable(self._answers) as wait:
            while len(said) < length and not self._ended and time.monotonic() < until:
                if not wait():
                    continue
                piece = os.read(self._answers.fileno(), length - len(said))
                if not piece:
                    break
                said += piece
        return said

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

    def end(self) -> None:
        """End the process; whoever waits for it is told."""
        self._ended = True
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """End the process and give up what leads to it, when nobody waits for it any more."""
        self.end()
        for stream in (self._requests, self._answers):
            with suppress(OSError):  # what could not be sent to it is not needed any more
                stream.close()


def _spawned(command: list[str]) -> tuple[subprocess.Popen[bytes], IO[bytes], IO[bytes]]:
    """The process, its requests, and its answers: where a child can inherit one, in a pipe that nothing prints to."""
    if sys.platform == "win32":
        pipe, null = subprocess.PIPE, subprocess.DEVNULL
        process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=null)
        assert process.stdin is not None
        assert process.stdout is not None
        return process, process.stdin, process.stdout
    ours, theirs = os.pipe()
    answers = os.fdopen(ours, "rb")
    try:
        process = subprocess.Popen(
            [*command, str(theirs)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(theirs,),
        )
    except OSError:
        answers.close()
        raise
    finally:
        os.close(theirs)
    assert process.stdin is not None
    return process, process.stdin, answers


@contextmanager
def _readable(stream: IO[bytes]) -> Iterator[Callable[[], bool]]:
    """A function that waits a moment for bytes to read. Pipes of Windows can only be read, until the process ends."""
    if sys.platform == "win32":
        yield lambda: True
        return
    with selectors.DefaultSelector() as selector:
        selector.register(stream, selectors.EVENT_READ)
        yield lambda: bool(selector.select(_LOOK))


def _start(target: Target) -> Helper | None:
    if not sys.executable or getattr(sys, "frozen", False):  # a frozen program would start itself
        return None
    try:
        return Helper(target, [sys.executable, "-P", llvm_process.__file__])
    except OSError:
        return None
