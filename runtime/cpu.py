"""What this machine can execute, compared with what a program was compiled for."""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from glulam.runtime.errors import CpuMismatchError

ARCHITECTURES = {"amd64": "x86_64", "x86_64": "x86_64", "arm64": "aarch64", "aarch64": "aarch64"}
"""LLVM's names of the architectures that there is code for, by the names of systems and triples."""
_SYSTEMS = {"linux": ("linux",), "darwin": ("darwin", "macosx"), "win32": ("windows",)}


def host_architecture() -> str:
    """x86_64, aarch64, or whatever the operating system calls the machine."""
    machine = platform.machine().lower()
    return ARCHITECTURES.get(machine, machine)


@cache
def host_features() -> frozenset[str]:
    """LLVM's names of what this processor can do; empty where LLVM cannot tell."""
    import llvmlite.binding as llvm

    try:
        found = llvm.get_host_cpu_features()
    except RuntimeError:
        return frozenset()
    return frozenset(name for name, present in found.items() if present)


def processor_name() -> str:
    """What the processor calls itself."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def check_host(triple: str, features: Iterable[str]) -> None:
    """Raises CpuMismatchError unless this machine can execute code for `triple` that uses `features`."""
    architecture, _, rest = triple.lower().partition("-")
    if ARCHITECTURES.get(architecture, architecture) != host_architecture():
        raise CpuMismatchError(
            f"the model was compiled for {triple}, this machine is {host_architecture()}; compile it for this machine"
        )
    if not any(name in rest for name in _SYSTEMS.get(sys.platform, (sys.platform,))):
        raise CpuMismatchError(
            f"the model was compiled for {triple}, this system is {sys.platform}; compile it on this system"
        )
    missing = sorted({feature.lstrip("+") for feature in features} - host_features())
    if missing:
        raise CpuMismatchError(
            f"the model needs CPU features that this machine lacks: {', '.join(missing)}; "
            "compile it here, or for a lower target such as x86-64-v2"
        )
