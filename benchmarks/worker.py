"""One engine in a process of its own, told over a pipe what to do: the other end is `peers`.

Every message is JSON behind its length in four bytes. Between two messages the process is blocked reading; before it
answers `run` it waits until its own threads have stopped burning CPU (thread pools spin for a while after a call), so
that the next engine has the machine to itself. An engine is here what a user gets by its defaults, with the number of
threads and float32 set.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import struct
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

import numpy as np

if TYPE_CHECKING:
    from glulam.runtime.profile import Profile

Feeds = Mapping[str, np.ndarray]
HEADER = struct.Struct(">I")


def send(stream: BinaryIO, message: Mapping[str, Any]) -> None:
    data = json.dumps(message).encode()
    stream.write(HEADER.pack(len(data)) + data)
    stream.flush()


def receive(stream: BinaryIO) -> dict[str, Any] | None:
    """The next message, or None if the other end has closed the pipe."""
    header = stream.read(HEADER.size)
    if len(header) < HEADER.size:
        return None
    message: dict[str, Any] = json.loads(stream.read(HEADER.unpack(header)[0]))
    return message


class Engine(Protocol):
    """What an engine offers once its model is loaded."""

    version: str

    def run(self, feeds: Feeds) -> Mapping[str, np.ndarray]: ...


class OnnxRuntime:
    """ONNX Runtime's CPU provider. `optimize=False` switches its graph optimisations off (for reference outputs)."""

    def __init__(self, path: str, threads: int, optimize: bool = True) -> None:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        if not optimize:
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        self.version = ort.__version__
        self._session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self._names = [output.name for output in self._session.get_outputs()]

    def run(self, feeds: Feeds) -> Mapping[str, np.ndarray]:
        return dict(zip(self._names, self._session.run(None, dict(feeds)), strict=True))


class OpenVino:
    """OpenVINO's CPU plug-in, one stream, float32 all through."""

    def __init__(self, path: str, threads: int) -> None:
        import openvino as ov

        settings = {
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": "f32",
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
        }
        self.version = ov.__version__
        compiled = ov.Core().compile_model(path, "CPU", settings)
        self._request = compiled.create_infer_request()
        self._names = [port.get_any_name() for port in compiled.outputs]

    def run(self, feeds: Feeds) -> Mapping[str, np.ndarray]:
        results = self._request.infer(dict(feeds), share_inputs=True, share_outputs=True)
        return dict(zip(self._names, results.values(), strict=True))


class Glulam:
    """An artifact that `glulam compile` has written; the process never sees the compiler."""

    def __init__(self, path: str, threads: int) -> None:
        import glulam
        from glulam.runtime.model import load

        self.version = glulam.__version__
        self._model = load(path, threads=threads)

    def run(self, feeds: Feeds) -> Mapping[str, np.ndarray]:
        return self._model.run(feeds)

    def profile(self, feeds: Feeds, repeat: int) -> Profile:
        return self._model.profile(feeds, repeat)


ENGINES: Mapping[str, Callable[..., Engine]] = {"onnxruntime": OnnxRuntime, "openvino": OpenVino, "glulam": Glulam}
LIBRARIES = {"onnxruntime": "onnxruntime", "openvino": "openvino", "glulam": "glulam.runtime.model"}


def peak_rss() -> int:
    """Largest resident size of this process so far, in bytes."""
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def settle(limit: float = 3.0, window: float = 0.02) -> None:
    """Wait until this process, all threads together, uses less than a tenth of a core; at most `limit` seconds."""
    deadline = time.monotonic() + limit
    while time.monotonic() < deadline:
        before = time.process_time()
        time.sleep(window)
        if time.process_time() - before < window / 10:
            return


class Worker:
    """The commands: load, run, outputs, idle, profile, memory."""

    def __init__(self, name: str) -> None:
        importlib.import_module(LIBRARIES[name])
        self._make = ENGINES[name]

    def load(self, model: str, inputs: str, threads: int, **settings: Any) -> dict[str, Any]:
        """Seconds to load the model and, apart from it, of the first run; the engine's library is imported before."""
        with np.load(inputs) as archive:
            self._feeds = {name: archive[name] for name in archive.files}
        begin = time.perf_counter()
        self._engine = self._make(model, threads, **settings)
        loaded = time.perf_counter()
        self._outputs = self._engine.run(self._feeds)
        done = time.perf_counter()
        settle()
        return {"version": self._engine.version, "load": loaded - begin, "first": done - loaded, "rss": peak_rss()}

    def run(self, times: int, warm: int = 1) -> dict[str, Any]:
        """Seconds of each of `times` runs, after `warm` runs that are not counted."""
        run, feeds = self._engine.run, self._feeds
        for _ in range(warm):
            self._outputs = run(feeds)
        seconds = []
        for _ in range(times):
            begin = time.perf_counter()
            self._outputs = run(feeds)
            seconds.append(time.perf_counter() - begin)
        settle()
        return {"seconds": seconds}

    def outputs(self, path: str) -> dict[str, Any]:
        """Write what the last run gave to a `.npz`; the answer lists the names in order."""
        np.savez(path, *self._outputs.values())
        return {"names": list(self._outputs)}

    def idle(self, seconds: float) -> dict[str, Any]:
        """CPU seconds burnt, by all threads together, in the `seconds` that follow a run."""
        self._engine.run(self._feeds)
        before = time.process_time()
        time.sleep(seconds)
        return {"cpu": time.process_time() - before}

    def profile(self, repeat: int) -> dict[str, Any]:
        """Label, kernel and seconds of every step; only glulam can tell."""
        profile = self._engine.profile(self._feeds, repeat)  # type: ignore[attr-defined]
        settle()
        return {"steps": [{"label": s.label, "kernel": s.kernel, "seconds": s.seconds} for s in profile.steps]}

    def memory(self) -> dict[str, Any]:
        """Peak resident size, bytes."""
        return {"rss": peak_rss()}


def main() -> int:
    """Serve the engine named on the command line until the pipe closes. What libraries print goes to stderr."""
    commands = sys.stdin.buffer
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    worker = Worker(sys.argv[1])
    actions: Mapping[str, Callable[..., dict[str, Any]]] = {
        "load": worker.load,
        "run": worker.run,
        "outputs": worker.outputs,
        "idle": worker.idle,
        "profile": worker.profile,
        "memory": worker.memory,
    }
    while (message := receive(commands)) is not None:
        send(answers, actions[message.pop("do")](**message))
    return 0


if __name__ == "__main__":
    sys.exit(main())
