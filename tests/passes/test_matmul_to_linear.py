"""Products by constant matrices, and of few rows by transposed ones, become linear layers."""

import pytest
from rewrites import rewrite

from glulam.compiler.passes.matmul_to_linear import MatMulToLinear


def product(left="4,32", right="20,32", perm="(1, 0)", dtype="f32", more=""):
    return rewrite(
        f"""input %x: {dtype}[{left}]
input %b: {dtype}[{right}]
%t = transpose(%b) {{perm={perm}}}
%y = matmul(%x, %t)
{more}output y = %y""",
        MatMulToLinear(),
    )


@pytest.mark.parametrize("left", ["1,32", "8,32", "2,4,32"])
def test_few_rows_by_a_transposed_matrix_are_dot_products(left):
    result = product(left)
    assert result.ops == "linear"
    assert result.error < 1e-6
    assert "few rows" in result.taken[0]


def test_other_readers_keep_the_transposed_matrix():
    assert product(more="output t = %t\n").ops == "transpose linear"


@pytest.mark.parametrize(
    "change",
    [{"left": "9,32"}, {"left": "32"}, {"right": "32,20", "perm": "(0, 1)"}, {"dtype": "i64"}],
    ids=str,
)
def test_declines(change):
    result = product(**change)
    assert result.ops == "transpose matmul"
    assert "not constant" in result.declined


def test_declines_batches_of_matrices():
    result = product("2,4,32", "2,20,32", "(0, 2, 1)")
    assert result.ops == "transpose matmul"
