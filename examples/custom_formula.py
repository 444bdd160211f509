"""Custom layers of the second kind: formulas in Python, traced once, fused like the built-in ones, saved in artifacts.

python examples/custom_formula.py
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

import glulam as gl
from glulam import layers


@gl.layer
def gated(x, *, beta=1.0, gain=gl.Weight("channels", init=1.0)):
    """x scaled by a smooth step; `beta` is a setting, `gain` one trained number for each channel."""
    return gain * x * gl.math.sigmoid(beta * x)


@gl.layer
def channel_norm(x, *, eps=1e-5):
    """Zero mean and unit variance over the channels: means become reductions, the rest is pointwise around them."""
    centred = x - np.mean(x, axis=1, keepdims=True)
    return centred / np.sqrt(np.mean(centred * centred, axis=1, keepdims=True) + eps)


@gl.layer
def triangle(x):
    """Conditions are values: `where` picks between two of them."""
    return gl.math.where(abs(x) < 1, 1 - abs(x), 0.0)


@gl.layer
def wrong(x):
    """A Python `if` cannot be traced: the error names this line and the remedy."""
    if x > 0:
        return x
    return -x


def main() -> None:
    gate, norm, last = gated(beta=1.5), channel_norm(), triangle()
    head = [layers.Input((3, 32, 32)), layers.Conv2d(16, 3, padding=1)]
    net = layers.Sequential([*head, gate, norm, last])
    print("parameters:", ", ".join(net.state_dict()))

    x = np.random.default_rng(0).standard_normal((1, 3, 32, 32)).astype(np.float32)
    model = gl.compile(net)
    print("kernels:", *(step.label for step in model.manifest.steps), sep="\n  ")

    # the same functions, run by numpy
    conv = layers.Sequential(head)
    conv.load_state_dict({key: value for key, value in net.state_dict().items() if key.startswith("0.")})
    features = gl.reference(conv, {"input": x})["output"]
    wanted = last.evaluate(norm.evaluate(gate.evaluate(features)))
    difference = np.abs(model(x) - wanted).max()
    print(f"largest difference to numpy: {difference:.1e}")
    assert difference < 1e-4

    # in a file, and in ONNX
    with tempfile.TemporaryDirectory() as folder:
        model.save(Path(folder) / "net.glulam")
        with gl.load(Path(folder) / "net.glulam") as loaded:
            assert np.array_equal(loaded(x), model(x))
    again = gl.from_onnx(gl.to_onnx(net))
    assert np.allclose(gl.reference(again, {"input": x})["output"], wanted, atol=1e-5)
    model.close()

    try:
        layers.Sequential([layers.Input((4,)), wrong()]).graph()
    except gl.errors.TraceError as error:
        print("refused:", error)


if __name__ == "__main__":
    main()
