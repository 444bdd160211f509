"""What commands print, and the files they write: glulam's own and those of `benchmarks`. Nothing of the compiler."""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NoReturn

import numpy as np
from rich.console import Console

from glulam.runtime.errors import GlulamError


class _Output(Console):
    def on_broken_pipe(self) -> None:
        """Nobody reads on, `head` for one. The program hears of it as from `print`; rich would exit with 1."""
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))


def wide_console(width: int | None = None) -> Console:
    """Standard output; wide where it is a file or a pipe without COLUMNS, so that rows stay rows. `width` fixes it."""
    narrow = sys.stdout.isatty() or os.environ.get("COLUMNS", "").strip("0").isdecimal()
    return _Output(width=width or (shutil.get_terminal_size().columns if narrow else 200), highlight=False)


def stop_writing() -> None:
    """What goes to standard output goes nowhere from now on: nobody reads it."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def exit_with(program: Callable[[], int]) -> NoReturn:
    """Ends the process by what `program` gives: with a line for an error, without one if nobody reads its output."""
    try:
        code = program()
        sys.stdout.flush()
    except BrokenPipeError:
        stop_writing()
        code = 0
    except (GlulamError, OSError) as error:
        sys.exit(f"error: {in_one_line(error)}")
    sys.exit(code)


def in_one_line(error: Exception) -> str:
    """The message without line breaks; of an error of the system the file and what is wrong with it."""
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    head, *items = str(error).splitlines() or [type(error).__name__]
    return " ".join(f"{head} {'; '.join(item.strip() for item in items)}".split())


def progress_console() -> Console:
    """Standard error, for what is being done."""
    return _Output(stderr=True)


def write_json(path: Path, content: object) -> None:
    """A file for people and programs, in a folder that is made if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """An .npz of arrays by name; np.savez has arguments of its own, whose names no array could have."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)
