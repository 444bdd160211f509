"""64-bit Arm with the vector instructions that each of its processors has (Advanced SIMD).

Nothing of it is measured: the rates of cache and memory are those of a Zen 4.
"""

from __future__ import annotations

from glulam.compiler.targets.target import Target

AARCH64 = Target(
    name="aarch64",
    triple="aarch64-unknown-linux-gnu",
    cpu="generic",
    tune="generic",
    features="+fp-armv8,+neon",
    required_features=(),
    vector_bytes=16,
    vector_registers=32,
    has_fma=True,
    has_f16=True,
    permutes_lanes=False,
    masks_lanes=False,
    fmas_per_cycle=2,
    loads_per_cycle=2,
    l1_bytes=32 << 10,
    l2_bytes=512 << 10,
    l3_bytes=4 << 20,
    l3_rate=18,
    memory_rate=7,
)
