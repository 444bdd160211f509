"""Loaded by `make fuzz` (`pytest -p tests.fuzz_profile`): many more examples than a test run draws, and no deadline."""

from __future__ import annotations

from collections import Counter

from hypothesis import settings

settings.register_profile("fuzz", max_examples=2000, deadline=None, print_blob=True)
settings.load_profile("fuzz")


def pytest_terminal_summary(terminalreporter):
    """Adds up the counts that the tests have recorded as properties."""
    total = Counter()
    for outcome in ("passed", "failed"):
        for report in terminalreporter.getreports(outcome):
            total.update({name: count for name, count in report.user_properties if isinstance(count, int)})
    for name, count in total.items():
        terminalreporter.write_line(f"{name}: {count}")
