"""What a user may choose about a compilation."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from glulam.compiler.errors import ArgumentError


@dataclass(frozen=True)
class Options:
    """Options of one compilation.

    target: a name from `glulam.compiler.targets`, `native` for this machine, `native:x86-64-v3` for it without AVX-512.
    threads: how many threads the returned model runs with, and how many its code is cut for: a batch is divided among
        them, two threads have half of every tensor each (`Target.for_partners`), and with more threads each kernel is
        cut into more parts (`Target.many_threads`). The code serves any number, with the same bits.
    numerics: `strict` keeps to the definition's sums; `fast` also admits algorithms that round differently.
    fuse: False leaves every layer a kernel of its own (of the same quality), norms included, for comparison.
    disable: names of passes to leave out.
    stop_after: number of graph rewrites after which optional passes do nothing more, for bisecting.
    tune: measure the best candidates of each convolution and linear layer on this machine, with these threads, and take
        the fastest. Measurements are kept in the cache too. Without it the choice depends on the model alone.
    cache: take code that was generated before from the cache on disk, and keep what is new there; the result is the
        same. Where that is, and how to move it or do without: `glulam.compiler.cache`.
    """

    target: str = "native"
    threads: int = 1
    numerics: Literal["fast", "strict"] = "fast"
    fuse: bool = True
    disable: tuple[str, ...] = ()
    stop_after: int | None = None
    tune: bool = False
    cache: bool = True

    def __post_init__(self) -> None:
        """Raises ArgumentError, a ValueError too, with the field that cannot be what it is."""
        if not isinstance(self.target, str):
            raise ArgumentError(f"target={self.target!r}; it is a name, such as 'native' or 'x86-64-v3'")
        for name in ("fuse", "tune", "cache"):
            if not isinstance(getattr(self, name), bool | np.bool_):
                raise ArgumentError(f"{name}={getattr(self, name)!r}; it is True or False")
            object.__setattr__(self, name, bool(getattr(self, name)))
        threads = whole(self.threads)
        if threads is None or threads < 1:
            raise ArgumentError(f"threads={self.threads!r}; it is a number of threads, at least 1")
        if self.numerics not in ("fast", "strict"):
            raise ArgumentError(f"numerics={self.numerics!r}; it is 'fast' or 'strict'")
        stop = whole(self.stop_after)
        if self.stop_after is not None and (stop is None or stop < 0):
            raise ArgumentError(f"stop_after={self.stop_after!r}; it is a number of rewrites, or None")
        listed = isinstance(self.disable, Iterable) and not isinstance(self.disable, str)
        names = tuple(self.disable) if listed else (None,)
        if not all(isinstance(name, str) for name in names):
            raise ArgumentError(f"disable={self.disable!r}; it is a sequence of names of passes, such as ('fuse',)")
        object.__setattr__(self, "threads", threads)
        object.__setattr__(self, "stop_after", stop)
        object.__setattr__(self, "disable", names)


def whole(value: Any) -> int | None:
    """The integer that the value is, numpy's too; None for anything else, truth values included."""
    try:
        return None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        return None
