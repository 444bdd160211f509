"""What the random tests share: how many examples, for how long, and how many of them agreed.

`make test` draws the same examples every time, and all of them. `make fuzz` draws new ones, for GLULAM_FUZZ_SECONDS at
most or, given GLULAM_FUZZ_EXAMPLES, that many of them however long it takes.
"""

from __future__ import annotations

import math
import os
import time
from dataclasses import dataclass, field

from hypothesis import HealthCheck, settings

FUZZING = settings.get_current_profile_name() == "fuzz"
WANTED = int(os.environ.get("GLULAM_FUZZ_EXAMPLES", "0")) if FUZZING else 0
SECONDS = float(os.environ.get("GLULAM_FUZZ_SECONDS", "600")) if FUZZING and not WANTED else math.inf


@dataclass
class Run:
    """How many examples agreed, and when to stop; once one has failed, its shrinking takes the time it needs."""

    end: float = field(default_factory=lambda: time.monotonic() + SECONDS)
    failed: bool = False
    compared: int = 0
    uncertain: int = 0

    def over(self):
        return not self.failed and time.monotonic() > self.end


def drawing(examples):
    """Settings for so many examples, the same ones every time unless this is `make fuzz`."""
    return settings(
        max_examples=examples,
        derandomize=not FUZZING,
        database=settings.default.database if FUZZING else None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
