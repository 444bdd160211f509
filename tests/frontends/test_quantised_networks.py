"""Networks that ONNX Runtime quantised: the codes go from layer to layer as bytes, and results are its own."""

from __future__ import annotations

import numpy as np
import pytest

import glulam as gl
from glulam.benchmarks.cases import open_case
from glulam.benchmarks.quantise import FORMATS, quantise
from glulam.compiler.driver import optimise
from glulam.compiler.options import Options
from glulam.compiler.targets import target
from glulam.frontends import layers as nn

NEEDS_BYTES = pytest.mark.skipif(not target().dots_bytes, reason="this machine multiplies no bytes")


def network():
    """A first layer, a pool, a residual block of 1x1 and depthwise convolutions, and a classifier."""
    x = nn.Input((3, 34, 30))
    first = nn.MaxPool2d(3, 2, padding=1)(nn.ReLU()(nn.Conv2d(17, 5, stride=2, padding=2)(x)))
    wide = nn.ReLU6()(nn.Conv2d(40, 1)(first))
    wide = nn.ReLU6()(nn.Conv2d(40, 3, padding=1, groups=40)(wide))
    y = nn.Conv2d(17, 1)(wide) + first
    y = nn.Conv2d(32, 3, stride=2, padding=1)(nn.ReLU()(y))
    return gl.Graph.of([x], {"y": nn.Linear(10)(nn.Flatten()(nn.AdaptiveAvgPool2d(1)(y)))})


@pytest.fixture(scope="module", params=[*FORMATS, "qdq signed"])
def quantised(request, tmp_path_factory):
    pytest.importorskip("onnxruntime")
    folder = tmp_path_factory.mktemp("quantised")
    gl.to_onnx(network(), folder / "plain.onnx")
    kind, *signed = request.param.split()
    path = folder / f"small.{kind}.onnx"
    quantise(open_case(str(folder / "plain.onnx")), path, kind, bool(signed))
    return path


def test_results_are_those_of_onnx_runtime(quantised):
    import onnxruntime as ort

    session = ort.InferenceSession(quantised)
    (name,) = (each.name for each in session.get_inputs())
    graph = gl.from_onnx(quantised)
    for seed in range(3):
        x = np.random.default_rng(seed).standard_normal((1, 3, 34, 30), dtype=np.float32)
        (wanted,) = session.run(None, {name: x})
        step = np.diff(np.unique(wanted)).min()  # of the last codes
        for options in ({}, {"fuse": False}, {"target": "x86-64-v2"}, {"threads": 2}):
            with gl.compile(graph, **options) as model:
                assert np.abs(model(x) - wanted).max() <= 2.5 * step, options


def test_the_way_back_is_a_file_for_onnx_runtime(quantised, tmp_path):
    import onnxruntime as ort

    graph = gl.from_onnx(quantised)
    gl.to_onnx(graph, tmp_path / "back.onnx")
    x = np.random.default_rng(0).standard_normal((1, 3, 34, 30), dtype=np.float32)
    (name,) = graph.inputs
    (wanted,) = gl.reference(graph, {name: x}).values()
    (again,) = ort.InferenceSession(tmp_path / "back.onnx").run(None, {name: x})
    assert np.abs(again - wanted).max() <= 2.5 * np.diff(np.unique(wanted)).min()


@NEEDS_BYTES
def test_all_layers_multiply_bytes(quantised):
    graph, _ = optimise(gl.from_onnx(quantised), Options())
    text = " ".join(str(node.op) for node in graph.nodes)
    kinds = [name for node in graph.nodes for name in _anchors(node.op)]
    assert kinds.count("conv_integer") == 5, text
    assert kinds.count("linear_integer") == 1
    assert "conv" not in kinds


def _anchors(op):
    body = getattr(op, "body", None)
    return [op.name] if body is None else [node.op.name for node in body.nodes]
