"""The one place that looks at the machine the compiler runs on."""

from __future__ import annotations

import platform
from dataclasses import replace
from functools import cache
from pathlib import Path

import llvmlite.binding as llvm

from glulam.compiler.errors import TargetError
from glulam.compiler.targets.arm import AARCH64
from glulam.compiler.targets.target import Target
from glulam.compiler.targets.x86 import (
    BEYOND_LEVELS,
    MESH,
    MESH_L3_BYTES,
    MESH_L3_RATE,
    MESH_MEMORY_RATE,
    NARROW_512,
    X86_64_V2,
    X86_64_V3,
    X86_64_V4,
    ZEN5,
    ZEN5_OVERHEAD,
)
from glulam.runtime.cpu import host_architecture, host_features

NAMED = (X86_64_V4, X86_64_V3, X86_64_V2, AARCH64)
"""Every target with a name, the widest of an architecture first."""

NATIVE = "native"
"""The machine that the compiler runs on."""

_SYSFS_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")


def target(name: str = NATIVE) -> Target:
    """The target of this name. Raises TargetError for any other, and for one of this machine that it does not run.

    "native" is the best one that this machine runs, with what is known of its processor, and with the instructions for
    products of bytes and tables of them if it has any; "native:x86-64-v3" is that level with the same knowledge.
    """
    if name == NATIVE:
        return _native()
    if name.startswith(f"{NATIVE}:"):
        return _native(name.partition(":")[2])
    for known in NAMED:
        if known.name == name:
            return known
    raise TargetError(f"no target {name!r}; there are {NATIVE}, {', '.join(t.name for t in NAMED)}")


@cache
def runnable_targets() -> tuple[Target, ...]:
    """The named targets whose code this machine executes, the best one first."""
    here = [known for known in NAMED if known.architecture == host_architecture()]
    return tuple(known for known in here if host_features().issuperset(known.required_features))


@cache
def _native(name: str | None = None) -> Target:
    """The level of this name, or the best one, as this processor has it."""
    if not runnable_targets():
        raise TargetError(f"no target for {platform.machine()} with its features; there are {[t.name for t in NAMED]}")
    level = next((known for known in runnable_targets() if name in (None, known.name)), None)
    if level is None:
        names = ", ".join(known.name for known in runnable_targets())
        raise TargetError(f"no target {name!r} that this machine runs; it runs {names}")
    level = _beyond(level)
    l1, l2, l3 = _caches()
    tune = llvm.get_host_cpu_name()
    two = level.fmas_per_cycle, level.loads_per_cycle
    fmas, loads = NARROW_512.get(tune, two) if level.name == X86_64_V4.name else two
    native = replace(
        level,
        triple=llvm.get_process_triple(),
        tune=tune,
        fmas_per_cycle=fmas,
        loads_per_cycle=loads,
        l1_bytes=l1 or level.l1_bytes,
        l2_bytes=l2 or level.l2_bytes,
        l3_bytes=l3 or level.l3_bytes,
    )
    if tune == ZEN5:
        return replace(native, overhead=ZEN5_OVERHEAD, asks_ahead=True, asks_nearest=True)
    if tune not in MESH:
        return native
    shared = min(native.l3_bytes, MESH_L3_BYTES)
    return replace(native, l3_bytes=shared, l3_rate=MESH_L3_RATE, memory_rate=MESH_MEMORY_RATE)


def _beyond(level: Target) -> Target:
    """The level with the features for bytes that this machine has and the level does not."""
    known = BEYOND_LEVELS.get(level.name, {})
    found = [feature for feature in known if feature in host_features()]
    says = {known[feature] for feature in found}
    return replace(
        level,
        features=",".join([level.features, *(f"+{feature}" for feature in found)]),
        required_features=(*level.required_features, *found),
        dots_bytes="dots_bytes" in says,
        looks_up_bytes="looks_up_bytes" in says,
    )


def _caches() -> tuple[int, int, int]:
    """Bytes of the data caches of the first three levels, 0 where the system does not say."""
    sizes = {1: 0, 2: 0, 3: 0}
    for entry in sorted(_SYSFS_CACHES.glob("index*")):
        try:
            level, kind, size = (entry.joinpath(f).read_text().strip() for f in ("level", "type", "size"))
        except OSError:
            continue
        if kind != "Instruction" and int(level) in sizes and size.endswith("K"):
            sizes[int(level)] = int(size[:-1]) << 10
    return sizes[1], sizes[2], sizes[3]
