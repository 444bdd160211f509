"""Which processors this process may use, and how many at a time: affinity and cgroup quota."""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

_CGROUP_ROOT = Path("/sys/fs/cgroup")
_CGROUP_OF_PROCESS = Path("/proc/self/cgroup")

_getcpu = getattr(ctypes.PyDLL(None), "sched_getcpu", None) if sys.platform == "linux" else None


def allowed() -> tuple[int, ...]:
    """Numbers of the processors in the affinity mask of the process (that of its main thread)."""
    if hasattr(os, "sched_getaffinity"):
        return tuple(sorted(os.sched_getaffinity(os.getpid())))
    return tuple(range(os.cpu_count() or 1))


def pin(thread: int, cpu: int) -> None:
    """Confines a thread (its native id; 0 for this one) to a processor, where the system allows that."""
    if hasattr(os, "sched_setaffinity"):
        with contextlib.suppress(OSError):
            os.sched_setaffinity(thread, {cpu})


def current() -> int:
    """The processor that this thread is running on; -1 where the system does not tell."""
    return int(_getcpu()) if _getcpu is not None else -1


def usable() -> int:
    """How many threads can run at the same time: the size of the mask, or less if a cgroup limits the process."""
    quota = cgroup_quota()
    count = len(allowed())
    return count if quota is None else max(1, min(count, math.ceil(quota)))


def cgroup_quota(root: Path = _CGROUP_ROOT, membership: Path = _CGROUP_OF_PROCESS) -> float | None:
    """The least CPU quota of the process's cgroup and those around it, in processors; None without a limit."""
    quotas = [quota for folder in _folders(root, membership) if (quota := _quota(folder)) is not None]
    return min(quotas, default=None)


def _folders(root: Path, membership: Path) -> Iterator[Path]:
    """Folders with limits: of the process's groups and of the groups around them, for cgroup 2 and 1."""
    yield root
    yield root / "cpu"
    text = _read(membership)
    for line in text.splitlines():
        _, controllers, group = [*line.split(":", 2), "", ""][:3]
        hierarchy = root / "cpu" if "cpu" in controllers.split(",") else root
        if controllers and hierarchy == root:
            continue
        path = PurePosixPath(group)
        for inside in (path, *path.parents):
            yield hierarchy / str(inside).lstrip("/")


def _quota(folder: Path) -> float | None:
    limit = _read(folder / "cpu.max").split()
    if len(limit) != 2:
        limit = [_read(folder / name).strip() for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us")]
    try:
        quota, period = int(limit[0]), int(limit[1])
    except ValueError:
        return None
    return quota / period if quota > 0 and period > 0 else None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
