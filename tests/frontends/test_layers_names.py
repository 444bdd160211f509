"""Names, state dicts, seeds and summaries of networks built by layers."""

from __future__ import annotations

import contextlib
import json

import numpy as np
import pytest

from glulam.compiler.errors import GraphError, ModelFileError, ShapeError
from glulam.compiler.graph.evaluate import evaluate
from glulam.compiler.graph.graph import Graph
from glulam.compiler.graph.verify import verify
from glulam.compiler.ops import RandomDropout
from glulam.frontends import layers as L


class Residual(L.Block):
    def __init__(self, channels):
        super().__init__()
        self.conv = L.Conv2d(channels, 3, padding=1, bias=False)
        self.norms = [L.BatchNorm2d(), L.BatchNorm2d()]

    def forward(self, x):
        y = self.conv(x)
        for norm in self.norms:
            y = L.ReLU()(norm(y))
        return x + y


def network(**options):
    return L.Sequential(
        [
            L.Input((3, 8, 8), normalize=L.ZScore(0.4, 0.2), **options),
            L.Conv2d(4, 3, padding=1),
            L.BatchNorm(),
            L.ReLU(),
            Residual(4),
            L.Sequential([L.Conv2d(2, 1, name="head"), L.Flatten()], name="tail"),
            L.Linear(5, bias=False),
        ]
    )


NAMES = {
    "0.weight": (4, 3, 3, 3),
    "0.bias": (4,),
    "1.weight": (4,),
    "1.bias": (4,),
    "1.running_mean": (4,),
    "1.running_var": (4,),
    "3.conv.weight": (4, 4, 3, 3),
    **{f"3.norms.{i}.{key}": (4,) for i in (0, 1) for key in ("weight", "bias", "running_mean", "running_var")},
    "tail.head.weight": (2, 4, 1, 1),
    "tail.head.bias": (2,),
    "5.weight": (5, 128),
}


def outputs(graph, seed=0):
    rng = np.random.default_rng(seed)
    return evaluate(graph, {k: rng.standard_normal(v.shape).astype(np.float32) for k, v in graph.inputs.items()})


def test_state_dict_has_pytorchs_names():
    net = network()
    assert {name: array.shape for name, array in net.state_dict().items()} == NAMES
    assert {name: array.shape for name, array in L.state_dict(net.graph()).items()} == NAMES
    verify(net.graph())
    assert net.graph() is net.graph()
    assert L.as_graph(net) is net.graph()
    assert [node.name for node in net.graph().nodes if node.op.name == "conv"] == ["0", "3.conv", "tail.head"]


def test_the_state_dict_is_a_copy():
    net = network()
    net.state_dict()["0.bias"][:] = 99
    assert not (net.state_dict()["0.bias"] == 99).any()


def write_npz(path, arrays):
    np.savez(path, **arrays)


def write_safetensors(path, arrays, patch=None):
    header, body = {"__metadata__": {"format": "pt"}}, b""
    for name, array in arrays.items():
        data = array.tobytes()
        kind = {"float32": "F32", "int64": "I64"}[array.dtype.name]
        header[name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": [len(body), len(body) + len(data)]}
        body += data
    if patch:
        patch(header)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + body)


@pytest.mark.parametrize("kind", ["mapping", "npz", "safetensors"])
def test_load_state_dict_makes_networks_equal(kind, tmp_path):
    source, target = network(seed=1), network(seed=2)
    arrays = source.state_dict() | {"1.num_batches_tracked": np.array(7)}
    given = arrays
    if kind == "npz":
        given = tmp_path / "w.npz"
        write_npz(given, arrays)
    elif kind == "safetensors":
        given = tmp_path / "w.safetensors"
        write_safetensors(given, arrays)
    before = outputs(target.graph())["output"]
    assert target.load_state_dict(given) == ([], [])
    after, wanted = outputs(target.graph())["output"], outputs(source.graph())["output"]
    assert not np.allclose(before, wanted)
    np.testing.assert_array_equal(after, wanted)


def test_graphs_are_filled_by_name():
    graph, twin = network(seed=1).graph(), network(seed=2).graph()
    L.load_state_dict(twin, L.state_dict(graph))
    np.testing.assert_array_equal(outputs(graph)["output"], outputs(twin)["output"])


def test_misfits_are_listed_together_and_change_nothing():
    net = network()
    before = net.state_dict()
    wrong = dict(before)
    del wrong["0.bias"]
    wrong["extra"] = np.zeros(3)
    wrong["1.weight"] = np.zeros(5)
    wrong["1.bias"] = np.array(["text"] * 4)
    wrong["5.weight"] = np.zeros((5, 128))
    with pytest.raises(ShapeError, match=r"(?s)missing: 0.bias.*unexpected: extra.*1.weight: shape.*1.bias: an array"):
        net.load_state_dict(wrong)
    assert all(np.array_equal(before[name], array) for name, array in net.state_dict().items())
    del wrong["1.weight"], wrong["1.bias"]
    with pytest.raises(ShapeError, match="strict is 'no'; it must be True or False"):
        net.load_state_dict(wrong, strict="no")
    keys = net.load_state_dict(wrong, strict=False)
    assert keys.missing_keys == ["0.bias", "1.weight", "1.bias"]
    assert keys.unexpected_keys == ["extra"]
    assert not net.state_dict()["5.weight"].any()


def test_keys_of_a_state_dict_are_names():
    net = L.Sequential([L.Input((3,)), L.Linear(2)])
    with pytest.raises(ShapeError, match="0 is no name"):
        net.load_state_dict({0: np.zeros((2, 3))})


class TorchTensor:
    """What a state dict of PyTorch holds, as far as it is asked: numpy has no counterpart for some of its types."""

    def __init__(self, data, dtype="torch.float32"):
        self.data, self.dtype = data, dtype

    def detach(self):
        return self

    def cpu(self):
        return self

    def float(self):
        return TorchTensor(self.data.astype(np.float32))

    def numpy(self):
        if self.dtype != "torch.float32":
            raise TypeError(f"Got unsupported ScalarType {self.dtype}")
        return self.data


def test_tensors_of_pytorch_are_taken_bfloat16_too():
    net = network()
    arrays = {name: np.round(array * 4) for name, array in net.state_dict().items()}
    kinds = ("torch.float32", "torch.bfloat16")
    tensors = {name: TorchTensor(array, kinds[i % 2]) for i, (name, array) in enumerate(arrays.items())}
    assert net.load_state_dict(tensors) == ([], [])
    assert all(np.array_equal(arrays[name], array) for name, array in net.state_dict().items())


def test_tensors_of_pytorch_that_numpy_cannot_hold_are_misfits():
    net = network()
    given = dict(net.state_dict())
    given["1.weight"] = TorchTensor(given["1.weight"], "torch.float8_e4m3fn")
    given["1.bias"] = np.zeros(5)
    with pytest.raises(ShapeError, match=r"(?s)1.weight: no array.*float8.*1.bias: shape"):
        net.load_state_dict(given)


def test_bfloat16_is_widened(tmp_path):
    path = tmp_path / "w.safetensors"
    text = b'{"x":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]}}'
    path.write_bytes(len(text).to_bytes(8, "little") + text + np.array([0x3F80, 0xC040], "<u2").tobytes())
    np.testing.assert_array_equal(L.state.read(path)["x"], np.array([1.0, -3.0], np.float32))


def entry(**changes):
    def patch(header):
        header["x"].update(changes)

    return patch


@pytest.mark.parametrize(
    "patch",
    [
        entry(dtype="F128"),
        entry(dtype=[1]),
        entry(shape=[3]),
        entry(shape=[-2]),
        entry(shape="2"),
        entry(shape=[2**40, 2**40]),
        entry(shape=[0, 2**70], data_offsets=[0, 0]),
        entry(shape=[2, *[1] * 200]),
        entry(data_offsets=[0, 800]),
        entry(data_offsets=[8, 0]),
        entry(data_offsets=[0]),
        entry(data_offsets=[True, 8]),
        lambda header: header.update(x=[]),
        lambda header: header["x"].pop("shape"),
    ],
)
def test_lying_safetensors_are_refused(patch, tmp_path):
    path = tmp_path / "w.safetensors"
    write_safetensors(path, {"x": np.zeros(2, np.float32)}, patch)
    with pytest.raises(ModelFileError, match=path.name):
        L.state.read(path)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"1234567",
        (2**63).to_bytes(8, "little") + b"{}",
        (9).to_bytes(8, "little") + b"{}",
        (2).to_bytes(8, "little") + b"[]",
        (3).to_bytes(8, "little") + b"\xff\xff\xff",
        (14).to_bytes(8, "little") + b'{"x":1,"x":2} ',
        (100_000).to_bytes(8, "little") + b"[" * 100_000,
    ],
    ids=range(8),
)
@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
def test_damaged_files_are_refused(data, suffix, tmp_path):
    path = tmp_path / f"w{suffix}"
    path.write_bytes(data)
    with pytest.raises(ModelFileError, match=path.name):
        L.state.read(path)


@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
def test_flipped_bytes_never_crash_the_reader(suffix, tmp_path):
    path = tmp_path / f"w{suffix}"
    {".npz": write_npz, ".safetensors": write_safetensors}[suffix](path, {"x": np.ones(3, np.float32)})
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    read = 0
    for _ in range(500):
        data = bytearray(whole)
        for at in rng.integers(0, len(data), 2):
            data[at] = rng.integers(256)
        path.write_bytes(data[: rng.integers(1, len(data))] if rng.random() < 0.2 else data)
        with contextlib.suppress(ModelFileError):
            read += all(isinstance(array, np.ndarray) for array in L.state.read(path).values())
    assert 0 < read < 500


def test_pickles_missing_files_and_unknown_kinds_are_refused(tmp_path):
    np.savez(tmp_path / "w.npz", x=np.array([{}], object))
    for name in ("w.npz", "absent.npz", "absent.safetensors", "w.pt"):
        with pytest.raises(ModelFileError, match=name):
            L.state.read(tmp_path / name)


def test_weights_depend_on_the_seed_and_the_path_alone():
    def build(first, seed=0):
        x = L.Input((4,), seed=seed)
        a, b = L.Linear(6, name="a"), L.Linear(6, name="b")
        y = (a(x), b(x)) if first == "a" else (b(x), a(x))
        return L.state_dict(Graph.of(x, list(y)))

    one, two, other = build("a"), build("b"), build("a", seed=1)
    assert set(one) == {"a.weight", "a.bias", "b.weight", "b.bias"}
    assert all(np.array_equal(one[name], two[name]) for name in one)
    assert not np.array_equal(one["a.weight"], one["b.weight"])
    assert not np.array_equal(one["a.weight"], other["a.weight"])


def test_anonymous_layers_and_blocks_get_names_of_their_own():
    x = L.Input((4, 8, 8))
    y = L.Conv2d(4, 3, padding=1)(L.Conv2d(4, 3, padding=1)(x))
    y = Residual(4)(Residual(4)(y))
    graph = Graph.of(x, y)
    verify(graph)
    names = L.state_dict(graph)
    assert {"conv2d.weight", "conv2d_1.weight", "residual.conv.weight", "residual_1.conv.weight"} <= set(names)
    assert not np.array_equal(names["conv2d.weight"], names["conv2d_1.weight"])


def test_two_inputs_meet_and_nothing_shares_a_name():
    a, b = L.Input((4,), name="a"), L.Input((4,), name="b")
    y = L.Add()(L.Linear(3)(a), L.Linear(3)(b)) + L.Linear(3)(b)
    graph = Graph.of([a, b], {"sum": y, "again": y})
    verify(graph)
    assert list(graph.inputs) == ["a", "b"]
    assert set(outputs(graph)) == {"sum", "again"}
    with pytest.raises(GraphError, match="two inputs have the same name"):
        Graph.of([a, L.Input((4,), name="a")], y)


def test_layers_on_two_inputs_draw_weights_of_their_own():
    def build():
        left, right = L.Input((2, 5, 5)), L.Input((2, 5, 5), "right")
        branches = [L.Dropout(monte_carlo=True)(L.Conv2d(3, 3)(x)) for x in (left, right)]
        return Graph.of([left, right], L.Add()(*branches))

    one, again = build(), build()
    weights = [array for name, array in L.state_dict(one).items() if "weight" in name]
    assert len(weights) == 2
    assert not np.any(weights[0] == weights[1])
    for name, array in L.state_dict(again).items():
        np.testing.assert_array_equal(array, L.state_dict(one)[name])
    masks = [node.op for node in one.nodes if isinstance(node.op, RandomDropout)]
    assert masks[0].seed != masks[1].seed


def test_a_layer_called_twice_shares_its_parameters():
    x = L.Input((4,))
    layer = L.Linear(4, name="shared")
    graph = Graph.of(x, {"y": layer(layer(x))})
    verify(graph)
    assert set(L.state_dict(graph)) == {"shared.weight", "shared.bias"}
    with pytest.raises(ShapeError, match="'shared' was first called with weight of shape"):
        layer(L.Input((5,)))


def test_given_arrays_are_copied():
    weight = np.ones((2, 4), np.float64)
    layer = L.Linear(2, weight=weight)
    layer(L.Input((4,)))
    weight[:] = 5
    data = layer.parameters()["weight"].data
    assert data.dtype == np.float32
    assert (data == 1).all()


def test_drawn_statistics_are_not_trivial():
    norm = L.BatchNorm()
    norm(L.Input((64, 2, 2)))
    for name, trivial in {"weight": 1, "bias": 0, "running_mean": 0, "running_var": 1}.items():
        data = norm.parameters()[name].data
        assert (data != trivial).all()
        assert data.std() > 0.05
    assert norm.parameters()["running_var"].data.min() > 0


def test_sequential_takes_mappings_and_iterates():
    net = L.Sequential({"conv": L.Conv2d(2, 1), "act": L.ReLU()})
    x = L.Input((3, 4, 4))
    graph = net.graph(x)
    assert set(L.state_dict(graph)) == {"conv.weight", "conv.bias"}
    assert [type(layer) for layer in net] == [L.Conv2d, L.ReLU]
    assert len(net) == 2
    assert net[1] is list(net)[1]


def test_each_graph_of_a_sequential_has_the_name_asked_for():
    net = network()
    first = net.graph(name="a")
    assert net.graph(name="a") is first
    second, unnamed = net.graph(name="b"), net.graph()
    assert [graph.name for graph in (first, second, unnamed)] == ["a", "b", "sequential"]
    verify(second)
    assert [node.name for node in second.nodes] == [node.name for node in first.nodes]
    np.testing.assert_array_equal(outputs(second)["output"], outputs(first)["output"])


def test_summary_counts_parameters_and_macs():
    summary = network().summary()
    by_name = {row.name: row for row in summary.rows}
    assert by_name["0"].parameters == 4 * 3 * 9 + 4
    assert by_name["0"].macs == 4 * 3 * 9 * 64
    assert by_name["1"].parameters == 8
    assert by_name["5"].macs == 640
    assert summary.buffers == 3 * 8
    assert summary.parameters == L.count_parameters(network().graph())
    text = str(summary)
    assert "tail" in text
    assert "head" in text
    assert "[1, 4, 8, 8]" in text
    assert "running statistics" in text
