"""Targets: what the compiler knows of the processor it compiles for, chosen by name."""

from glulam.compiler.targets.host import NAMED, host_features, runnable_targets, target
from glulam.compiler.targets.target import HALVES, Target

__all__ = ["HALVES", "NAMED", "Target", "host_features", "runnable_targets", "target"]
