"""numpy's files, .npy and .npz, from anywhere: what a header claims is held against the file before it is believed."""

from __future__ import annotations

import os
import struct
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from glulam.runtime.errors import GlulamError

_ZIP_MAGIC = b"PK"
# what zipfile and numpy.lib.format raise on damaged files (RuntimeError: a member that says it is encrypted)
_DAMAGE = (
    ValueError,
    TypeError,
    EOFError,
    RuntimeError,
    IndexError,
    OverflowError,
    MemoryError,
    SyntaxError,
    struct.error,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)


class ArrayFileError(GlulamError):
    """The file holds no arrays of numbers, or is damaged."""


def read_arrays(path: str | os.PathLike[str]) -> npt.NDArray[Any] | dict[str, npt.NDArray[Any]]:
    """The array of an .npy file, or those of an .npz archive by name.

    Raises OSError if the file cannot be opened, ArrayFileError, which names it, for what it holds.
    """
    with open(path, "rb") as file:
        try:
            if file.read(len(_ZIP_MAGIC)) == _ZIP_MAGIC:
                return _read_archive(file)
            file.seek(0)
            return _read_array(file, Path(path).name, os.fstat(file.fileno()).st_size)
        except (OSError, *_DAMAGE) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ArrayFileError(f"{path} is not an array file (.npy or .npz), or is damaged: {reason}") from error


def _read_archive(file: BinaryIO) -> dict[str, npt.NDArray[Any]]:
    arrays = {}
    with zipfile.ZipFile(file) as archive:
        for info in archive.infolist():
            if not info.is_dir():
                with archive.open(info) as member:
                    arrays[info.filename.removesuffix(".npy")] = _read_array(member, info.filename, info.file_size)
    return arrays


def _read_array(file: Any, name: str, size: int) -> npt.NDArray[Any]:
    """One array of a file of `size` bytes; nothing is allocated for a header that the size contradicts."""
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"{name} has the unknown format version {version}")
    header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = header(file)
    count = 1
    for extent in shape:
        count *= int(extent)
    if dtype.hasobject or count * dtype.itemsize != size - file.tell():
        raise ValueError(f"{name} claims {shape} of {dtype}, which its size contradicts")
    file.seek(0)
    return np.lib.format.read_array(file, allow_pickle=False)
