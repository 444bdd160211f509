"""What a target is: everything about a processor that the compiler may know, as data."""

from __future__ import annotations

from dataclasses import dataclass, replace

PARTNERS = 2
"""So many threads are partners: each computes half of every tensor where it can, and finds in its caches what it wrote.

Layouts, the arena, padding and kernels are arranged for it. More threads would have too small parts; they claim what
comes next.
"""


_KEEPS_PACE = 6.0  # bytes from the last-level cache for each multiply-add of whole vectors


@dataclass(frozen=True)
class Target:
    """A processor to compile for. Its code runs wherever `required_features` are present, whatever `tune` says."""

    name: str
    triple: str
    cpu: str
    """The processor whose instructions may be used, by LLVM's name."""
    tune: str
    """The processor whose timings order the instructions; it adds none."""
    features: str
    """LLVM's feature string, spelled out: a name alone may stand for less on another version of LLVM."""
    required_features: tuple[str, ...]
    vector_bytes: int
    vector_registers: int
    has_fma: bool
    """Without it a multiply-add is two instructions with two roundings."""
    has_f16: bool
    """Whether the processor converts between half and single precision; without it both are computed on bits."""
    permutes_lanes: bool
    """Whether one instruction puts a vector's float32 lanes in an order that is known only at run time."""
    masks_lanes: bool
    """Whether loads and stores of some of a vector's lanes are as fast as those of all."""
    fmas_per_cycle: float
    """Multiply-adds of whole vectors that start in one cycle."""
    loads_per_cycle: float
    """Loads of whole vectors that start in one cycle; broadcasts of an element are at least as many."""
    l1_bytes: int
    l2_bytes: int
    l3_bytes: int
    """Of the last-level cache, as much of it as one may count on."""
    l3_rate: float
    """Bytes a cycle that one core reads from it."""
    memory_rate: float
    """Bytes a cycle that one core reads from memory."""
    overhead: float = 1.0
    """How much shows of what goes on beside products, such as moving their operands, over what a Zen 4 shows."""
    asks_ahead: bool = False
    """Whether weights that lie in memory come sooner if code asks for them, not hardware alone."""
    asks_nearest: bool = False
    """Whether lines are asked into the first cache whatever cache a kernel says, since they come sooner then."""
    dots_bytes: bool = False
    """Whether one instruction adds the products of four bytes to each I32 lane of a vector."""
    looks_up_bytes: bool = False
    """Whether one instruction chooses each byte of a vector among the bytes of two others."""
    threads: int = 1
    """How many threads kernels are cut for; any number can run them, with the same bits."""

    @property
    def for_partners(self) -> bool:
        """Whether kernels are cut for two threads that have half of every tensor each, see PARTNERS."""
        return self.threads == PARTNERS

    @property
    def many_threads(self) -> bool:
        """Whether kernels must be cut for their threads: one or two find enough to share in what suits one best."""
        return self.threads > 2

    @property
    def half_width(self) -> Target | None:
        """The same with vectors of half the width, where two of those start in the time of one; else None."""
        if self.vector_bytes < 64 or self.fmas_per_cycle >= 2:
            return None
        return replace(self, vector_bytes=self.vector_bytes // 2, fmas_per_cycle=2, loads_per_cycle=2)

    @property
    def l3_is_slow(self) -> bool:
        """Whether the last-level cache keeps no pace with products, so that what is read there shows in the time."""
        return self.l3_rate < self.fmas_per_cycle * _KEEPS_PACE

    @property
    def architecture(self) -> str:
        return self.triple.split("-", 1)[0]

    @property
    def lanes(self) -> int:
        """float32 lanes of a vector register, which is also the channel block of the blocked layout."""
        return self.vector_bytes // 4
