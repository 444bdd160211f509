"""What a user may choose about a compilation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Options:
    """Options of one compilation.

    target: a name from `glulam.compiler.targets`, `native` for this machine.
    threads: how many threads the returned model runs with, and how many its code is cut for: a batch is divided among
        them, two threads have half of every tensor each (`Target.halves`), and with more each kernel's work is cut
        into more parts (`Target.many_threads`). The code serves any number, with the same bits.
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
        if not isinstance(self.threads, int) or self.threads < 1:
            raise ValueError(f"threads={self.threads!r}; it is a number of threads, at least 1")
        if self.numerics not in ("fast", "strict"):
            raise ValueError(f"numerics={self.numerics!r}; it is 'fast' or 'strict'")
        object.__setattr__(self, "disable", tuple(self.disable))
