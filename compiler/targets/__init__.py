"""Targets: what the compiler knows of the processor it compiles for, chosen by name."""

from glulam.compiler.targets.host import NAMED, runnable_targets, target
from glulam.compiler.targets.target import PARTNERS, Target

__all__ = ["NAMED", "PARTNERS", "Target", "runnable_targets", "target"]
