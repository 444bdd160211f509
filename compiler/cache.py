"""What compilations leave on disk for the next one: object code and measurements, by a hash of what made them.

A cache may be lost, damaged, full, or shared by any number of processes at any time; all that it ever costs is time.
An entry is written under another name and renamed, and carries a hash of its contents, so a reader sees all of it or
nothing. The entries that were not used for longest go first when there are too many bytes.

Object code is executed: the folder is created for its owner only, and entries that belong to other users are not read.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Set
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

VARIABLE = "GLULAM_CACHE_DIR"
LIMIT = 512 << 20

_MAGIC = b"glulam entry 1\n\0"
_DIGEST = hashlib.sha256().digest_size
_SUFFIX, _TEMPORARY = ".entry", ".tmp"
_ABANDONED = 3600.0  # seconds after which nobody finishes a temporary file


@dataclass(frozen=True)
class Cache:
    """A folder of entries with at most `limit` bytes; without a folder it is always empty."""

    folder: Path | None
    limit: int = LIMIT

    def get(self, key: str) -> bytes | None:
        """The contents stored under the key; None if there are none, or none that are whole."""
        if self.folder is None:
            return None
        path = self._path(key)
        try:
            with path.open("rb") as file:
                if not _is_ours(os.fstat(file.fileno())):
                    return None
                data = file.read()
        except OSError:
            return None
        contents = _opened(key, data)
        with suppress(OSError):
            if contents is None:
                path.unlink()
            else:
                os.utime(path)
        return contents

    def put(self, key: str, contents: bytes) -> None:
        """Store the contents if that can be done; then let go of what is too much."""
        self.put_all({key: contents})

    def put_all(self, entries: Mapping[str, bytes]) -> None:
        """Store several at once."""
        if self.folder is None or not entries or sum(map(len, entries.values())) > self.limit:
            return
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            for key, contents in entries.items():
                self._write(key, contents)
        except OSError:
            return
        self._shrink(keep={self._path(key) for key in entries})

    def _write(self, key: str, contents: bytes) -> None:
        path = self._path(key)
        temporary = path.with_name(f"{path.name}.{os.getpid()}.{secrets.token_hex(4)}{_TEMPORARY}")
        try:
            with open(temporary, "xb", opener=_for_its_owner) as file:
                file.writelines((_MAGIC, _seal(key, contents), contents))
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    def _path(self, key: str) -> Path:
        assert self.folder is not None
        return self.folder / f"{key}{_SUFFIX}"

    def _shrink(self, keep: Set[Path]) -> None:
        """Remove abandoned files, and the oldest entries until the others have room; others may do so at once."""
        entries, room = [], self.limit
        for path, status in self._files():
            if path.suffix == _TEMPORARY and time.time() - status.st_mtime > _ABANDONED:
                with suppress(OSError):
                    path.unlink()
            elif path.suffix == _SUFFIX:
                room -= status.st_size
                if path not in keep:
                    entries.append((status.st_mtime, status.st_size, path))
        for _, size, path in sorted(entries):
            if room >= 0:
                break
            with suppress(OSError):
                path.unlink()
            room += size

    def _files(self) -> Iterator[tuple[Path, os.stat_result]]:
        assert self.folder is not None
        with suppress(OSError), os.scandir(self.folder) as found:
            for entry in found:
                with suppress(OSError):
                    yield Path(entry.path), entry.stat(follow_symlinks=False)


NO_CACHE = Cache(None)


def default_cache() -> Cache:
    """The user's cache: GLULAM_CACHE_DIR (empty or `off` for none), else where the platform keeps such things."""
    chosen = os.environ.get(VARIABLE)
    if chosen is not None:
        return NO_CACHE if chosen.strip().lower() in ("", "off") else Cache(Path(os.path.expanduser(chosen)))
    try:
        return Cache(_platform_folder() / "glulam" / "compiled")
    except RuntimeError:  # there is no home
        return NO_CACHE


def key_of(kind: str, parts: Iterable[str]) -> str:
    """A name for what is made from these texts and nothing else."""
    sha = hashlib.sha256()
    for part in parts:
        text = part.encode()
        sha.update(len(text).to_bytes(8, "little"))
        sha.update(text)
    return f"{kind}-{sha.hexdigest()}"


def _platform_folder() -> Path:
    if sys.platform == "win32" and (local := os.environ.get("LOCALAPPDATA")):
        return Path(local)
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    named = os.environ.get("XDG_CACHE_HOME", "")
    return Path(named) if os.path.isabs(named) else Path.home() / ".cache"


def _seal(key: str, contents: bytes) -> bytes:
    """A hash of key and contents, so that a file that was renamed is noticed too."""
    return hashlib.sha256(key.encode() + b"\0" + contents).digest()


def _opened(key: str, data: bytes) -> bytes | None:
    """The contents of an entry's file, None if it is damaged."""
    start = len(_MAGIC) + _DIGEST
    contents = data[start:]
    whole = len(data) >= start and data[: len(_MAGIC)] == _MAGIC and data[len(_MAGIC) : start] == _seal(key, contents)
    return contents if whole else None


def _for_its_owner(path: str, flags: int) -> int:
    """Whatever the umask is: files that others may write are not read."""
    return os.open(path, flags, 0o600)


def _is_ours(status: os.stat_result) -> bool:
    """Whether nobody but this user or the administrator can have written the file."""
    if sys.platform == "win32":
        return True
    return status.st_uid in (os.geteuid(), 0) and not status.st_mode & 0o022
