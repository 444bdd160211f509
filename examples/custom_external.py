"""Custom layers of the third kind: functions from elsewhere, with declared shapes, called by the native program.

    python examples/custom_external.py

A C function of the signature `void f(void **inputs, void **outputs, void *user)` may come from numba (`cfunc`), ctypes,
cffi, or be a bare address. A Python callable on numpy arrays works too, at the price of the interpreter.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np

import glulam as gl
from glulam import layers

SOURCE = """
void halve(void **inputs, void **outputs, void *user) {
    const float *x = inputs[0];
    float *y = outputs[0];
    for (long i = 0; i < *(long *)user; i++) y[i] = x[i] / 2;
}
"""


def compiled(folder: Path) -> ctypes._CFuncPtr | None:
    """`halve` as a function of a shared library, if this machine has a C compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        return None
    (folder / "halve.c").write_text(SOURCE, encoding="utf-8")
    subprocess.run([compiler, "-O2", "-shared", "-fPIC", "-o", folder / "halve.so", folder / "halve.c"], check=True)
    return ctypes.CDLL(str(folder / "halve.so")).halve


def sort_channels(x: np.ndarray) -> np.ndarray:
    """What glulam has no layer for: each pixel's channels in order."""
    return np.sort(x, axis=1)


def main() -> None:
    x = layers.Input((3, 16, 16), name="x")
    features = layers.Conv2d(8, 3, padding=1)(x)
    features = gl.external(sort_channels, features, outputs=features.shape)

    with tempfile.TemporaryDirectory() as folder:
        halve = compiled(Path(folder))
        count = ctypes.c_long(int(np.prod(features.shape)))
        if halve is not None:
            user = ctypes.addressof(count)
            features = gl.external(halve, features, outputs=features.shape, user=user, name="halve")
        graph = gl.Graph.of([x], {"y": layers.ReLU()(layers.Conv2d(4, 3)(features))})

        feeds = {"x": np.random.default_rng(0).standard_normal((1, 3, 16, 16)).astype(np.float32)}
        with gl.compile(graph, threads=2) as model:
            print("kernels:", *(step.label for step in model.manifest.steps), sep="\n  ")
            difference = np.abs(model.run(feeds)["y"] - gl.reference(graph, feeds)["y"]).max()
            print(f"largest difference to numpy: {difference:.1e}")
            assert difference < 1e-4
            try:
                model.save(Path(folder) / "net.glulam")
            except gl.errors.GlulamError as error:
                print("refused:", error)


if __name__ == "__main__":
    main()
