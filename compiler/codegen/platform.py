"""What the emitted thread code needs from a platform, as data: how to pause, sleep, wake and read a clock."""

from __future__ import annotations

from dataclasses import dataclass

from glulam.compiler.errors import TargetError
from glulam.runtime.cpu import ARCHITECTURES

_LINUX_SYSCALLS = {"x86_64": 202, "aarch64": 98}  # futex
_PAUSE = {
    "x86_64": ("declare void @llvm.x86.sse2.pause()", "call void @llvm.x86.sse2.pause()"),
    "aarch64": ("declare void @llvm.aarch64.hint(i32)", "call void @llvm.aarch64.hint(i32 1)"),
}
_CLOCK = {"x86_64": "llvm.readcyclecounter", "aarch64": "llvm.readsteadycounter"}
_SPINS = {"x86_64": 3000, "aarch64": 60000}
_SYSTEMS = {"linux": "linux", "darwin": "darwin", "macosx": "darwin", "windows": "windows"}


@dataclass(frozen=True)
class Platform:
    """LLVM text fragments; `wait` uses %word (ptr) and %seen (i32), `wake` uses %word, `relinquish` nothing.

    `spins` is the number of pauses that take about a tenth of a millisecond; `clock` is the intrinsic that reads a
    counter which ticks at a constant rate and which user code may read.
    """

    declarations: str
    pause: str
    wait: str
    wake: str
    relinquish: str
    clock: str
    spins: int

    @classmethod
    def of_triple(cls, triple: str) -> Platform:
        """Raises TargetError for an architecture or operating system without an entry in the tables above."""
        architecture, _, rest = triple.partition("-")
        machine = ARCHITECTURES.get(architecture)
        system = next((system for prefix, system in _SYSTEMS.items() if prefix in rest), None)
        if machine is None or system is None:
            raise TargetError(
                f"no thread primitives for triple {triple!r}; architectures: {sorted(set(ARCHITECTURES.values()))}, "
                f"systems: {sorted(set(_SYSTEMS.values()))}"
            )
        declare, wait, wake, relinquish = _system_calls(system, machine)
        pause_declaration, pause = _PAUSE[machine]
        clock = _CLOCK[machine]
        return cls(
            declarations="\n".join([pause_declaration, f"declare i64 @{clock}()", declare]),
            pause=pause,
            wait=wait,
            wake=wake,
            relinquish=relinquish,
            clock=clock,
            spins=_SPINS[machine],
        )


def _system_calls(system: str, machine: str) -> tuple[str, str, str, str]:
    """Declarations, wait, wake all, yield."""
    if system == "linux":
        futex = f"call i64 (i64, ...) @syscall(i64 {_LINUX_SYSCALLS[machine]}, ptr %word"
        return (
            "declare i64 @syscall(i64, ...)\ndeclare i32 @sched_yield()",
            f"{futex}, i64 128, i32 %seen, ptr null)",  # FUTEX_WAIT | FUTEX_PRIVATE_FLAG
            f"{futex}, i64 129, i32 2147483647)",  # FUTEX_WAKE | FUTEX_PRIVATE_FLAG
            "call i32 @sched_yield()",
        )
    if system == "darwin":
        return (
            "declare i32 @__ulock_wait(i32, ptr, i64, i32)\ndeclare i32 @__ulock_wake(i32, ptr, i64)\n"
            "declare i32 @sched_yield()",
            "%seen.wide = zext i32 %seen to i64\n"
            "  call i32 @__ulock_wait(i32 1, ptr %word, i64 %seen.wide, i32 0)",  # UL_COMPARE_AND_WAIT
            "call i32 @__ulock_wake(i32 257, ptr %word, i64 0)",  # UL_COMPARE_AND_WAIT | ULF_WAKE_ALL
            "call i32 @sched_yield()",
        )
    return (
        "declare i32 @WaitOnAddress(ptr, ptr, i64, i32)\ndeclare void @WakeByAddressAll(ptr)\n"
        "declare i32 @SwitchToThread()",
        "%compare = alloca i32, align 4\n  store i32 %seen, ptr %compare, align 4\n"
        "  call i32 @WaitOnAddress(ptr %word, ptr %compare, i64 4, i32 -1)",
        "call void @WakeByAddressAll(ptr %word)",
        "call i32 @SwitchToThread()",
    )
