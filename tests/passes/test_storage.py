"""Which values share memory."""

from __future__ import annotations

from pass_texts import CONV1
from rewrites import compiled, graph_of

from glulam.compiler.graph.layout import Layout
from glulam.compiler.passes.layout import ChooseLayout
from glulam.compiler.passes.manager import run_passes
from glulam.compiler.passes.storage import Storage, is_view
from glulam.compiler.targets import target


def chosen(text):
    graph = graph_of(text)
    run_passes(graph, [ChooseLayout(target("x86-64-v3"))])
    return graph, {value.name: value for value in graph.values()}


def pixel(batch, spatial="1,1", channels=16):
    return (
        f"input %x: f32[{batch},16,{spatial}]\nconst %u: f32[{channels},16,1,1] = random\n%p = conv(%x, %u) {CONV1}\n"
        f"%f = reshape(%p) {{shape=({batch}, -1)}}\n%y = relu(%f)\noutput y = %y"
    ).replace("-1", str(channels))


def test_reshapes_are_aliases_of_what_they_reshape():
    graph, values = chosen("input %x: f32[4,16]\n%a = exp(%x)\n%b = reshape(%a) {shape=(64,)}\n"
                           "%c = reshape(%b) {shape=(8, 8)}\n%y = relu(%c)\noutput y = %y")  # fmt: skip
    assert Storage(graph.nodes).root(values["c"]) is values["a"]


def test_a_reshape_of_a_constant_is_no_alias():
    graph, values = chosen("input %x: f32[4]\nconst %k: f32[2,2] = random\n%r = reshape(%k) {shape=(4,)}\n"
                           "%y = add(%x, %r)\noutput y = %y")  # fmt: skip
    assert Storage(graph.nodes).root(values["r"]) is values["r"]
    assert not is_view(values["r"].producer)


def test_blocks_of_one_pixel_are_plain_channels():
    graph, values = chosen(pixel(1))
    assert Storage(graph.nodes).root(values["y"].producer.inputs[0]) is values["p"]
    compiled(pixel(1))


def test_so_are_partial_blocks_of_one_image():
    graph, values = chosen(pixel(1, channels=12))
    assert Storage(graph.nodes).root(values["f"]) is values["p"]
    compiled(pixel(1, channels=12))


def test_those_of_several_images_may_lie_apart():
    graph, values = chosen(pixel(2))
    assert Storage(graph.nodes).root(values["f"]) is not values["p"]
    compiled(pixel(2))


def test_a_part_of_a_batch_is_flattened():
    compiled("input %x: f32[2,16,1,1]\nconst %u: f32[16,16,1,1] = random\nconst %w: f32[16,16,1,1] = random\n"
             f"const %k: f32[16,32,1,1] = random\n%a = conv(%x, %u) {CONV1}\n%b = conv(%x, %w) {CONV1}\n"
             f"%c = concat(%a, %b) {{axis=1}}\n%d = conv(%c, %k) {CONV1}\n%f = reshape(%b) {{shape=(2, 16)}}\n"
             "%g = relu(%f)\noutput d = %d\noutput g = %g")  # fmt: skip


def test_a_halo_ends_the_alias():
    graph, values = chosen(pixel(1))
    values["p"].layout = Layout(8, ((1, 1), (1, 1)))
    assert Storage(graph.nodes).root(values["f"]) is not values["p"]


def test_parts_know_how_much_of_a_sample_lies_before_them():
    graph, values = chosen(
        f"input %x: f32[1,16,4,4]\nconst %k: f32[40,16,1,1] = random\n%a = conv(%x, %k) {CONV1}\n"
        "%p, %q, %r = split(%a) {axis=1, sizes=(16, 16, 8)}\n"
        "%c = concat(%q, %r) {axis=1}\n%y = relu(%c)\n%z = exp(%p)\n"
        "output y = %y\noutput z = %z"
    )
    storage = Storage(graph.nodes)
    places = {name: (storage.place(values[name]).root.name, storage.place(values[name]).offset) for name in "pqrc"}
    assert places == {"p": ("a", 0), "q": ("a", 256), "r": ("a", 512), "c": ("a", 256)}


def test_plain_parts_of_a_reshaped_tensor_lie_by_elements():
    """As in a shuffle of channels: what is a channel after the reshape was half of one before."""
    text = (
        "input %x: f32[1,2,3,5]\n%t = transpose(%x) {perm=(0, 2, 1, 3)}\n%f = reshape(%t) {shape=(1, 6, 5)}\n"
        "%p, %q = split(%f) {axis=1, sizes=(1, 5)}\n%y = exp(%p)\n%z = exp(%q)\noutput y = %y\noutput z = %z"
    )
    graph, values = chosen(text)
    place = Storage(graph.nodes).place(values["q"])
    assert (place.root.name, place.offset) == ("t", 5)
    compiled(text)


def test_plain_concats_of_parts_of_parts():
    """Tensors of several ranks and types lie in each other; the largest is the caller's."""
    text = (
        "input %x: f32[1,3,4]\ninput %i: i64[1,2]\n%a = exp(%x)\n%b = relu(%x)\n%c = concat(%a, %b) {axis=1}\n"
        "%d = abs(%x)\n%e = concat(%d, %c) {axis=1}\n%p, %q = split(%e) {axis=1, sizes=(7, 2)}\n%s = sigmoid(%q)\n"
        "%j = neg(%i)\n%k = abs(%i)\n%l = concat(%j, %k) {axis=1}\n"
        "output e = %e\noutput s = %s\noutput l = %l"
    )
    graph, values = chosen(text)
    storage = Storage(graph.nodes)
    places = {name: (storage.place(values[name]).root.name, storage.place(values[name]).offset) for name in "dabcqjk"}
    assert places == {
        "d": ("e", 0), "a": ("e", 12), "b": ("e", 24), "c": ("e", 12), "q": ("e", 28), "j": ("l", 0), "k": ("l", 2),
    }  # fmt: skip
    compiled(text)
