"""Settings of the Python interpreter, which all threads share, while any of them compiles."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Generic, TypeVar

_SWITCH_SECONDS = 0.0005
T = TypeVar("T")


class _Setting(Generic[T]):
    """A setting that is another one while any thread compiles."""

    def __init__(self, change: Callable[[], T], restore: Callable[[T], None]) -> None:
        """`change` returns what the setting was, for `restore`."""
        self._change, self._restore = change, restore
        self._lock = Lock()
        self._before: list[T] = []
        self._compilations = 0

    def __enter__(self) -> None:
        with self._lock:
            if not self._compilations:
                self._before = [self._change()]
            self._compilations += 1

    def __exit__(self, *exception: object) -> None:
        with self._lock:
            self._compilations -= 1
            if self._compilations <= 0:
                self._put_back()

    def after_fork(self) -> None:
        """In a child, which has none of the threads that compile but the one that forked, if that is one."""
        self._lock = Lock()
        self._put_back()

    def _put_back(self) -> None:
        self._compilations = 0
        while self._before:
            self._restore(self._before.pop())


def _stop_collector() -> bool:
    enabled = gc.isenabled()
    gc.disable()
    return enabled


def _restore_collector(enabled: bool) -> None:
    if enabled:
        gc.enable()


def _shorten_switches() -> float:
    before = sys.getswitchinterval()
    sys.setswitchinterval(min(before, _SWITCH_SECONDS))
    return before


def _restore_switches(before: float) -> None:
    sys.setswitchinterval(before + 5e-7)  # it is kept in whole microseconds, cut off


_COLLECTOR = _Setting(_stop_collector, _restore_collector)
_SWITCHES = _Setting(_shorten_switches, _restore_switches)
if hasattr(os, "register_at_fork"):
    for _setting in (_COLLECTOR, _SWITCHES):
        os.register_at_fork(after_in_child=_setting.after_fork)


@contextmanager
def without_collector() -> Iterator[None]:
    """Python's cyclic garbage is left alone meanwhile: there is little, among very many objects that stay."""
    with _COLLECTOR:
        yield


@contextmanager
def quick_switches() -> Iterator[None]:
    """Threads that do their work outside the interpreter (LLVM, hashes, copies) get back in soon for the next piece."""
    with _SWITCHES:
        yield
