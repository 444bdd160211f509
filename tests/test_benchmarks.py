"""The measuring itself: ratios by round, errors, batches, instruction sets, engines that fail in their own process."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import glulam as gl
from glulam import benchmarks
from glulam.arguments import counts, output_file
from glulam.benchmarks import compile, error, report, run
from glulam.benchmarks.cases import Case, all_names, open_case, with_batch
from glulam.benchmarks.fusion import build_variants, group_times, variants
from glulam.benchmarks.measure import Rounds, difference, take_turns
from glulam.benchmarks.peers import EngineError, EngineProcess
from glulam.benchmarks.report import markdown
from glulam.compiler.graph.types import DType, TensorType
from glulam.compiler.ops.pointwise import Add, Cast
from glulam.runtime.errors import GlulamError

BENCHMARKS = Path(benchmarks.__file__).parent
COMMANDS = [path.stem for path in sorted(BENCHMARKS.glob("*.py")) if "argparse" in path.read_text(encoding="utf-8")]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name, capsys):
    with pytest.raises(SystemExit) as ended:
        import_module(f"glulam.benchmarks.{name}").main(["--help"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: python -m glulam.benchmarks.{name} [-h]")


COUNTS, FROM_NOUGHT, AMOUNTS = ("0", "-1", "2.5", "many", ""), ("-1", "many", ""), ("-1", "nan", "much")
LISTS, DURATIONS = ("0", "1,a", "1,,2", "1,-2", ""), ("0", "-1", "nan", "inf", "long", "")
TURNS = {"rounds": COUNTS, "turn": DURATIONS}
WRONG = {
    "balance": {"threads": LISTS, "steps": FROM_NOUGHT, "repeat": COUNTS, "bar": AMOUNTS},
    "compile": {"most": AMOUNTS},
    "corners": {"threads": COUNTS, **TURNS, "random": COUNTS, "seed": FROM_NOUGHT},
    "error": {"samples": COUNTS, "size": COUNTS, "numerics": ("exact", "")},
    "formula": {"channels": COUNTS, "extent": COUNTS, "threads": COUNTS, **TURNS},
    "run": {"threads": LISTS, "batch": COUNTS, **TURNS},
    "scaling": TURNS,
    "sharing": {"threads": COUNTS, "batch": COUNTS, "steps": FROM_NOUGHT},
}


@pytest.mark.parametrize(("name", "option"), [(name, option) for name, options in WRONG.items() for option in options])
def test_wrong_values_are_wrong_usage(name, option, capsys):
    command, prog = import_module(f"glulam.benchmarks.{name}"), f"python -m glulam.benchmarks.{name}"
    models = ["resnet18"] if name in ("balance", "compile", "sharing", "scaling") else []
    for value in WRONG[name][option]:
        with pytest.raises(SystemExit) as ended:
            command.main([*models, f"--{option}", value, *(["1"] if option == "most" else ())])
        assert ended.value.code == 2
        told = capsys.readouterr().err.splitlines()[-1]
        reason = r"'.*' is not a (whole )?number of .*|no numerics .*"
        assert re.fullmatch(rf"{prog}: error: argument --{option}: ({reason})", told)


def test_lists_of_counts():
    assert counts("2") == [2]
    assert counts("1,2,16") == [1, 2, 16]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_ends_by_the_same_way(name):
    source = (BENCHMARKS / f"{name}.py").read_text(encoding="utf-8")
    assert source.endswith('\n\nif __name__ == "__main__":\n    exit_with(main)\n')


@pytest.mark.skipif(os.name != "posix", reason="pipes of this kind are POSIX's")
@pytest.mark.parametrize(
    ("program", "code", "told"),
    [
        ("wide_console().print('nobody reads this')", 0, ""),
        ("print('nor this')", 0, ""),
        ("fail()", 1, "error: why\n"),
        ("os.mkdir('/dev/null')", 1, "error: /dev/null: File exists\n"),
    ],
)
def test_how_commands_end(program, code, told):
    setup = (
        "from glulam.console import exit_with, wide_console\n"
        "import os\n"
        "from glulam.runtime.errors import GlulamError\n"
        "def fail():\n    raise GlulamError('why')\n"
        f"def main():\n    {program}\n    return 0\n"
    )
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-c", f"{setup}exit_with(main)"]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert (done.returncode, done.stderr) == (code, told)


@pytest.mark.parametrize("command", ["run", "corners", "error", "formula"])
def test_where_figures_go_is_looked_at_first(command, tmp_path, capsys):
    (tmp_path / "file").touch()
    for place, told in ((tmp_path, "is a folder"), (tmp_path / "file" / "a" / "b.json", "is no folder")):
        with pytest.raises(SystemExit) as ended:
            import_module(f"glulam.benchmarks.{command}").main(["--json", str(place)])
        assert ended.value.code == 2
        assert told in capsys.readouterr().err
    assert output_file(str(tmp_path / "new" / "b.json")) == tmp_path / "new" / "b.json"


class Metronome:
    """Takes the same time for each run, and writes down its turns."""

    def __init__(self, label, seconds, diary):
        self.label, self.seconds, self.diary = label, seconds, diary

    def run(self, times, warm=1):
        self.diary.append(self.label)
        return [self.seconds] * times


def test_how_to_get_a_missing_peer_is_told(capsys, monkeypatch):
    monkeypatch.setattr("glulam.benchmarks.run.installed_peers", list)
    with pytest.raises(GlulamError):
        run.main(["--models", "missing.onnx", "--peers"])
    assert "is not installed: measured without it (pip install 'glulam[bench]')" in capsys.readouterr().out


def test_turns_rotate_and_each_round_has_one_of_each():
    diary: list[str] = []
    runners = {label: Metronome(label, 0.1, diary) for label in "abc"}
    rounds = take_turns(runners, rounds=3, turn_seconds=0.1)
    assert "".join(diary[3:]) == "abcbcacab"
    assert all(len(medians) == 3 for medians in rounds.medians.values())


def test_a_ratio_is_taken_round_by_round():
    """Both engines slow down together in the last rounds: the ratio does not move."""
    rounds = Rounds({"a": [1.0, 1.0, 4.0], "b": [2.0, 2.0, 8.0]})
    ratio = rounds.ratio("a", "b")
    assert (ratio.low, ratio.median, ratio.high) == (0.5, 0.5, 0.5)
    assert rounds.ratio_to_fastest("b", ["a"]).median == 2.0


def test_difference_is_relative_to_the_rms_of_each_output():
    expected = {"y": np.array([3.0, -4.0]), "z": np.array([100.0, 100.0])}
    ours = {"y": np.array([3.0, -4.0]), "z": np.array([100.0, 101.0])}
    assert difference(ours, expected) == pytest.approx(0.01)
    assert difference({"y": np.array([np.nan])}, {"y": np.array([1.0])}) == np.inf
    assert difference({"y": np.zeros((2, 1))}, {"y": np.zeros((1, 2))}) == np.inf


def test_an_engine_that_refuses_its_model_is_an_error_with_its_last_words(tmp_path):
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no model")
    with pytest.raises(EngineError, match=r"onnxruntime ended with .* on 'load': .*broken\.onnx"):
        EngineProcess("onnxruntime", broken, {"x": np.zeros(1)}, threads=1)


def test_the_report_has_a_row_for_each_case():
    engine = {"seconds": {"median": 0.01}, "load_seconds": 0.1, "peak_rss": 5e7}
    spread = {"median": 0.9, "low": 0.8, "high": 1.0}
    case = {
        "model": "net",
        "threads": 1,
        "engines": {"glulam": engine, "peer": engine},
        "ratios": {"fastest": spread},
    }
    text = markdown({"cpu": "some CPU", "versions": {"glulam": "1", "peer": "2-abc"}, "cases": [case]})
    assert "| net | 1 | 1 | **0.90** (0.80-1.00) | 10.00 | 10.00 |" in text
    assert "peer 2." in text


def test_the_compact_report_has_a_row_for_each_model_and_their_geometric_mean(tmp_path, capsys):
    def case(model, threads, ratio):
        engine = {"seconds": {"median": 0.01 / threads}}
        spread = {"median": ratio, "low": ratio, "high": ratio}
        engines = {"glulam": engine, "peer": engine}
        return {"model": model, "threads": threads, "engines": engines, "ratios": {"fastest": spread}}

    paths = []
    for model, ratio in (("a", 0.25), ("b", 1.0)):
        paths.append(tmp_path / f"{model}.json")
        result = {"cases": [case(model, 1, ratio), case(model, 2, 0.5)]}
        paths[-1].write_text(json.dumps({**result, "cpu": "a processor", "versions": {"glulam": "1", "peer": "2-x"}}))
    assert report.main(["--compact", *map(str, paths)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "| model | ratio, 1 thread | glulam | peer | ratio, 2 threads | glulam | peer |"
    assert lines[2] == "| a | 0.25 | 10.00 | 10.00 | 0.50 | 5.00 | 5.00 |"
    assert lines[4] == "| geometric mean | 0.500 |  |  | 0.500 |  |  |"
    assert "a processor. glulam 1, peer 2." in lines[6]
    assert len(lines) == 7, "what both were measured with is said once"


def small_net():
    """Layers that fold, fuse and pool, over channels that fill no block."""
    return gl.Sequential(
        [
            gl.layers.Input((3, 20, 20)),
            gl.layers.Conv2d(24, 3, padding=1, bias=False),
            gl.layers.BatchNorm(),
            gl.layers.ReLU(),
            gl.layers.Conv2d(20, 3, padding=1),
            gl.layers.BatchNorm(),
            gl.layers.Sigmoid(),
            gl.layers.Conv2d(20, 3, padding=1),
            gl.layers.ReLU(),
            gl.layers.MaxPool2d(2),
            gl.layers.Flatten(),
            gl.layers.Linear(5),
        ]
    ).graph()


def test_every_build_of_the_comparison_agrees_with_the_reference():
    graph = small_net()
    table, idle = variants(graph, gl.Options())
    assert {"unfused", "only fuse", "only fold_normalisation", "no fold_normalisation", "fused"} <= set(table)
    assert "matmul_to_linear" in idle
    feeds = {"input": np.random.default_rng(0).standard_normal((1, 3, 20, 20), dtype=np.float32)}
    expected = gl.reference(graph, feeds)
    for label, options in table.items():
        assert difference(gl.compile(graph, options).run(feeds), expected) < 1e-5, label


def test_builds_that_come_out_alike_are_one():
    graph = gl.Sequential([gl.layers.Input((3, 8, 8)), gl.layers.Conv2d(16, 3), gl.layers.ReLU()]).graph()
    table, _ = variants(graph, gl.Options())
    assert list(build_variants(graph, table, lambda stage: None)) == ["unfused", "fused"]
    plain = gl.Sequential([gl.layers.Input((4, 8, 8)), gl.layers.ReLU()]).graph()
    table, _ = variants(plain, gl.Options())
    assert list(build_variants(plain, table, lambda stage: None)) == ["unfused", "fused"]


def test_a_folded_layer_counts_for_the_group_of_the_layer_before_it():
    graph = small_net()
    first, second, *_ = [node.name for node in graph.nodes if node.op.name == "conv"]
    steps = [{"label": node.name, "seconds": 1.0} for node in graph.nodes] + [{"label": "copy", "seconds": 0.5}]
    names = [node.name for node in graph.nodes]
    at = names.index(second)
    fused = [
        {"label": f"{first} + {names[2]}", "seconds": 2.0},
        {"label": " + ".join([second, *names[at + 2 :]]), "seconds": 3.0},
        {"label": "input_blocked", "seconds": 0.25},
    ]
    *groups, changes = group_times(graph, {"steps": steps}, {"steps": fused})
    assert [(group.unfused, group.fused) for group in groups] == [(len(names) - 3.0, 3.0), (3.0, 2.0)]
    assert (changes.unfused, changes.fused) == (0.5, 0.25)


def small_file(tmp_path, *tail):
    """A convolution and what follows it, for one sample, as an ONNX file."""
    graph = gl.Sequential([gl.layers.Input((3, 6, 6)), gl.layers.Conv2d(4, 3), gl.layers.ReLU(), *tail]).graph()
    path = tmp_path / "small.onnx"
    gl.to_onnx(graph, path)
    return path


def test_a_batch_replaces_the_leading_extent_for_us_and_for_the_peers(tmp_path):
    case = open_case(str(small_file(tmp_path)), batch=3)
    assert case.batch == 3
    assert next(iter(case.feeds().values())).shape == (3, 3, 6, 6)
    again = open_case(str(case.write_onnx(tmp_path / "again.onnx")))
    assert again.batch == 3
    assert [value.shape for value in again.graph.outputs.values()] == [(3, 4, 4, 4)]
    zoo = open_case("squeezenet1_1", {"input": (1, 3, 64, 64)}, batch=2)
    assert zoo.graph.inputs["input"].shape == (2, 3, 64, 64)


def test_a_batch_that_a_model_does_not_take_is_refused(tmp_path):
    with pytest.raises(
        GlulamError, match=r"small has no leading extent of 1 to make 2: its input 'input' is \(3, 3, 6, 6\)"
    ):
        with_batch(open_case(str(small_file(tmp_path)), batch=3), 2)
    for shape, why in (
        ([1, 16], "Reshape"),
        ([1, -1], r"makes its output 'y' \(1, 32\), with one sample it is \(1, 16\)"),
    ):
        node = helper.make_node("Reshape", ["x", "shape"], ["y"])
        x = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 4, 4])
        y = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, 16])
        target = numpy_helper.from_array(np.array(shape), "shape")
        model = helper.make_model(helper.make_graph([node], "fixed", [x], [y], [target]))
        (tmp_path / "fixed.onnx").write_bytes(model.SerializeToString())
        with pytest.raises(GlulamError, match=f"fixed does not take a batch of 2: .*({why})"):
            open_case(str(tmp_path / "fixed.onnx"), batch=2)


def test_engines_are_held_to_an_instruction_set_where_they_can_be():
    setup = run.Setup(isa="avx2")
    assert setup.options.target == "native:x86-64-v3"
    held = [setup.instructions(label) for label in ("glulam", "onnxruntime", "openvino")]
    assert held == ["x86-64-v3", "no switch", "avx2"]
    assert not setup.switches("onnxruntime")
    assert set(setup.switches("openvino").values()) == {"AVX2"}
    assert not run.Setup().switches("openvino")
    assert run.Setup().options.target == "native"


@pytest.mark.parametrize("wrong", [["--isa", "sse"], ["--numerics", "exact"]])
def test_arguments_that_make_no_sense_are_refused(wrong, capsys):
    with pytest.raises(SystemExit):
        run.parse(wrong)
    assert f"argument {wrong[0]}: invalid" in capsys.readouterr().err


def measured(model, batch, threads=1):
    """What `measure_case` says, without a clock: OpenVINO held to AVX2, ONNX Runtime not."""
    setup = run.Setup(("onnxruntime", "openvino"), isa="avx2")
    engine = {"seconds": {"median": 0.01}, "load_seconds": 0.1, "peak_rss": 5e7, "difference": 1e-6}
    spread = {"median": 0.9, "low": 0.8, "high": 1.0}
    engines = {label: engine | {"instructions": setup.instructions(label)} for label in ("glulam", *setup.peers)}
    ratios = {"onnxruntime": spread, "openvino": spread, "fastest": spread}
    return {"model": model, "batch": batch, "threads": threads, "isa": "avx2", "engines": engines, "ratios": ratios}


def test_tables_tell_batch_instructions_and_the_ratio_among_equals():
    case = measured("net", 8)
    table = run.table_of([case], ["onnxruntime", "openvino"], "title")
    heads = [str(column.header) for column in table.columns]
    assert heads[:5] == ["model", "batch", "threads", "ratio", "to openvino"]
    assert {"onnxruntime ms\n(no switch)", "openvino ms\n(avx2)"} <= set(heads)
    versions = {"glulam": "1", "onnxruntime": "2", "openvino": "3"}
    text = markdown({"cpu": "some CPU", "versions": versions, "cases": [case]})
    assert "| net | 8 | 1 | **0.90** (0.80-1.00) | 10.00 | 10.00 | 10.00 |" in text
    assert "Instructions: glulam x86-64-v3, onnxruntime no switch, openvino avx2." in text


def test_the_exact_result_is_float64_all_through():
    graph = small_net()
    wide = error.widened(graph)
    assert {value.type.dtype for value in wide.values()} == {DType.F64}
    feeds = {"input": np.random.default_rng(0).standard_normal((1, 3, 20, 20), dtype=np.float32)}
    labels: list[str] = []
    (exact,) = error.exact(wide, feeds, lambda label, done, of: labels.append(label)).values()
    (rounded,) = gl.reference(graph, feeds).values()
    (again,) = gl.reference(wide, {"input": feeds["input"].astype(np.float64)}).values()
    assert labels == [node.name for node in graph.nodes]
    assert exact.dtype == np.float64
    assert np.array_equal(exact, again)
    assert 0 < error.error_of([({"y": rounded}, {"y": exact})]) < 1e-6


def test_a_cast_to_float32_does_not_round_the_exact_result():
    graph = gl.Graph("casts")
    x = graph.input("x", TensorType(DType.F32, (3,)))
    whole = graph.apply(Cast(DType.I64), x)
    graph.output("y", graph.apply(Add(), graph.apply(Cast(DType.F32), whole), x))
    wide = error.widened(graph)
    (y,) = error.exact(wide, {"x": np.array([0.1, 1.1, -2.6], np.float32)}).values()
    assert np.array_equal(y, np.array([0.1, 1.1, -2.6], np.float32) + np.array([0.0, 1, -2]))


def test_an_error_is_relative_and_pooled_over_samples():
    exact = {"y": np.array([3.0, 4.0]), "index": np.array([1, 2])}
    near = {"y": np.array([3.0, 4.5], np.float32), "index": np.array([7, 7])}
    assert error.error_of([(near, exact)]) == pytest.approx(0.1)
    assert error.error_of([(near, exact), (exact, exact)]) == pytest.approx(0.1 / 2**0.5)
    assert error.error_of([({"y": np.array([3.0, np.nan])}, {"y": exact["y"]})]) == np.inf
    with pytest.raises(GlulamError, match="floating point"):
        error.error_of([({"i": np.zeros(2, int)}, {"i": np.zeros(2, int)})])


def test_both_numerics_and_the_peer_are_near_the_exact_result():
    graph = small_net()
    errors = error.measure(Case("small", graph, None), ["fast", "strict"], samples=2)
    assert errors.inputs == {"input": (1, 3, 20, 20)}
    assert set(errors.ours) == {"fast", "strict"}
    assert all(0 < value < 1e-5 for value in (*errors.ours.values(), errors.theirs))
    assert error.medians([errors])["strict"] == errors.ratio("strict") == errors.ours["strict"] / errors.theirs
    assert error.as_json([errors], "1")["models"][0]["ratios"]["fast"] == errors.ratio("fast")
    assert len(error.table_of([errors], "title").columns) == 6


def test_arguments_of_the_error_measurement(capsys):
    assert error.parse([]).models == list(error.DEFAULT_MODELS)
    assert error.parse(["all"]).models == all_names()
    assert error.parse([]).numerics == ["fast"]
    assert error.parse(["unet", "--numerics", "strict,fast,strict"]).numerics == ["strict", "fast"]
    assert error.open_sized("squeezenet1_1", 64).graph.inputs["input"].shape == (1, 3, 64, 64)
    with pytest.raises(SystemExit):
        error.parse(["--numerics", "fast,exact"])
    assert "no numerics 'exact'; there are fast and strict" in capsys.readouterr().err


@pytest.mark.long
def test_compilations_are_measured_in_processes_of_their_own(tmp_path):
    gl.to_onnx(small_net(), tmp_path / "net.onnx")
    costs = compile.measure(str(tmp_path / "net.onnx"), tmp_path)
    assert costs.network is None
    assert all(run.seconds > 0 and run.peak > 30e6 for run in (costs.file, costs.file_cached, costs.shell, costs.load))
    assert costs.load.peak < costs.peak, "loading takes no compiler"
    assert costs.peak <= 3 * costs.file_bytes + 300e6
    with pytest.raises(GlulamError, match=r"load .*none\.glulam failed: .*none\.glulam"):
        compile._run(tmp_path, "load", str(tmp_path / "none.glulam"))
