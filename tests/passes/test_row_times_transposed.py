"""A row times a transposed matrix: nothing is transposed where nobody else wants it."""

from __future__ import annotations

import numpy as np
import pytest
from rewrites import compiled, graph_of, random, rewrite

from glulam.compiler.driver import compile_graph, lower
from glulam.compiler.graph.evaluate import evaluate
from glulam.compiler.loops.program import interpret_program
from glulam.compiler.options import Options
from glulam.compiler.passes.row_times_transposed import RowTimesTransposed
from glulam.compiler.targets import runnable_targets

HALF = "const %h: f32[] = 0.5\n"


def product(row="1,3,1,17", keys="1,3,13,17", perm="(0, 1, 3, 2)", reshape=None, tail="", given="input %k", factor=""):
    rank = row.count(",") + 1
    view = "" if reshape is None else f"%r = reshape(%t) {{shape={reshape}}}\n"
    return f"""input %q: f32[{row}]
{given}: f32[{keys}]{" = random" * given.startswith("const")}
%t = transpose(%k) {{perm={perm}}}
{view}{factor}%s = matmul(%q, %{"f" if factor else "t" if reshape is None else "r"})
%y = softmax(%s) {{axis={rank - 1}}}
{tail}output y = %y"""


@pytest.mark.parametrize(
    ("text", "ops"),
    [
        (product(), "reshape matmul reshape softmax"),
        (product("2,1,1,17", "3,13,17", "(0, 2, 1)"), "reshape matmul reshape softmax"),
        (product("1,17", "13,17", "(1, 0)"), "reshape matmul reshape softmax"),
        (product(keys="3,13,17", perm="(0, 2, 1)", reshape="(1, 3, 17, 13)"), "reshape reshape matmul reshape softmax"),
        (product(factor=HALF + "%f = mul(%t, %h)\n"), "mul reshape matmul reshape softmax"),
    ],
)
def test_fires(text, ops):
    result = rewrite(text, RowTimesTransposed())
    assert result.ops == ops
    assert result.error < 1e-6
    graph = graph_of(text)
    feeds = {key: random(value.type, key) for key, value in graph.inputs.items()}
    (expected,) = evaluate(graph, feeds).values()
    for machine in runnable_targets():
        options = Options(target=machine.name)
        found = [interpret_program(lower(graph, options), feeds)["y"]]
        for threads in (1, 2):
            with compile_graph(graph, Options(target=machine.name, threads=threads)) as model:
                found.append(model.run(feeds)["y"].copy())
        for got in found:
            np.testing.assert_allclose(got, expected, rtol=0, atol=1e-6)
    assert "transpose" not in compiled(text, Options())


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (product(tail="%u = relu(%t)\noutput u = %u\n"), "transposed anyhow"),
        (product(tail="output t = %t\n"), "transposed anyhow"),
        (
            product(keys="3,13,17", perm="(0, 2, 1)", reshape="(1, 3, 17, 13)", tail="output r = %r\n"),
            "transposed anyhow",
        ),
    ],
)
def test_declines_where_the_transposed_matrix_stays(text, why):
    result = rewrite(text, RowTimesTransposed())
    assert "transpose" in result.ops
    assert why in result.declined


@pytest.mark.parametrize(
    "text",
    [
        product("1,3,2,17"),
        product(keys="13,3,1,17", perm="(2, 1, 3, 0)"),
        product(keys="1,3,1,17"),
        product(given="const %k"),
        product(factor="%h = sigmoid(%t)\n%f = mul(%t, %h)\n"),
        product(keys="3,17,13", perm="(0, 2, 1)", reshape="(1, 3, 17, 13)"),
    ],
)
def test_does_not_concern_other_products(text):
    result = rewrite(text, RowTimesTransposed())
    assert "transpose" in result.ops
    assert not result.decisions
