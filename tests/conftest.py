"""Fixtures for all tests: golden texts, compared or rewritten with --update-golden; code that is kept for a session."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from machines import ZEN4

from glulam.compiler import driver
from glulam.compiler.cache import VARIABLE, Cache, default_cache
from glulam.compiler.codegen import module
from glulam.compiler.codegen.processes import processes_for
from glulam.compiler.loops.builder import Builder
from glulam.compiler.loops.ir import Load
from glulam.compiler.targets import target
from glulam.runtime import processors

GOLDEN = Path(__file__).parent / "golden"


os.environ[VARIABLE] = "off"  # also for processes that tests start: nothing is kept on disk, nothing found


@dataclass(frozen=True)
class InMemory(Cache):
    """Keeps object code for as long as it lives, and no measurements."""

    objects: dict[str, bytes] = field(default_factory=dict)

    def get(self, key: str) -> bytes | None:
        return self.objects.get(key)

    def put_all(self, entries: Mapping[str, bytes]) -> None:
        self.objects.update(item for item in entries.items() if item[0].startswith(("kernel-", "entry-")))


@pytest.fixture(autouse=True, scope="session")
def a_kernel_is_emitted_once() -> Iterator[None]:
    """What an earlier test has emitted for the same kernel and target is used again, unless a test names a folder.

    `Options(cache=False)` emits everything, as do the functions of `codegen` themselves.
    """
    memory = InMemory(None)

    def chosen() -> Cache:
        return memory if os.environ.get(VARIABLE) == "off" else default_cache()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(driver, "default_cache", chosen)
        yield


@pytest.fixture
def prefetched(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Names, up to their numbers, of the buffers that kernels built in the test ask for ahead."""
    found, prefetch = set[str](), Builder.prefetch

    def seen(self: Builder, place: Load, level: int = 1) -> None:
        found.update(re.findall("^[a-z]+", place.buffer.name))
        prefetch(self, place, level)

    monkeypatch.setattr(Builder, "prefetch", seen)
    return found


@pytest.fixture
def choices_of_zen4(monkeypatch: pytest.MonkeyPatch) -> None:
    """The native target is that processor; for tests that run no code."""
    monkeypatch.setattr(driver, "target", lambda name="native": ZEN4 if name == "native" else target(name))


@pytest.fixture(autouse=True, scope="session")
def workers_of_pytest_need_no_others() -> Iterator[None]:
    """Where pytest-xdist has workers for all cores, a compilation that starts one more process is not sooner done."""
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))

    def for_the_cores_left(kernels: int) -> int:
        return processes_for(kernels) if processors.usable() > workers else 0

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "processes_for", for_the_cores_left)
        yield


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write the texts in tests/golden anew")


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """`golden(name, text)`: the text equals tests/golden/<name>.txt."""

    def check(name: str, text: str) -> None:
        path = GOLDEN / f"{name}.txt"
        if request.config.getoption("--update-golden"):
            path.write_text(text, encoding="utf-8")
        assert path.exists(), f"{path} is missing: run pytest with --update-golden, then read what it wrote"
        assert text == path.read_text(encoding="utf-8")

    return check
