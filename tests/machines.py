"""What processors choices are tested for, whatever the host is."""

from dataclasses import replace

from glulam.compiler.targets import target

ZEN4 = replace(
    target("x86-64-v4"), fmas_per_cycle=1, loads_per_cycle=1, l1_bytes=32 << 10, l2_bytes=1 << 20, l3_bytes=32 << 20
)

MESH = replace(ZEN4, fmas_per_cycle=2, loads_per_cycle=2, l2_bytes=1 << 21, l3_rate=9.0, memory_rate=5.0)
"""Whose last-level cache is slow."""

ZEN5 = replace(ZEN4, fmas_per_cycle=2, loads_per_cycle=2, l1_bytes=48 << 10, overhead=0.4, asks_ahead=True)
"""Which hides most of what goes on beside products."""

TINY = {"l1_bytes": 1 << 10, "l2_bytes": 2 << 10, "l3_bytes": 60 << 10, "l3_rate": 18.0, "memory_rate": 7.0}
"""Of caches so small that a few samples of a small network fill them."""
