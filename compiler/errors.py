"""Errors of the compiler; they share their base with the runtime's, so one `except` serves a caller."""

from __future__ import annotations

from collections.abc import Sequence

from glulam.runtime.errors import (
    ArtifactError,
    ArtifactVersionError,
    CopyError,
    CpuMismatchError,
    ForeignError,
    GlulamError,
    InputError,
    OutOfMemoryError,
)

__all__ = [
    "ArgumentError",
    "ArtifactError",
    "ArtifactVersionError",
    "CompileError",
    "CopyError",
    "CpuMismatchError",
    "ForeignError",
    "GlulamError",
    "GraphError",
    "InputError",
    "LoopError",
    "ModelFileError",
    "OutOfMemoryError",
    "ShapeError",
    "TargetError",
    "TraceError",
    "UnsupportedError",
]


class ArgumentError(InputError, TypeError, ValueError):
    """An option or argument cannot be what it is. Python's own names for that serve in an `except` as well."""


class GraphError(GlulamError):
    """A graph breaks one of the rules the verifier checks, or its text does not parse."""


class ShapeError(GraphError):
    """An operator refuses the shapes, dtypes or attributes it was given."""


class LoopError(GlulamError):
    """A loop program breaks a rule: an access may leave its buffer, a tile index is not constant, ..."""


class TraceError(GlulamError):
    """A formula written in Python does what cannot be traced, an `if` on a symbolic value for one."""


class TargetError(GlulamError):
    """The target is unknown, or this machine cannot execute it."""


class CompileError(GlulamError):
    """LLVM refused the emitted code. Always a bug of glulam; the message says how to report it."""


class ModelFileError(GlulamError):
    """A model file is malformed, hostile, or not a model."""


class UnsupportedError(GlulamError):
    """The model uses what glulam does not offer. `items` lists every such place, not just the first."""

    def __init__(self, message: str, items: Sequence[str] = ()) -> None:
        self.items = tuple(items)
        super().__init__("\n  ".join([message, *self.items]))
