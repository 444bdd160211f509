"""Errors that a user of glulam can meet; every message names the place and the remedy."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager


class GlulamError(Exception):
    """Base class of everything glulam raises on purpose."""


class InputError(GlulamError):
    """An array handed to `run` has the wrong name, shape or dtype."""


class CopyError(GlulamError, TypeError):
    """A model cannot be copied or pickled."""


class OutOfMemoryError(GlulamError, MemoryError):
    """The system gives no more memory for arenas or arrays of a run."""


class ForeignError(GlulamError):
    """An external function raised, or gave something else than it was declared to give."""


class ArtifactError(GlulamError):
    """A model file is damaged, truncated, or not a glulam artifact at all."""


class ArtifactVersionError(ArtifactError):
    """The artifact was written in a format version that this runtime does not read."""


class CpuMismatchError(ArtifactError):
    """The artifact needs CPU features that this machine lacks."""


@contextmanager
def writing(path: str | os.PathLike[str]) -> Iterator[None]:
    """An error of the system in here is one of writing `path`, as the user named it, whatever file it is about."""
    try:
        yield
    except OSError as error:
        if error.strerror is None:
            raise
        raise OSError(error.errno, error.strerror, os.fspath(path)) from error
