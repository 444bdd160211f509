"""Checks of layer arguments: extents per spatial axis, paddings in all their forms."""

from __future__ import annotations

import math
import operator
from collections.abc import Collection, Mapping, Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
import numpy.typing as npt

from glulam.compiler.errors import ShapeError
from glulam.compiler.graph.types import Array
from glulam.frontends.padding import same

Extents = int | Sequence[int]
Pads = tuple[tuple[int, int], ...]
PADDING_FORMS = "an integer, one integer per axis, ((before, after), ...) per axis, 'same', 'same_lower' or 'valid'"


def integer(value: Any, what: str, *, low: int | None = None) -> int:
    """The value as an int. Raises ShapeError if it is none, or below `low`."""
    try:
        number = operator.index(value)
    except TypeError:
        raise ShapeError(f"{what} is {value!r}, not an integer") from None
    if isinstance(value, bool):
        raise ShapeError(f"{what} is {value!r}, not an integer")
    if abs(number) >= 2**64:
        raise ShapeError(f"{what} is beyond 64 bits")
    if low is not None and number < low:
        raise ShapeError(f"{what} is {number}; it must be at least {low}")
    return number


def real(value: Any, what: str, *, low: float = -math.inf, high: float = math.inf) -> float:
    """The value as a float. Raises ShapeError if it is no number, or outside [low, high], as NaN is."""
    scalar = value.item() if isinstance(value, np.ndarray) and value.ndim == 0 else value
    if isinstance(scalar, bool) or not isinstance(scalar, Real):
        raise ShapeError(f"{what} is {value!r}, not a number")
    try:
        number = float(scalar)
    except OverflowError:
        raise ShapeError(f"{what} is beyond the largest float") from None
    if not low <= number <= high and (low, high) != (-math.inf, math.inf):
        wanted = f"in [{low:g}, {high:g}]" if high < math.inf else f"at least {low:g}"
        raise ShapeError(f"{what} is {value}; it must be {wanted}")
    return number


def flag(value: Any, what: str) -> bool:
    """The value as a bool: a truth value, numpy's too, or 0 or 1. Raises ShapeError for anything else."""
    if not isinstance(value, bool | np.bool_ | Integral) or value not in (0, 1):
        raise ShapeError(f"{what} is {value!r}; it must be True or False")
    return bool(value)


def choice(value: Any, known: Collection[str], what: str) -> str:
    """The value, one of the words known. Raises ShapeError for anything else."""
    if not isinstance(value, str) or value not in known:
        raise ShapeError(f"{what} is {value!r}; it must be one of {list(known)}")
    return value


def bias_argument(
    bias: bool | npt.ArrayLike | None, layer: str, inferred: str = ""
) -> tuple[bool, npt.ArrayLike | None]:
    """Whether there is a bias, and its array if that was given; truth values may be numpy's.

    Raises ShapeError for a number, which is another argument out of its place if PyTorch has one more, `inferred`.
    """
    if bias is None or isinstance(bias, bool | np.bool_):
        return bool(bias), None
    if isinstance(bias, Real):
        remedy = f" ({inferred} is inferred: leave it out)" if inferred else ""
        raise ShapeError(f"{layer}: bias is {bias}; it is True, False or an array{remedy}")
    return True, bias


def named_arrays(given: Any, what: str) -> dict[str, npt.ArrayLike]:
    """The arrays of a mapping by name, none for None. Raises ShapeError for anything else."""
    if given is None:
        return {}
    if not isinstance(given, Mapping) or not all(isinstance(key, str) for key in given):
        raise ShapeError(f"{what} is {given!r}; it must map names of parameters to arrays")
    return dict(given)


def extents(value: Any, rank: int, what: str, *, low: int = 1) -> tuple[int, ...]:
    """One integer per spatial axis from an integer or a sequence."""
    if not isinstance(value, Sequence) or isinstance(value, str):
        return (integer(value, what, low=low),) * rank
    if len(value) != rank:
        raise ShapeError(f"{what} is {tuple(value)!r}; give one integer, or {rank}, one per spatial axis")
    return tuple(integer(entry, what, low=low) for entry in value)


def dimensions(value: Any, what: str) -> tuple[int, ...]:
    """Numbers of axes, from one or a sequence; negative ones count from the end.

    Raises ShapeError for anything else.
    """
    given = tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else (value,)
    return tuple(integer(entry, what) for entry in given)


def numbers(value: Any, what: str) -> Array:
    """The value as an array. Raises ShapeError unless it is one of numbers, none of them masked."""
    if isinstance(value, np.ma.MaskedArray):
        raise ShapeError(f"{what}: masked arrays are refused; fill the mask with `.filled(value)`")
    try:
        array = np.asarray(value)
    except (ValueError, TypeError) as error:
        raise ShapeError(f"{what}: not an array ({error})") from error
    if array.dtype.kind not in "fiub":
        raise ShapeError(f"{what}: an array of {array.dtype}; numbers are needed")
    return array


def padding_argument(value: Any, rank: int, what: str) -> str | Pads:
    """A padding argument checked: "same" and the like stay as they are, numbers become ((before, after), ...)."""
    if isinstance(value, str):
        if value not in ("same", "same_upper", "same_lower", "valid"):
            raise ShapeError(f"{what} is {value!r}; it must be {PADDING_FORMS}")
        return value
    if not isinstance(value, Sequence):
        return ((integer(value, what, low=0),) * 2,) * rank
    if len(value) != rank:
        raise ShapeError(f"{what} is {tuple(value)!r}; for {rank} spatial axes it must be {PADDING_FORMS}")
    pads = []
    for entry in value:
        pair = (entry, entry) if not isinstance(entry, Sequence) else tuple(entry)
        if len(pair) != 2:
            raise ShapeError(f"{what} has {pair!r} for one axis; it must be (before, after)")
        pads.append((integer(pair[0], what, low=0), integer(pair[1], what, low=0)))
    return tuple(pads)


def resolve_padding(
    padding: str | Pads, spatial: Sequence[int], kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
) -> Pads:
    """Pads in numbers. "same" gives ceil(extent / stride) outputs; an odd pad goes behind ("same_lower": in front)."""
    if not isinstance(padding, str):
        return padding
    if padding == "valid":
        return ((0, 0),) * len(spatial)
    behind = padding != "same_lower"
    windows = zip(spatial, kernel, stride, dilation, strict=True)
    return tuple(same(extent, s, (k - 1) * d + 1, behind=behind) for extent, k, s, d in windows)
