"""Programs as text: each call with its memory and with what it waits for."""

import re

from glulam.benchmarks.cases import open_case
from glulam.compiler.driver import lower
from glulam.compiler.loops.hazards import dependences
from glulam.compiler.loops.program_text import show_program
from glulam.compiler.options import Options

STEP = re.compile(r"^(\d+): (\S+), (\d+) iterations in chunks of (\d+)[^;]*?(?:, after ([\d, ]+))?  ; (.+)$", re.M)


def program(name, **options):
    return lower(open_case(name, {"input": (options.pop("batch", 1), 3, 64, 64)}).graph, Options(**options))


def test_every_step_stands_there_with_what_it_waits_for():
    made = program("squeezenet1_1", threads=2)
    text = show_program(made)
    assert text.startswith(f"program of {len(made.steps)} steps; bytes: arena {made.arena_bytes}, ")
    assert "input 0 'input': f32[1,3,64,64]\n" in text
    found = [
        (int(number), kernel, int(extent), int(grain), tuple(map(int, after.split(", "))) if after else (), label)
        for number, kernel, extent, grain, after, label in STEP.findall(text)
    ]
    assert found == [
        (number, step.kernel.name, step.kernel.extent, step.grain, waits, step.label)
        for number, (step, waits) in enumerate(zip(made.steps, dependences(made.steps), strict=True))
    ]


def test_operands_are_places():
    (first, *_) = show_program(program("squeezenet1_1")).partition("\n0: ")[2].split("\n1: ")
    assert re.search(r"reads input 0\[0\.\.49151\]", first)
    assert re.search(r"writes arena\[\d+\.\.\d+\]", first)


def test_parts_of_samples_and_repeats():
    text = show_program(program("squeezenet1_1", threads=2, batch=2))
    assert ", for each of 2 parts of the samples" in text
    assert re.search(r"reads input 0\[0\.\.49151\] \(\+49152 each\)", text)
    made = program("mobilenet_v2", batch=3)
    assert made.repeats
    assert re.search(r"^steps \d+ to \d+ come 3 times, one after the other$", show_program(made), re.M)
