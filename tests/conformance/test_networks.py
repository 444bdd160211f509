"""The networks of the zoo: native code agrees with the reference whatever passes are on, and keeps its bits."""

from __future__ import annotations

import os
from functools import lru_cache

import numpy as np
import pytest
from executors import TARGETS, agree, poisoned, reference
from zoo_sizes import small_network

from glulam.compiler import driver
from glulam.compiler.options import Options
from glulam.compiler.pipeline import switchable_passes
from glulam.frontends import zoo

SIDES = {"inception_v3": 75, "unet": 32, "vgg16": 32, "vit_b_16": 48, "convnext_tiny": 32, "fcn_resnet50": 32}
PASSES = switchable_passes()
BUILDS = {
    "fused": {},
    "unfused": {"fuse": False},
    "strict": {"numerics": "strict"},
    **{f"without {name}": {"disable": (name,)} for name in PASSES},
    **{f"only {name}": {"disable": tuple(other for other in PASSES if other != name)} for name in PASSES},
}
SMALL = ("mobilenet_v3_large", "shufflenet_v2_x1_0", "squeezenet1_1")  # compiled in a second: they get every build
QUICK = (*SMALL, "mobilenet_v2", "mnasnet1_0", "efficientnet_b0", "resnet18", "super_resolution", "googlenet")
SOME = ("unfused", "without fold_normalisation", "only fuse")
EVERY_BUILD = bool(os.environ.get("GLULAM_EVERY_BUILD"))
TOLERANCE = 2e-4


@lru_cache(2)  # a network's weights may be half a gigabyte
def network(name):
    graph = small_network(name, SIDES.get(name, 64))
    x = np.random.default_rng(0).standard_normal(graph.inputs["input"].shape).astype(np.float32)
    return graph, {"input": x}, reference(graph, {"input": x})


def large_ones_are_long(names):
    return [pytest.param(name, marks=() if name in QUICK else pytest.mark.long) for name in names]


@pytest.mark.parametrize("name", large_ones_are_long(zoo.NETWORKS))
def test_native_code_agrees_and_keeps_its_bits(name):
    graph, feeds, expected = network(name)
    with driver.compile_graph(graph) as model:
        model.run(poisoned(feeds))
        first = model.run(feeds)
        agree(first, expected, TOLERANCE, name)
        agree(model.run(feeds), first, 0, "the second run")
        with type(model)(model._artifact, threads=2) as two:
            for _ in range(2):
                agree(two.run(feeds), first, 0, "two threads")


def build_cases():
    """Each network with each build; with GLULAM_EVERY_BUILD large networks get all of them too."""
    return [
        pytest.param(
            name, build, id=f"{name}-{build.replace(' ', '_')}", marks=() if name in SMALL else pytest.mark.long
        )
        for name in zoo.NETWORKS
        for build in BUILDS
        if build != "fused" and (EVERY_BUILD or name in SMALL or build in SOME)
    ]


@pytest.mark.parametrize(("name", "build"), build_cases())
def test_builds(name, build):
    graph, feeds, expected = network(name)
    with driver.compile_graph(graph, Options(**BUILDS[build])) as model:
        model.run(poisoned(feeds))
        agree(model.run(feeds), expected, TOLERANCE, f"{name} {build}")


@pytest.mark.parametrize("target", TARGETS[1:])
@pytest.mark.parametrize("name", zoo.NETWORKS if EVERY_BUILD else SMALL)
def test_targets(name, target):
    graph, feeds, expected = network(name)
    with driver.compile_graph(graph, Options(target=target)) as model:
        model.run(poisoned(feeds))
        agree(model.run(feeds), expected, TOLERANCE, f"{name} {target}")
