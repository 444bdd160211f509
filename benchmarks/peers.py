"""Engines that take turns: each lives in a process of its own (`worker`) and idles while another runs."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from glulam.benchmarks.worker import receive, send
from glulam.console import write_arrays
from glulam.runtime.errors import GlulamError

PEERS = ("onnxruntime", "openvino")

SWITCHES: Mapping[str, Mapping[str, Mapping[str, str]]] = {
    "avx2": {"openvino": {"ONEDNN_MAX_CPU_ISA": "AVX2", "OV_CPU_MAX_ISA": "AVX2"}}
}
"""Environment variables that limit a peer's instructions, by instruction set and peer.

OpenVINO has two: its oneDNN (convolutions, matrix products, pointwise code) obeys the first, its own kernels
(reductions for one) the second. 2026.4.1 knows both; releases before may know the first alone. Neither limits its
linear layers, whose `gemm_mlas_f32` asks the processor as ONNX Runtime does, and nothing overrides the answer for
float32.
"""


class EngineError(GlulamError):
    """An engine refused the model or died; the message carries the last line it printed."""


def installed_peers() -> list[str]:
    """Those of PEERS that this Python can import."""
    return [name for name in PEERS if importlib.util.find_spec(name) is not None]


class EngineProcess:
    """One engine with one model loaded. Close it, or use it as a context manager.

    `environment` is added to that of this process. After construction: `version`, `load_seconds`, `first_seconds` (the
    first run), `outputs` of that run in order.
    """

    def __init__(
        self,
        engine: str,
        model: Path,
        feeds: Mapping[str, np.ndarray],
        *,
        threads: int,
        label: str = "",
        environment: Mapping[str, str] | None = None,
        **settings: Any,
    ) -> None:
        self.engine = engine
        self.label = label or engine
        self._folder = tempfile.TemporaryDirectory(prefix="glulam-")
        folder = Path(self._folder.name)
        self._errors = (folder / "stderr").open("w+b")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "glulam.benchmarks.worker", engine],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env={**os.environ, **(environment or {})},
        )
        try:
            write_arrays(folder / "inputs.npz", feeds)
            answer = self.ask("load", model=str(model), inputs=str(folder / "inputs.npz"), threads=threads, **settings)
            self.version: str = answer["version"]
            self.load_seconds: float = answer["load"]
            self.first_seconds: float = answer["first"]
            names = self.ask("outputs", path=str(folder / "outputs.npz"))["names"]
            with np.load(folder / "outputs.npz") as archive:
                self.outputs = {name: archive[f"arr_{i}"] for i, name in enumerate(names)}
        except (EngineError, OSError):
            self.close()
            raise

    def ask(self, command: str, **arguments: Any) -> dict[str, Any]:
        """One command and its answer (see `worker.Worker`). Raises EngineError if the process is gone."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            send(self._process.stdin, {"do": command, **arguments})  # type: ignore[arg-type]
            answer = receive(self._process.stdout)  # type: ignore[arg-type]
        except BrokenPipeError:
            answer = None
        if answer is None:
            code = self._process.wait()
            self._errors.seek(0)
            said = self._errors.read().decode(errors="replace").strip().splitlines()
            raise EngineError(f"{self.label} ended with {code} on {command!r}: {said[-1] if said else 'no message'}")
        return answer

    def run(self, times: int, warm: int = 1) -> list[float]:
        """Seconds of each of `times` runs, after `warm` uncounted ones."""
        seconds: list[float] = self.ask("run", times=times, warm=warm)["seconds"]
        return seconds

    def peak_rss(self) -> int:
        """Bytes."""
        return int(self.ask("memory")["rss"])

    def idle_cpu(self, seconds: float = 1.0) -> float:
        """CPU seconds burnt in the `seconds` after a run."""
        return float(self.ask("idle", seconds=seconds)["cpu"])

    def close(self) -> None:
        """End the process and remove its files."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._errors.close()
        self._folder.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
