"""Loaded by `make fuzz` (`pytest -p tests.fuzz_profile`): many more examples than a test run draws, and no deadline."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("fuzz", max_examples=2000, deadline=None, print_blob=True)
settings.load_profile("fuzz")
