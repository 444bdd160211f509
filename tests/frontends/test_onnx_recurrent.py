"""LSTM, GRU and RNN through ONNX, against ONNX Runtime: directions, states, lengths, peepholes, clip, activations."""

from __future__ import annotations

import numpy as np
import pytest
from executors import native
from onnx_support import exported, run_ort, single

from glulam.compiler.errors import UnsupportedError
from glulam.compiler.graph.evaluate import evaluate
from glulam.frontends.onnx import from_onnx

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
OTHERS = {
    "LSTM": {"activations": ["HardSigmoid", "Tanh", "Softsign"], "activation_alpha": [0.3], "activation_beta": [0.4]},
    "GRU": {"activations": ["sigmoid", "LeakyRelu"], "activation_alpha": [0.3]},
    "RNN": {"activations": ["ScaledTanh"], "activation_alpha": [0.9], "activation_beta": [1.2]},
}
VARIANTS = [
    ({}, "", (3, 1, 2, 17)),
    ({"direction": "reverse", "clip": 0.3}, "bh", (4, 2, 3, 5)),
    ({"direction": "bidirectional"}, "blhcp", (5, 3, 4, 20)),
    ({"direction": "bidirectional", "clip": 0.2}, "blcp", (4, 9, 2, 16)),
    ({"direction": "reverse"}, "lh", (3, 4, 1, 33)),
    ("others", "bhp", (3, 2, 4, 7)),
]


def node(kind, attributes, optional, extents, constant=(1, 2)):
    steps, batch, features, hidden = extents
    rng = np.random.default_rng(hidden)
    count = 2 if attributes.get("direction") == "bidirectional" else 1
    rows = GATES[kind] * hidden

    def draw(key, *shape):
        return rng.uniform(-1, 1, shape).astype(np.float32) if key in optional else None

    inputs = [draw("", steps, batch, features), draw("", count, rows, features), draw("", count, rows, hidden)]
    lengths = rng.integers(1, steps + 1, batch).astype(np.int32) if "l" in optional else None
    inputs += [draw("b", count, 2 * rows), lengths, draw("h", count, batch, hidden)]
    if kind == "LSTM":
        inputs += [draw("c", count, batch, hidden), draw("p", count, 3 * hidden)]
    return single(kind, inputs, 14, constant, 3 if kind == "LSTM" else 2, hidden_size=hidden, **attributes)


@pytest.mark.parametrize("kind", GATES)
@pytest.mark.parametrize(("attributes", "optional", "extents"), VARIANTS)
@pytest.mark.parametrize("constant", [(1, 2), ()], ids=["constant", "computed"])
def test_agrees_with_onnx_runtime(kind, attributes, optional, extents, constant):
    attributes = dict(OTHERS[kind] if attributes == "others" else attributes)
    if kind == "GRU":
        attributes["linear_before_reset"] = extents[1] % 2
    proto, feeds = node(kind, attributes, optional, extents, constant)
    graph, theirs = from_onnx(proto), run_ort(proto, feeds)
    for run in (evaluate, native, exported):
        ours = run(graph, feeds)
        for name, expected in theirs.items():
            np.testing.assert_allclose(ours[name], expected, rtol=1e-5, atol=1e-5)


def test_unknown_activation_is_refused_by_name():
    proto, _ = node("RNN", {"activations": ["Cos"]}, "", (2, 1, 2, 3))
    with pytest.raises(UnsupportedError, match="activation Cos"):
        from_onnx(proto)
