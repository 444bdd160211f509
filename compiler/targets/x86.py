"""The levels of x86-64 as its psABI names them. Cache sizes are those of common processors of the level, the
rates of cache and memory those of a Zen 4.
"""

from __future__ import annotations

from collections.abc import Mapping

from glulam.compiler.targets.target import Target

_TRIPLE = "x86_64-unknown-linux-gnu"
_V1 = ("cmov", "cx8", "fxsr", "mmx", "sse", "sse2")
_V2 = (*_V1, "cx16", "sahf", "popcnt", "crc32", "sse3", "ssse3", "sse4.1", "sse4.2")
_V3 = (*_V2, "avx", "avx2", "bmi", "bmi2", "f16c", "fma", "lzcnt", "movbe", "xsave")
_V4 = (*_V3, "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl")


def _enable(features: tuple[str, ...]) -> str:
    return ",".join(f"+{feature}" for feature in features)


X86_64_V4 = Target(
    name="x86-64-v4",
    triple=_TRIPLE,
    cpu="x86-64-v4",
    tune="x86-64-v4",
    features=_enable(_V4),
    required_features=_V4,
    vector_bytes=64,
    vector_registers=32,
    has_fma=True,
    has_f16=True,
    permutes_lanes=True,
    masks_lanes=True,
    fmas_per_cycle=2,
    loads_per_cycle=2,
    l1_bytes=32 << 10,
    l2_bytes=1 << 20,
    l3_bytes=16 << 20,
    l3_rate=18,
    memory_rate=7,
)

X86_64_V3 = Target(
    name="x86-64-v3",
    triple=_TRIPLE,
    cpu="x86-64-v3",
    tune="x86-64-v3",
    features=_enable(_V3),
    required_features=_V3,
    vector_bytes=32,
    vector_registers=16,
    has_fma=True,
    has_f16=True,
    permutes_lanes=True,
    masks_lanes=False,
    fmas_per_cycle=2,
    loads_per_cycle=2,
    l1_bytes=32 << 10,
    l2_bytes=512 << 10,
    l3_bytes=8 << 20,
    l3_rate=18,
    memory_rate=7,
)

BEYOND_LEVELS = {
    "x86-64-v4": {"avx512vnni": "dots_bytes", "avx512vbmi": "looks_up_bytes"},
    "x86-64-v3": {"avxvnni": "dots_bytes"},
}
"""By the name of the target, features of no level and what a Target says of them."""

X86_64_V2 = Target(
    name="x86-64-v2",
    triple=_TRIPLE,
    cpu="x86-64-v2",
    tune="x86-64-v2",
    features=_enable(_V2),
    required_features=_V2,
    vector_bytes=16,
    vector_registers=16,
    has_fma=False,
    has_f16=False,
    permutes_lanes=False,
    masks_lanes=False,
    fmas_per_cycle=2,
    loads_per_cycle=2,
    l1_bytes=32 << 10,
    l2_bytes=256 << 10,
    l3_bytes=8 << 20,
    l3_rate=18,
    memory_rate=7,
)

NARROW_512: Mapping[str, tuple[float, float]] = {
    "znver4": (1, 1),
    "cannonlake": (1, 2),
    "icelake-client": (1, 2),
    "tigerlake": (1, 2),
    "rocketlake": (1, 2),
}
"""Processors, by LLVM's name, that start fewer 512-bit FMAs and loads in a cycle than two of each.

Zen 4 passes 512 bits through its 256-bit units in two halves; the others have one 512-bit FMA unit (A. Fog,
Instruction tables, 2025).
"""

ZEN5 = "znver5"
"""LLVM's name of a Zen 5. It starts twice as many operations of 512 bits in a cycle as a Zen 4."""

ZEN5_OVERHEAD = 0.4
"""Fitted to what convolutions by Winograd's algorithm take."""

MESH = frozenset(
    {
        "skylake-avx512",
        "cascadelake",
        "cooperlake",
        "icelake-server",
        "sapphirerapids",
        "emeraldrapids",
        "graniterapids",
    }
)
"""Processors, by LLVM's name, whose cores share the last-level cache over a mesh.

It is large, but far, and what the system says of its size belongs to all guests of the machine. One of them was
measured, the others are taken to be like it.
"""

MESH_L3_RATE, MESH_MEMORY_RATE = 9.0, 5.0
"""As measured on an Emerald Rapids: 23 GB/s and 11 to 16 GB/s at 2.6 GHz, by a loop that does nothing else."""

MESH_L3_BYTES = 64 << 20
"""At most; of 300 MB there 64 were read at the cache's rate, and 128 were not."""
