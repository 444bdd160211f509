"""Convolutions and linear layers whose weights or bias are inputs of the graph, in front of whatever may join them."""

from __future__ import annotations

import pytest
from executors import check
from rewrites import graph_of, random

CONV = "{{strides=(1, 1), pads=((1, 1), (1, 1)), dilations=(1, 1), groups={groups}}}"
POOL = "{kernel=(2, 2), strides=(2, 2), pads=((0, 0), (0, 0)), dilations=(1, 1), ceil_mode=False}"
BEHIND = {
    "max_pool": f"%z = max_pool(%y) {POOL}",
    "average_pool": f"%z = average_pool(%y) {POOL}",
    "relu, max_pool": f"%r = relu(%y)\n%z = max_pool(%r) {POOL}",
    "relu": "%z = relu(%y)",
    "mean": '%z = reduce(%y) {kind="mean", axes=(2, 3), keepdims=True}',
    "nothing": "%z = identity(%y)",
}


@pytest.mark.parametrize("behind", BEHIND)
@pytest.mark.parametrize("given", [("b",), ("w",), ("w", "b")], ids="+".join)
@pytest.mark.parametrize(("channels", "groups"), [((3, 17), 1), ((32, 32), 1), ((16, 16), 16), ((32, 32), 2)], ids=str)
def test_convolution(channels, groups, given, behind):
    ins, outs = channels
    types = {"w": f"f32[{outs},{ins // groups},3,3]", "b": f"f32[{outs}]"}
    lines = [f"input %{k}: {t}" if k in given else f"const %{k}: {t} = random" for k, t in types.items()]
    conv = f"%y = conv(%x, %w, %b) {CONV.format(groups=groups)}"
    graph = graph_of("\n".join([f"input %x: f32[1,{ins},8,6]", *lines, conv, BEHIND[behind], "output z = %z"]))
    feeds = {name: random(value.type, name) for name, value in graph.inputs.items()}
    check(graph, feeds, fuse=(True,))
