"""LSTM, GRU and RNN layers against PyTorch's documented equations, written out in numpy here."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from executors import native
from onnx_support import exported

from glulam.compiler.errors import ShapeError
from glulam.compiler.graph.evaluate import evaluate
from glulam.compiler.graph.graph import Graph
from glulam.frontends import layers as L


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def lstm(x, h, c, wi, wh, bi, bh):
    i, f, g, o = np.split(x @ wi.T + bi + h @ wh.T + bh, 4, axis=1)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(c), c


def gru(x, h, wi, wh, bi, bh):
    xr, xz, xn = np.split(x @ wi.T + bi, 3, axis=1)
    hr, hz, hn = np.split(h @ wh.T + bh, 3, axis=1)
    z = sigmoid(xz + hz)
    return ((1 - z) * np.tanh(xn + sigmoid(xr + hr) * hn) + z * h,)


def rnn(x, h, wi, wh, bi, bh):
    return (np.tanh(x @ wi.T + bi + h @ wh.T + bh),)


def rnn_relu(x, h, wi, wh, bi, bh):
    return (np.maximum(x @ wi.T + bi + h @ wh.T + bh, 0),)


def torch_like(cell, x, state, states, layers, bidirectional, lengths):
    """Outputs and last states by PyTorch's rules; `states` start [layers * D, N, H]."""
    finals = []
    for layer in range(layers):
        outputs = []
        for d, way in enumerate(("", "_reverse") if bidirectional else ("",)):
            names = [f"{kind}_l{layer}{way}" for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
            rows = 4 * states[0].shape[2]
            given = [state.get(name, np.zeros(rows)) for name in names]
            row = layer * (2 if bidirectional else 1) + d
            y = np.zeros((*x.shape[:2], states[0].shape[2]))
            last = [s[row].copy() for s in states]
            for n, length in enumerate(lengths):
                own = [s[row, n : n + 1] for s in states]
                for t in range(length)[:: -1 if way else 1]:
                    own = cell(x[t, n : n + 1], *own, *(w[: given[0].shape[0]] for w in given))
                    y[t, n] = own[0]
                for s, value in zip(last, own, strict=True):
                    s[n] = value[0]
            outputs.append(y)
            finals.append(last)
        x = np.concatenate(outputs, axis=2)
    return (x, *(np.stack(s) for s in zip(*finals, strict=True)))


CELLS = {"LSTM": (L.LSTM, lstm, {}), "GRU": (L.GRU, gru, {}), "RNN": (L.RNN, rnn, {}),
         "ReLU": (L.RNN, rnn_relu, {"nonlinearity": "relu"})}  # fmt: skip


@pytest.mark.parametrize("kind", CELLS)
@pytest.mark.parametrize(
    ("layers", "bidirectional", "bias", "batch_first", "lengths"),
    [
        (1, False, True, False, None),
        (2, True, True, True, None),
        (3, False, False, True, None),
        (2, True, True, False, [4, 1, 3]),
    ],
)
def test_outputs_and_states_are_pytorchs(kind, layers, bidirectional, bias, batch_first, lengths):
    layer_type, cell, options = CELLS[kind]
    steps, batch, features, hidden = 4, 3, 5, 7
    count = layers * (2 if bidirectional else 1)
    layer = layer_type(hidden, layers, bias=bias, batch_first=batch_first, bidirectional=bidirectional,
                       lengths=lengths is not None, return_state=True, **options)  # fmt: skip
    shape = (batch, steps, features) if batch_first else (steps, batch, features)
    x = L.Input(shape[1:], name="x", batch=shape[0])
    state_count = 2 if kind == "LSTM" else 1
    states = [L.Input((batch, hidden), name=f"s{i}", batch=count) for i in range(state_count)]
    ends = [L.Input((), name="lengths", dtype="int64", batch=batch)] if lengths else []
    inputs = [x, *ends, *states]
    results = layer(*inputs)
    graph = Graph.of(inputs, {f"y{i}": y for i, y in enumerate(results)})

    rng = np.random.default_rng(3)
    feeds = {v.name: rng.uniform(-1, 1, v.shape).astype(np.float32) for v in (x, *states)}
    if lengths:
        feeds["lengths"] = np.array(lengths, np.int64)
    sequence = feeds["x"].swapaxes(0, 1) if batch_first else feeds["x"]
    parameters = layer.state_dict()
    assert ("bias_hh_l0" in parameters) is bias
    assert all(
        name.removeprefix("weight_ih_l").removesuffix("_reverse").isdigit()
        for name in parameters
        if "weight_ih" in name
    )
    y, *last = torch_like(cell, sequence, parameters, [feeds[s.name].astype(np.float64) for s in states], layers,
                          bidirectional, lengths or [steps] * batch)  # fmt: skip
    expected = [y.swapaxes(0, 1) if batch_first else y, *last]
    for run in (evaluate, native, exported):
        got = run(graph, feeds)
        for i, wanted in enumerate(expected):
            np.testing.assert_allclose(got[f"y{i}"], wanted, rtol=1e-5, atol=1e-5)


def projected(x, state, states, layers, bidirectional, lengths):
    """As `torch_like`, for an LSTM whose hidden state is projected."""

    def cell(x, h, c, wi, wh, bi, bh, wr):
        m, c = lstm(x, h, c, wi, wh, bi, bh)
        return m @ wr.T, c

    finals, ways = [], ("", "_reverse") if bidirectional else ("",)
    for layer, way in product(range(layers), ways):
        kinds = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")
        weights = [state[f"{kind}_l{layer}{way}"] for kind in kinds]
        if way == ways[0]:
            source, outputs = x, []
        row = len(finals)
        y = np.zeros((*x.shape[:2], states[0].shape[2]))
        last = [s[row].copy() for s in states]
        for n, length in enumerate(lengths):
            own = [s[row, n : n + 1] for s in states]
            for t in range(length)[:: -1 if way else 1]:
                own = cell(source[t, n : n + 1], *own, *weights)
                y[t, n] = own[0]
            for s, value in zip(last, own, strict=True):
                s[n] = value[0]
        outputs.append(y)
        finals.append(last)
        if way == ways[-1]:
            x = np.concatenate(outputs, axis=2)
    return (x, *(np.stack(s) for s in zip(*finals, strict=True)))


@pytest.mark.parametrize("begun", [True, False])
@pytest.mark.parametrize("lengths", [None, [4, 1, 3]])
@pytest.mark.parametrize(("layers", "bidirectional"), [(1, False), (2, True)])
def test_a_projected_lstm_is_pytorchs(layers, bidirectional, lengths, begun):
    steps, batch, features, hidden, size = 4, 3, 5, 7, 3
    count = layers * (2 if bidirectional else 1)
    layer = L.LSTM(hidden, layers, True, False, 0.0, bidirectional, size, lengths=lengths is not None,
                   return_state=True)  # fmt: skip
    x = L.Input((batch, features), name="x", batch=steps)
    ends = [L.Input((), name="lengths", dtype="int64", batch=batch)] if lengths else []
    states = [L.Input((batch, n), name=f"s{i}", batch=count) for i, n in enumerate((size, hidden))] if begun else []
    results = layer(x, *ends, *states)
    graph = Graph.of([x, *ends, *states], {f"y{i}": y for i, y in enumerate(results)})
    rng = np.random.default_rng(3)
    feeds = {v.name: rng.uniform(-1, 1, v.shape).astype(np.float32) for v in (x, *states)}
    if lengths:
        feeds["lengths"] = np.array(lengths, np.int64)
    begin = [feeds.get(f"s{i}", np.zeros((count, batch, n))) for i, n in enumerate((size, hidden))]
    parameters = layer.state_dict()
    assert parameters["weight_hh_l0"].shape == (4 * hidden, size)
    assert parameters["weight_hr_l0"].shape == (size, hidden)
    wanted = projected(feeds["x"], parameters, begin, layers, bidirectional, lengths or [steps] * batch)
    for run in (evaluate, native, exported):
        got = run(graph, feeds)
        for i, expected in enumerate(wanted):
            np.testing.assert_allclose(got[f"y{i}"], expected, rtol=1e-5, atol=1e-5)


def test_a_projection_makes_the_state_smaller():
    with pytest.raises(ShapeError, match="proj_size 7 is not below hidden_size 7"):
        L.LSTM(7, proj_size=7)


def test_layer_in_a_sequential_with_given_weights():
    weights = {
        "weight_ih_l0": np.ones((3, 2)),
        "weight_hh_l0": np.zeros((3, 3)),
        "bias_ih_l0": np.zeros(3),
        "bias_hh_l0": np.ones(3),
    }
    net = L.Sequential([L.Input((4, 2)), L.RNN(3, batch_first=True, weights=weights), L.Linear(1)])
    assert net.graph().outputs["output"].shape == (1, 4, 1)
    np.testing.assert_array_equal(net.state_dict()["0.weight_ih_l0"], np.ones((3, 2)))


def test_missing_lengths_or_states_are_named():
    x = L.Input((4, 2))
    with pytest.raises(ShapeError, match="its lengths, and no or 2 initial states, not 1 inputs"):
        L.LSTM(3, lengths=True)(x)
    with pytest.raises(ShapeError, match="no or 2 initial states, not 2 inputs"):
        L.LSTM(3)(x, L.Input((1, 3)))
