"""The corners: each is a network that compiles, and they are found by their names."""

from __future__ import annotations

import pytest

from glulam.benchmarks.corner_cases import CORNERS
from glulam.benchmarks.corners import chosen
from glulam.benchmarks.random_layers import random_corners
from glulam.benchmarks.run import table_of
from glulam.compiler.driver import optimise
from glulam.compiler.options import Options
from glulam.runtime.errors import GlulamError


@pytest.mark.parametrize("group", CORNERS)
def test_every_corner_is_a_network_of_one_input_and_one_output(group):
    for name, corner in CORNERS[group].items():
        case = corner.case(name)
        optimised, _ = optimise(case.graph, Options())
        assert len(optimised.outputs) == 1
        assert {n: v.type for n, v in optimised.outputs.items()} == {n: v.type for n, v in case.graph.outputs.items()}
        assert [feed.shape for feed in case.feeds().values()] == [(corner.batch, *corner.shape)]


def test_corners_are_chosen_by_any_of_several_texts():
    found = chosen("depthwise: 7x7,TALL")
    assert {name.partition(":")[0] for name in found} == {"depthwise", "tall and wide"}
    assert len(found) == 2 + len(CORNERS["tall and wide"])
    with pytest.raises(GlulamError, match="no corner has 'no such layer'"):
        chosen("no such layer")


def test_random_layers_are_networks_and_the_same_for_a_seed():
    drawn = random_corners(3, 60)
    assert list(random_corners(3, 20)) == list(drawn)[:20]
    assert list(random_corners(4, 20)) != list(drawn)[:20]
    for name, corner in drawn.items():
        case = corner.case(name)
        assert case.graph.nodes
        assert [feed.shape for feed in case.feeds().values()] == [(corner.batch, *corner.shape)]
    assert list(chosen("conv", 60, 3)) == [name for name in drawn if "conv" in name]
    with pytest.raises(GlulamError, match="groups are"):
        chosen("no such layer", 5, 3)


def test_the_table_shows_the_worst_ratio_first():
    def case(name, ratio):
        engine = {"seconds": {"median": 1e-3}, "load_seconds": 0.0, "peak_rss": 0, "difference": 0.0}
        spread = {"median": ratio, "low": ratio, "high": ratio}
        engines = {"glulam": engine, "peer": {**engine, "instructions": "native"}}
        shared = {"batch": 1, "threads": 1, "isa": "native"}
        return {"model": name, **shared, "engines": engines, "ratios": {"peer": spread, "fastest": spread}}

    table = table_of([case("fast", 0.5), case("slow", 1.5)], ["peer"], "title", worst_first=True)
    assert list(table.columns[0].cells) == ["slow", "fast"]
