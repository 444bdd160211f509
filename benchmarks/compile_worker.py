"""One compilation, or one loading, in a process of its own: `benchmarks.compile` starts it and reads one line of JSON.

    python -m glulam.benchmarks.compile_worker network resnet50

It imports no more than a program would that does the same, so that the peak of its memory is that program's.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable, Mapping

from glulam.benchmarks.worker import peak_rss


def network(name: str) -> float:
    """Seconds to compile a network of the zoo, which is built before."""
    import glulam as gl

    net = gl.zoo.NETWORKS[name]()
    return _seconds(lambda: gl.compile(net))


def file(path: str) -> float:
    """Seconds to import and compile an ONNX file."""
    import glulam as gl

    return _seconds(lambda: gl.compile(gl.from_onnx(path)))


def shell(path: str, output: str) -> float:
    """Seconds of `glulam compile`, which imports, compiles and saves."""
    from glulam.cli import main

    with contextlib.redirect_stdout(sys.stderr):
        return _seconds(lambda: main(["compile", path, "-o", output]))


def load(path: str) -> float:
    """Seconds to load an artifact."""
    from glulam.runtime.model import load as load_model

    return _seconds(lambda: load_model(path))


def _seconds(do: Callable[[], object]) -> float:
    begin = time.perf_counter()
    kept = do()  # a model is not closed before the clock stops
    seconds = time.perf_counter() - begin
    del kept
    return seconds


ACTIONS: Mapping[str, Callable[..., float]] = {"network": network, "file": file, "shell": shell, "load": load}


def main(arguments: list[str]) -> None:
    action, *rest = arguments
    seconds = ACTIONS[action](*rest)
    print(json.dumps({"seconds": seconds, "peak": peak_rss()}))


if __name__ == "__main__":
    main(sys.argv[1:])
