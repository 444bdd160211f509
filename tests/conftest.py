"""Fixtures for all tests: golden texts, compared or rewritten with --update-golden."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from glulam.compiler.cache import VARIABLE

GOLDEN = Path(__file__).parent / "golden"


os.environ[VARIABLE] = "off"  # also for processes that tests start: nothing is kept, nothing found


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
