"""Traps 39 to 50, through the whole compiler: shapes, views, memory that is shared, arrays of the caller."""

from __future__ import annotations

import numpy as np
import pytest
from executors import TARGETS, agree, reference
from rewrites import graph_of, random
from trapped import PADDED, PLAIN, through

from glulam.compiler import driver
from glulam.compiler.options import Options


@pytest.mark.parametrize("shape", ["0,3,4,4", "2,3,0,4"])
def test_trap_39_extents_of_zero(shape):
    through(f"input %x: f32[{shape}]\n%r = relu(%x)\n%a = add(%r, %x)\n%s = concat(%a, %r) {{axis=1}}\noutput y = %s")
    n, _, h, w = map(int, shape.split(","))
    reduced = "%s = reduce(%x) {kind='sum', axes=(0, 1, 2, 3), keepdims=False}\n"
    assert through(f"input %x: f32[{shape}]\n{reduced}output y = %s")["y"] == 0
    linear = (
        f"const %w: f32[5,{3 * h * w}] = random\n%f = reshape(%x) {{shape=({n}, {3 * h * w})}}\n%y = linear(%f, %w)\n"
    )
    through(f"input %x: f32[{shape}]\n{linear}output y = %y")


def test_trap_39_a_convolution_of_no_images():
    text = f"input %x: f32[0,3,4,4]\nconst %w: f32[5,3,3,3] = random\n%c = conv(%x, %w) {PADDED}\n%r = relu(%c)\n"
    assert through(text + "output y = %r")["y"].shape == (0, 5, 4, 4)


def test_trap_40_scalars():
    text = "input %x: f32[]\n%r = reduce(%x) {kind='sum', axes=(), keepdims=False}\n%e = exp(%r)\n"
    assert through(text + "output y = %r\noutput z = %e")["y"].shape == ()
    mean = "%r = reduce(%x) {kind='mean', axes=(0, 1), keepdims=False}\n"
    through(f"input %x: f32[3,5]\n{mean}%a = add(%r, %r)\noutput y = %a")


def test_trap_41_negative_indices():
    graph = graph_of("input %x: f32[7,13]\ninput %i: i64[3]\n%g = gather(%x, %i) {axis=0}\noutput y = %g")
    y = through(graph, i=np.array([-7, -1, 6]), x=np.arange(91.0).reshape(7, 13))["y"]
    np.testing.assert_array_equal(y[:, 0], [0, 78, 78])


def test_trap_42_slice_with_a_giant_step():
    y = through(
        "input %x: f32[7,3]\n%s = slice(%x) {starts=(2, 0), steps=(1073741824, 1), sizes=(1, 3)}\noutput y = %s"
    )["y"]
    assert y.shape == (1, 3)


def test_trap_43_offsets_beyond_two_to_the_31():
    """A matrix of 2.4 GB in virtual memory: only its first and last rows are ever touched."""
    rows = 600_000
    last = f"%s = slice(%x) {{starts=({rows - 2}, 0), steps=(1, 1), sizes=(2, 8)}}\n"
    graph = graph_of(f"input %x: f32[{rows},1024]\n{last}output y = %s")
    x = np.zeros((rows, 1024), np.float32)
    x[-2:, :8] = [[1] * 8, [2] * 8]
    for target in TARGETS:
        with driver.compile_graph(graph, Options(target=target)) as model:
            np.testing.assert_array_equal(model.run({"x": x})["y"], x[-2:, :8])


BRANCHES = f"""input %x: f32[1,16,5,5]
const %v: f32[16,16,3,3] = random
const %w: f32[16,32,3,3] = random
%a = conv(%x, %v) {PADDED}
%b = conv(%a, %v) {PADDED}
%j = concat(%a, %b) {{axis=1}}
"""


@pytest.mark.parametrize("order", ["%a, %b", "%b, %a"])
def test_trap_44_sum_in_place_over_a_view_of_a_concat(order):
    text = BRANCHES + f"%s = add({order})\n%r = relu(%s)\n%n = neg(%a)\n"
    text += f"%c = conv(%j, %w) {PADDED}\n%d = conv(%r, %v) {PADDED}\n"
    through(text + "%e = add(%c, %d)\n%f = add(%e, %n)\noutput y = %f")
    through(text + "%e = add(%c, %d)\noutput y = %e\noutput j = %j\noutput n = %n")


def test_trap_44_both_halves_of_a_split_are_changed():
    text = BRANCHES + "%p, %q = split(%j) {axis=1, sizes=(16, 16)}\n%g = sigmoid(%q)\n%m = mul(%p, %g)\n%r = relu(%p)\n"
    text += f"%c = conv(%m, %v) {PADDED}\n%d = conv(%j, %w) {PADDED}\n"
    through(text + "output c = %c\noutput d = %d\noutput r = %r\noutput q = %q")


@pytest.mark.parametrize("sizes", [(16, 16), (32,), (4, 28), (17, 15), (16, 8, 8)], ids=str)
def test_trap_45_concat_and_then_split(sizes):
    parts = [f"%p{i}" for i in range(len(sizes))]
    text = BRANCHES + f"{', '.join(parts)} = split(%j) {{axis=1, sizes={sizes}}}\n"
    text += "".join(f"%r{i} = exp({part})\noutput y{i} = %r{i}\noutput z{i} = {part}\n" for i, part in enumerate(parts))
    through(text)
    through(text + f"%k = concat({', '.join(reversed(parts))}) {{axis=1}}\n%c = conv(%k, %w) {PADDED}\noutput c = %c")


def test_trap_46_an_input_that_is_also_an_output():
    text = "input %x: f32[1,16,5,5]\ninput %u: f32[2]\n%r = relu(%x)\n%v = reshape(%x) {shape=(16, 25)}\n"
    graph = graph_of(text + "output x = %x\noutput r = %r\noutput again = %x\noutput v = %v\noutput u = %u")
    through(graph)
    with driver.compile_graph(graph) as model:
        feeds = {name: random(value.type, name) for name, value in graph.inputs.items()}
        kept = feeds["x"].copy()
        outputs = model.run(feeds)
        assert not any(np.may_share_memory(y, x) for y in outputs.values() for x in feeds.values())
        outputs["x"][:] = 7
        np.testing.assert_array_equal(feeds["x"], kept)
        np.testing.assert_array_equal(outputs["again"], kept)


CONV = "input %x: f32[2,5,6,7]\nconst %w: f32[17,5,3,3] = random\n"
CONV += f"%c = conv(%x, %w) {PADDED}\n%r = relu(%c)\noutput y = %r"


def read_only(x):
    copy = x.copy()
    copy.flags.writeable = False
    return copy


@pytest.mark.parametrize(
    "change",
    [
        np.asfortranarray,
        lambda x: np.repeat(x, 2, axis=3)[..., ::2],
        lambda x: x[..., ::-1].copy()[..., ::-1],
        lambda x: x.astype(">f4"),
        lambda x: x.astype(np.float64),
        lambda x: x.transpose(3, 2, 1, 0).copy().transpose(3, 2, 1, 0),
        read_only,
        lambda x: x.tolist(),
    ],
    ids=["fortran", "strided", "negative", "big_endian", "float64", "transposed", "read_only", "list"],
)
def test_trap_47_arrays_of_every_kind(change):
    graph = graph_of(CONV)
    x = random(graph.inputs["x"].type, "x")
    with driver.compile_graph(graph) as model:
        agree(model.run({"x": change(x)}), reference(graph, {"x": x}), 1e-5, "native")


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("offset", [4, 12, 36])
def test_trap_48_inputs_and_outputs_that_are_not_aligned(offset, target):
    graph = graph_of(CONV + "\noutput z = %c\noutput x = %x")
    x = random(graph.inputs["x"].type, "x")
    expected = reference(graph, {"x": x})

    def unaligned(shape):
        memory = np.zeros(4 * int(np.prod(shape)) + 192, np.uint8)
        start = -memory.ctypes.data % 64 + offset
        return memory[start : start + 4 * int(np.prod(shape))].view(np.float32).reshape(shape)

    moved = unaligned(x.shape)
    moved[:] = x
    out = {name: unaligned(array.shape) for name, array in expected.items()}
    with driver.compile_graph(graph, Options(target=target)) as model:
        model.run({"x": moved}, out=out)
    agree(out, expected, 1e-5, "native")


def test_trap_49_halos_are_written_anew():
    """Tensors of one size with other padding take turns in the same memory, run after run."""
    text = "input %x: f32[1,16,8,8]\nconst %w: f32[16,16,3,3] = random\nconst %v: f32[16,16,5,5] = random\n"
    wide = PADDED.replace("((1, 1), (1, 1))", "((2, 2), (2, 2))")
    pool = "{kernel=(3, 3), strides=(1, 1), pads=((1, 1), (1, 1)), dilations=(1, 1)}"
    for i in range(3):
        source = "%x" if not i else f"%n{i - 1}"
        text += f"%a{i} = conv({source}, %w) {PADDED}\n%b{i} = conv(%a{i}, %v) {wide}\n%p{i} = max_pool(%b{i}) {pool}\n"
        text += f"%n{i} = average_pool(%p{i}) {pool}\n"
    through(text + "output y = %n2")


@pytest.mark.parametrize("threads", [1, 2])
def test_trap_50_outputs_that_are_kept_do_not_change(threads):
    graph = graph_of(
        CONV + f"\nconst %u: f32[5,17,1,1] = random\n%d = conv(%r, %u) {PLAIN}\noutput z = %d\noutput x = %x"
    )
    with driver.compile_graph(graph, Options(threads=threads)) as model:
        kept = model.run({"x": np.ones((2, 5, 6, 7), np.float32)})
        copies = {name: array.copy() for name, array in kept.items()}
        for i in range(3):
            model.run({"x": np.full((2, 5, 6, 7), i, np.float32)})
        for name, array in kept.items():
            np.testing.assert_array_equal(array, copies[name])


@pytest.mark.parametrize("groups", [1, 4])
def test_a_convolution_that_is_added_to_its_own_input(groups):
    conv = PADDED.replace("groups=1", f"groups={groups}")
    text = (
        f"input %x: f32[1,16,4,3]\nconst %v: f32[16,16,1,1] = random\nconst %w: f32[16,{16 // groups},3,3] = random\n"
    )
    text += f"%s = conv(%x, %v) {PLAIN}\n%c = conv(%s, %w) {conv}\n%a = add(%c, %s)\n"
    text += f"%d = conv(%a, %v) {PLAIN}\n%m = mul(%d, %a)\n"
    through(text + "output m = %m")
    through(text + "output m = %m\noutput s = %s")
