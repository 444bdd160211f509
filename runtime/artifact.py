"""The model file: written at once or not at all, and checked before anything in it is believed.

::

    header     64 bytes: magic, format version, length of the file, length and SHA-256 of the table
    table      JSON: the manifest, and for every part its offset (from the first page boundary behind the
               table), length, SHA-256 and sums
    parts      graph text, object code, weights; the last at a page boundary, so that they are used where they lie

Hashing would take most of the time of loading, so there the weights are held against their sums: those
of the 64-bit words, modulo 2**64, along the rows and down the columns of 8 MiB at a time as rows of 4 KiB, and the
bytes behind the last row; of all these the SHA-256. Like the product code that it is (Elias, "Error-free coding",
1954), that misses no damage to fewer than four words of a piece, and other damage as seldom as sums meet by chance.

Numbers are little-endian. Bytes that belong to nothing are zero. Nothing in the file is executed while it is read.
"""

from __future__ import annotations

import enum
import errno
import hashlib
import json
import mmap
import os
import secrets
import struct
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from glulam.runtime import processors
from glulam.runtime.errors import ArtifactError, ArtifactVersionError, writing
from glulam.runtime.foreign import Foreign
from glulam.runtime.manifest import FORMAT_VERSION, Manifest
from glulam.runtime.memory import Bytes, let_go

MAGIC = b"GLULAM\r\n"
PAGE = 4096

_HEADER = struct.Struct("<8sIIQQ32s")
_MAX_TABLE = 64 << 20
_PIECE = 8 << 20  # bytes of a long part that are hashed or summed at a time
_GRAPH, _CODE, _WEIGHTS = "graph", "code", "weights"
_ALIGNMENT = {_GRAPH: 64, _CODE: 64, _WEIGHTS: PAGE}


@dataclass(frozen=True, eq=False)
class Artifact:
    """All that a compiled model consists of. The weights lie at an address aligned for kernels.

    `foreign` are functions of this process that the code calls; a file cannot hold them.
    """

    manifest: Manifest
    object_code: bytes
    weights: Bytes
    graph_text: str
    foreign: tuple[Foreign, ...] = ()


@dataclass(frozen=True)
class _Part:
    offset: int
    length: int
    sha256: str
    sums: str


def write_artifact(path: str | os.PathLike[str], artifact: Artifact) -> None:
    """Writes the file under a temporary name beside `path`, then renames it.

    Raises OSError, which names `path`, if that fails, or if `path` is a folder, a pipe or a device; then there is no
    temporary file, and what `path` was before, it still is. Raises ArtifactError for what a file cannot hold.
    """
    if artifact.foreign:
        names = ", ".join(repr(function.name) for function in artifact.foreign)
        raise ArtifactError(
            f"the model calls external functions of this process ({names}), which a file cannot hold; "
            "write them as formulas (gl.layer), or compile where the functions are"
        )
    target = Path(path)
    with writing(path):
        _check_target(target)
        temporary = target.with_name(f".{target.name[:40]}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
        try:
            with temporary.open("xb") as file:
                _write(file, artifact)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
    _sync_folder(target.parent)


def _check_target(target: Path) -> None:
    """A rename would put the file in the place of a pipe or device too."""
    if target.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(target))
    if target.exists() and not target.is_file():
        raise OSError(errno.EINVAL, "not a regular file", str(target))


def _write(file: BinaryIO, artifact: Artifact) -> None:
    contents: dict[str, Bytes] = {
        _GRAPH: np.frombuffer(artifact.graph_text.encode(), np.uint8),
        _CODE: np.frombuffer(artifact.object_code, np.uint8),
        _WEIGHTS: np.ascontiguousarray(artifact.weights),
    }
    parts, end = _place(contents)
    places = {name: asdict(part) for name, part in parts.items()}
    record = {"manifest": artifact.manifest.to_json(), "parts": places}
    table = json.dumps(record, separators=(",", ":")).encode()
    base = _base(len(table))
    file.write(_HEADER.pack(MAGIC, FORMAT_VERSION, 0, base + end, len(table), hashlib.sha256(table).digest()))
    file.write(table)
    for name, content in contents.items():
        file.write(b"\0" * (base + parts[name].offset - file.tell()))
        for piece in _pieces(content):
            file.write(piece.data)
            let_go(piece)
    file.write(b"\0" * (base + end - file.tell()))


def _base(table_length: int) -> int:
    """Where the parts begin: at the first page boundary after the table."""
    return -(-(_HEADER.size + table_length) // PAGE) * PAGE


def _place(contents: Mapping[str, Bytes]) -> tuple[dict[str, _Part], int]:
    parts, end = {}, 0
    for name, content in contents.items():
        end += -end % _ALIGNMENT[name]
        parts[name] = _Part(end, content.nbytes, _sha256(content), _sums(content))
        end += content.nbytes
    return parts, end


def _sync_folder(folder: Path) -> None:
    """Makes the rename durable, where folders can be read and synchronised; the file is in its place anyway."""
    if os.name == "posix":
        with suppress(OSError):
            descriptor = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def is_artifact(path: str | os.PathLike[str]) -> bool:
    """Whether the path is a file that begins as a model file does."""
    try:
        with open(path, "rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


class Check(enum.Enum):
    """What the weights of a file are held against. All else is always held against its SHA-256."""

    NOTHING = "nothing"
    SUMS = "sums"
    HASH = "hash"


def open_artifact(path: str | os.PathLike[str], check: Check = Check.SUMS) -> Artifact:
    """Reads a model file; its weights stay in the file, mapped.

    Raises:
        OSError: the file cannot be opened.
        ArtifactError: it is not a model file, or truncated, or altered.
        ArtifactVersionError: it is of another format version.
    """
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size < _HEADER.size:
            raise ArtifactError(f"{path}: {size} bytes are too few for a glulam model; it was not saved completely")
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    data = np.frombuffer(mapped, np.uint8)
    try:
        return _parse(data, check)
    except ArtifactError as error:
        raise type(error)(f"{path}: {error}") from error


def _parse(data: Bytes, check: Check) -> Artifact:
    magic, version, reserved, length, table_length, digest = _HEADER.unpack(data[: _HEADER.size].tobytes())
    if magic != MAGIC:
        raise ArtifactError("not a glulam model")
    if version != FORMAT_VERSION:
        raise ArtifactVersionError(
            f"format version {version}, this glulam reads {FORMAT_VERSION}; compile the model again with it"
        )
    if reserved or length != data.size or not 0 < table_length <= min(_MAX_TABLE, length - _HEADER.size):
        raise ArtifactError(f"{data.size} bytes, expected {length}; the file is truncated or damaged")
    end, base = _HEADER.size + table_length, _base(table_length)
    text = data[_HEADER.size : end].tobytes()
    if hashlib.sha256(text).digest() != digest:
        raise ArtifactError("the manifest does not match its hash; the file is damaged")
    table = _json(text)
    if not isinstance(table, dict) or set(table) != {"manifest", "parts"}:
        raise ArtifactError("the table lacks manifest or parts")
    manifest = Manifest.from_json(table["manifest"])
    if base > data.size or data[end:base].any():
        raise ArtifactError("the parts do not begin where the table ends; the file is damaged")
    contents = _contents(data[base:], table["parts"], check)
    try:
        graph_text = contents[_GRAPH].tobytes().decode()
    except UnicodeDecodeError as error:
        raise ArtifactError(f"the graph text is not UTF-8: {error}") from error
    return Artifact(manifest, contents[_CODE].tobytes(), contents[_WEIGHTS], graph_text)


def _json(text: bytes) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"the manifest is not JSON: {error}") from error


def _contents(data: Bytes, table: object, check: Check) -> dict[str, Bytes]:
    """The parts by name, after a check that they lie where they may, one after the other, and match their hashes."""
    if not isinstance(table, dict) or set(table) != set(_ALIGNMENT):
        raise ArtifactError(f"the table does not name the parts {sorted(_ALIGNMENT)}")
    contents, start = {}, 0
    for name, alignment in _ALIGNMENT.items():
        part = _part(table[name])
        gap = data[start : part.offset]
        if part.offset % alignment or not start <= part.offset < start + alignment or gap.any():
            raise ArtifactError(f"part {name} is misplaced; the file is damaged")
        start = part.offset + part.length
        if start > data.size:
            raise ArtifactError(f"part {name} ends beyond the file; the file is truncated")
        contents[name] = data[part.offset : start]
        if not _is_right(contents[name], part, check if name == _WEIGHTS else Check.HASH):
            raise ArtifactError(f"part {name} does not match its hash; the file is damaged")
    if start != data.size:
        raise ArtifactError(f"{data.size - start} bytes follow the last part; the file is damaged")
    return contents


def _is_right(content: Bytes, part: _Part, check: Check) -> bool:
    match check:
        case Check.NOTHING:
            return True
        case Check.SUMS:
            return _sums(content) == part.sums
        case Check.HASH:
            return _sha256(content) == part.sha256


def _sha256(content: Bytes) -> str:
    sha = hashlib.sha256()
    for piece in _pieces(content):
        sha.update(piece.data)
        let_go(piece)
    return sha.hexdigest()


def _sums(content: Bytes) -> str:
    """The SHA-256 of the sums of all pieces, which are made side by side."""
    pieces = _pieces(content)
    if len(pieces) < 2:
        return hashlib.sha256(b"".join(map(_piece_sums, pieces))).hexdigest()
    with ThreadPoolExecutor(min(len(pieces), 4, processors.usable())) as pool:
        return hashlib.sha256(b"".join(pool.map(_piece_sums, pieces))).hexdigest()


def _piece_sums(piece: Bytes) -> bytes:
    whole = piece.size - piece.size % PAGE
    rows = piece[:whole].view("<u8").reshape(-1, PAGE // 8)
    sums: bytes = rows.sum(axis=1).tobytes() + rows.sum(axis=0).tobytes() + piece[whole:].tobytes()
    let_go(piece)
    return sums


def _pieces(content: Bytes) -> list[Bytes]:
    return [content[start : start + _PIECE] for start in range(0, content.nbytes, _PIECE)]


def _part(record: object) -> _Part:
    match record:
        case {"offset": int(offset), "length": int(length), "sha256": str(sha256), "sums": str(sums)} if (
            offset >= 0 and length >= 0
        ):
            return _Part(offset, length, sha256, sums)
    raise ArtifactError("the table describes a part wrongly")
