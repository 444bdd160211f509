"""Types for argparse: what glulam's own commands and those of `benchmarks` take for numbers, lists and files."""

from __future__ import annotations

import argparse
import math
from pathlib import Path


def positive(text: str) -> int:
    """A whole number of at least one."""
    return _at_least(1, text)


def not_negative(text: str) -> int:
    """A whole number of at least nought."""
    return _at_least(0, text)


def _at_least(least: int, text: str) -> int:
    if not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least {least}")
    return int(text)


def counts(text: str) -> list[int]:
    """`1,2` as [1, 2]: whole numbers of at least one."""
    return [positive(number) for number in text.split(",")]


def seconds(text: str) -> float:
    """A duration of more than nothing."""
    value = _number(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds")
    return value


def amount(text: str) -> float:
    """A number of at least nought, whole or not."""
    value = _number(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of at least 0")
    return value


def _number(text: str) -> float:
    """NaN for what is none."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def output_file(text: str) -> Path:
    """Where a file can be written, in a folder that is made if need be: it is looked at before the work."""
    path = Path(text)
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"{path} is a folder; give the name of a file, such as {path / 'result.json'}")
    there = next(folder for folder in path.absolute().parents if folder.exists())
    if not there.is_dir():
        raise argparse.ArgumentTypeError(f"{there} is no folder, so {path} cannot be in it")
    return path
