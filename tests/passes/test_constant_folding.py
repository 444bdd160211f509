"""Constant folding: shape arithmetic, weights, and what is too large to fold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from rewrites import rewrite

from glulam.compiler.graph.graph import Graph
from glulam.compiler.graph.op import Op, Trait
from glulam.compiler.graph.types import f32
from glulam.compiler.ops import Mul
from glulam.compiler.passes.constant_folding import ConstantFolding


def fold(text, **options):
    return rewrite(text, ConstantFolding(**options), tolerance=0)


def test_shape_arithmetic_folds_away():
    text = """
    input %x: f32[2,3,4]
    const %i: i64[1] = 1
    const %two: i64[1] = 2
    %r = relu(%x)
    %s = shape(%r)
    %g = gather(%s, %i) {axis=0}
    %m = mul(%g, %two)
    %c = concat(%m, %two) {axis=0}
    output y = %c
    """
    result = fold(text)
    assert result.ops == ""
    assert result.graph.outputs["y"].data.tolist() == [6, 2]
    assert result.taken == ["c: concat of constants, computed ahead of time"]


def test_weights_are_transposed_ahead():
    text = "input %x: f32[2,5]\nconst %w: f32[6,5] = random\n%t = transpose(%w) {perm=(1, 0)}\n"
    text += "%y = matmul(%x, %t)\noutput y = %y"
    assert fold(text).ops == "matmul"


def test_an_intermediate_with_a_second_use_or_an_output_is_folded_too():
    text = "input %x: f32[4]\nconst %k: f32[4] = [1, 2, 3, 4]\n%a = exp(%k)\n%b = neg(%a)\n"
    text += "%c = add(%x, %a)\n%d = mul(%c, %b)\n"
    assert fold(text + "output y = %d").ops == "add mul"
    result = fold(text + "output y = %d\noutput z = %a")
    assert result.ops == "add mul"
    assert result.graph.outputs["z"].is_constant


def test_what_depends_on_an_input_stays():
    result = fold("input %x: f32[4]\nconst %k: f32[4] = [1, 2, 3, 4]\n%a = add(%x, %k)\noutput y = %a")
    assert (result.ops, result.decisions) == ("add", [])


def test_all_outputs_of_a_node():
    text = "input %x: f32[2]\nconst %k: f32[4] = [1, 2, 3, 4]\n%a, %b = split(%k) {axis=0, sizes=(2, 2)}\n"
    assert fold(text + "%c = add(%x, %a)\n%d = add(%c, %b)\noutput y = %d").ops == "add add"


def test_trap_62_a_large_expand_stays_lazy():
    text = "input %x: f32[1000,1000]\nconst %k: f32[] = 2\n%e = expand(%k) {shape=(1000, 1000)}\n%n = neg(%e)\n"
    text += "%a = add(%x, %n)\noutput y = %a"
    result = fold(text)
    assert result.ops == "expand neg add"
    assert "e: its result of 4000000 bytes is much larger than its inputs" in result.declined
    assert fold(text, free_bytes=1 << 23).ops == "add"


def test_all_constants_together_are_bounded():
    text = (
        "input %x: f32[4]\nconst %k: f32[4] = [1, 2, 3, 4]\n%a = exp(%k)\n%b = neg(%a)\n%c = add(%x, %b)\noutput y = %c"
    )
    result = fold(text, growth=1, total_bytes=16)
    assert result.ops == "neg add"
    assert "b: so many bytes of constants have been computed" in result.declined
    assert fold(text, growth=4, total_bytes=16).ops == "add"  # no more than a graph's own constants allow


def test_results_that_nobody_reads_any_more_do_not_count():
    text = "input %x: f32[4]\nconst %k: u8[4] = [1, 2, 3, 4]\nconst %s: f32[1] = 0.5\n%i = cast(%k) {dtype=i32}\n"
    text += "%z = add(%i, %i)\n%f = cast(%z) {dtype=f32}\n%w = mul(%f, %s)\n%n = neg(%w)\n"
    text += "%c = add(%x, %n)\noutput y = %c"
    assert fold(text, total_bytes=32).ops == "add"
    kept = fold(text + "\noutput i = %i\noutput w = %w", total_bytes=32)
    assert kept.ops == "cast mul neg add"


@dataclass(frozen=True)
class Noise(Op):
    name: ClassVar[str] = "noise"
    traits: ClassVar[frozenset[Trait]] = frozenset({Trait.RANDOM})

    def infer(self, x):
        return (x,)


def test_random_nodes_stay():
    graph = Graph()
    noise = graph.apply(Noise(), graph.constant(np.ones(2, np.float32)))
    graph.output("y", graph.apply(Mul(), graph.input("x", f32(2)), noise))
    assert not ConstantFolding().run(graph).changed


def test_a_whole_constant_graph():
    result = fold("const %k: f32[2] = [1, 2]\n%a = neg(%k)\noutput y = %a\noutput z = %k")
    assert result.ops == ""
