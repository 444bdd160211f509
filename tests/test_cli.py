"""The command line: what it teaches, how it fails, and one round through all of its commands."""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest

import glulam as gl
import glulam.__main__
from glulam.benchmarks.cases import Case
from glulam.cli import build_parser, main
from glulam.cli_common import UsageError, parse_shape
from glulam.cli_run import read_inputs
from glulam.compiler.graph.types import DType, TensorType
from glulam.compiler.ops.pointwise import Cast

COMMANDS = ["compile", "explain", "show", "run", "inspect", "profile", "tune", "bench"]


def test_help_starts_with_a_first_round_through_the_commands():
    text = build_parser().format_help()
    assert all(f"glulam {command}" in text for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_each_command_ends_with_examples(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    assert f"  glulam {command} " in capsys.readouterr().out.partition("examples:")[2]


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["fly"],
        ["compile"],
        ["compile", "m.onnx", "--shape", "3,3"],
        ["run", "m", "--threads", "0"],
        ["compile", "m.onnx", "--shap", "x=1"],
    ],
)
def test_wrong_usage_exits_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert "usage:" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["run", "inspect"])
def test_an_error_is_one_line_on_stderr_and_exits_with_1(command, capsys, tmp_path):
    assert main([command, str(tmp_path / "missing.glulam")]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("glulam: error: ")
    assert captured.err.count("\n") == 1
    assert "missing.glulam" in captured.err


def test_debug_lets_the_traceback_through(tmp_path):
    with pytest.raises(FileNotFoundError):
        main(["run", str(tmp_path / "missing.glulam"), "--debug"])


def test_python_m_glulam_is_the_command():
    done = subprocess.run([sys.executable, "-m", "glulam", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("glulam ")


def test_an_interrupt_while_the_command_is_loaded_ends_it(monkeypatch):
    class Loading:
        @property
        def main(self):
            raise KeyboardInterrupt

    monkeypatch.setitem(sys.modules, "glulam.cli", Loading())
    assert glulam.__main__.main() == 130


def test_help_loads_no_compiler():
    code = "import sys, glulam.cli; glulam.cli.build_parser(); print('llvmlite' in sys.modules, 'onnx' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


@pytest.mark.parametrize(
    ("text", "parsed"),
    [("x=1,3,640,640", ("x", (1, 3, 640, 640))), ("a=b:0=7", ("a=b:0", (7,))), ("s=", ("s", ()))],
)
def test_parse_shape(text, parsed):
    assert parse_shape(text) == parsed


@pytest.mark.parametrize("text", ["x", "=1,2", "x=1,,2", "x=-1,3", "x=a"])
def test_parse_shape_refuses(text):
    with pytest.raises(argparse.ArgumentTypeError, match="NAME="):
        parse_shape(text)


def test_inputs_by_name_by_position_and_from_an_archive(tmp_path):
    one, two = np.arange(3.0), np.arange(4.0)
    np.save(tmp_path / "one.npy", one)
    np.savez(tmp_path / "both.npz", a=one, b=two)
    assert list(read_inputs([f"{tmp_path}/one.npy"], ["x"])) == ["x"]
    assert list(read_inputs([f"a={tmp_path}/one.npy"], ["a", "b"])) == ["a"]
    found = read_inputs([f"{tmp_path}/both.npz"], ["a", "b"])
    np.testing.assert_array_equal(found["b"], two)


def test_an_input_without_a_name_is_refused_if_the_model_has_two(tmp_path):
    np.save(tmp_path / "one.npy", np.zeros(1))
    with pytest.raises(UsageError, match="one of a, b"):
        read_inputs([f"{tmp_path}/one.npy"], ["a", "b"])


def test_a_file_with_pickled_objects_is_refused(tmp_path):
    np.save(tmp_path / "evil.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(UsageError, match="not an array file"):
        read_inputs([f"{tmp_path}/evil.npy"], ["x"])


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A small network as an ONNX file, one input `x`; and its graph."""
    net = gl.Sequential(
        [
            gl.layers.Input((3, 12, 12), name="x"),
            gl.layers.Conv2d(8, 3, padding=1),
            gl.layers.ReLU(),
            gl.layers.MaxPool2d(2),
            gl.layers.Flatten(),
            gl.layers.Linear(5),
        ]
    )
    path = tmp_path_factory.mktemp("tiny") / "tiny.onnx"
    path.write_bytes(gl.to_onnx(net).SerializeToString())
    return path, net


def test_compile_inspect_run_explain(tiny, tmp_path, capsys):
    path, net = tiny
    artifact, feed, result = tmp_path / "t.glulam", tmp_path / "x.npy", tmp_path / "y.npz"
    assert main(["compile", str(path), "-o", str(artifact)]) == 0
    assert str(artifact) in capsys.readouterr().out.replace("\n", "")

    assert main(["inspect", str(artifact), "--kernels"]) == 0
    assert "float32[1,3,12,12]" in capsys.readouterr().out

    x = np.random.default_rng(0).standard_normal((1, 3, 12, 12), dtype=np.float32)
    np.save(feed, x)
    assert main(["run", str(artifact), "--input", str(feed), "-o", str(result), "--profile"]) == 0
    (expected,) = gl.reference(net, {"x": x}).values()
    with np.load(result) as outputs:
        np.testing.assert_allclose(outputs[outputs.files[0]], expected, rtol=1e-4, atol=1e-5)

    capsys.readouterr()
    assert main(["explain", str(path)]) == 0
    assert "done" in capsys.readouterr().out


def test_run_without_its_input_says_which(tiny, tmp_path, capsys):
    artifact = tmp_path / "t.glulam"
    assert main(["compile", str(tiny[0]), "-o", str(artifact)]) == 0
    assert main(["run", str(artifact)]) == 2
    assert "x: float32[1,3,12,12]" in capsys.readouterr().err


@pytest.mark.parametrize("dtype", [DType.I64, DType.U8, DType.BOOL])
def test_random_numbers_that_are_not_floats_are_indices(dtype, tmp_path):
    graph = gl.Graph("cast")
    graph.output("y", graph.apply(Cast(DType.F32), graph.input("x", TensorType(dtype, (3, 40)))))
    artifact, result = tmp_path / "m.glulam", tmp_path / "y.npy"
    with gl.compile(graph) as model:
        model.save(artifact)
    assert main(["run", str(artifact), "--random", "7", "-o", str(result)]) == 0
    drawn = np.load(result)
    assert set(drawn.ravel()) == {0.0, 1.0}
    np.testing.assert_array_equal(drawn, Case("cast", graph, None).feeds(7)["x"])


LEVELS = {
    "input": "input %x: f32[1,3,12,12]",
    "graph": "fused",
    "graph --after fold_normalisation": "max_pool(",
    "dot": "digraph",
    "program": "reads input 0[0..1727]",
    "loops": "parallel",
    "loops --kernel reorder": "parallel",
    "llvm": "define void @",
    "assembly": "ret",
}


@pytest.mark.parametrize("level", LEVELS)
def test_every_level_can_be_shown(tiny, level, capsys):
    assert main(["show", str(tiny[0]), *level.split()]) == 0
    assert LEVELS[level] in capsys.readouterr().out


@pytest.mark.parametrize(
    ("level", "reason"),
    [
        ("loops --after fuse", "--after goes with the level graph"),
        ("graph --kernel fc", "--kernel goes with the levels"),
        ("loops --kernel nobody", "no kernel's name or layers contain 'nobody'"),
        ("graph --after nothing", "no pass named 'nothing' ran"),
    ],
)
def test_what_a_level_cannot_show(tiny, level, reason, capsys):
    assert main(["show", str(tiny[0]), *level.split()]) == 2
    assert reason in capsys.readouterr().err


def test_tune_lists_what_it_measured(tiny, capsys):
    assert main(["tune", str(tiny[0]), "--no-cache"]) == 0
    printed = capsys.readouterr().out
    assert "the cost model chose the fastest candidate for" in printed
    assert re.search(r"\d us +fastest", printed)
    assert main(["tune", str(tiny[0]), "--no-cache", "--json"]) == 0
    measured = 0
    for layer in json.loads(capsys.readouterr().out):
        seconds = {name: each["seconds"] for name, each in layer["candidates"].items() if each["seconds"] is not None}
        if seconds:
            measured += 1
            assert layer["chosen"] == min(seconds, key=seconds.__getitem__)
    assert measured


def test_bench_says_how_to_get_the_peers_that_are_missing(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("glulam.benchmarks.peers.installed_peers", list)
    assert main(["bench", str(tmp_path / "missing.onnx"), "--peers"]) == 1
    told = "is not installed: compared without it (pip install 'glulam[bench]')"
    assert told in " ".join(capsys.readouterr().err.split())


def test_bench_is_fused_and_unfused_anyway(tiny, capsys):
    assert main(["bench", str(tiny[0]), "--no-fuse"]) == 2
    assert "compares fused builds with an unfused one in any case" in capsys.readouterr().err


def test_tune_measures_anyway(tiny, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["tune", str(tiny[0]), "--tune"])
    assert stop.value.code == 2
    assert "unrecognized arguments: --tune" in capsys.readouterr().err


def test_bench_compares_the_builds(tiny, capsys):
    assert main(["bench", str(tiny[0]), "--rounds", "1", "--turn", "0.01"]) == 0
    out = capsys.readouterr().out
    assert "unfused" in out
    assert "fused groups" in out


def test_profile_shows_the_share_of_the_peak(tmp_path, capsys):
    figures, trace = tmp_path / "p.json", tmp_path / "t.json"
    arguments = ["profile", "resnet18", "--shape", "input=1,3,32,32", "--repeat", "2"]
    assert main([*arguments, "--json", str(figures), "--trace", str(trace)]) == 0
    shown = capsys.readouterr().out
    assert "GFLOP/s" in shown
    assert "direct" in shown
    rows = json.loads(figures.read_text())["kernels"]
    events = json.loads(trace.read_text())["traceEvents"]
    assert [row["layers"] for row in rows] == [event["name"] for event in events]
    assert all(row["microseconds"] >= 0 and row["of_peak"] >= 0 for row in rows)
    assert all(row["algorithm"] and row["roofline_microseconds"] > 0 for row in rows)
    assert all(event["args"]["of_roofline"] == row["of_roofline"] for row, event in zip(rows, events, strict=True))


def test_outputs_may_have_any_name(tmp_path):
    x = gl.layers.Input((3,), name="x")
    graph = gl.Graph.of([x], {"file": gl.layers.ReLU()(x), "allow_pickle": gl.layers.Tanh()(x)})
    artifact, result = tmp_path / "m.glulam", tmp_path / "y.npz"
    with gl.compile(graph) as model:
        model.save(artifact)
    np.save(tmp_path / "x.npy", np.ones((1, 3), np.float32))
    assert main(["run", str(artifact), "--input", str(tmp_path / "x.npy"), "-o", str(result)]) == 0
    with np.load(result) as outputs:
        assert sorted(outputs.files) == ["allow_pickle", "file"]
        np.testing.assert_array_equal(outputs["file"], np.ones((1, 3), np.float32))


@pytest.mark.skipif(os.name != "posix", reason="a shell is needed that can close streams")
@pytest.mark.parametrize(("arguments", "code"), [("show {model} input", 0), ("compile {model}.none", 1)])
@pytest.mark.parametrize("closed", ["1", "2"])
def test_closed_streams_are_done_without(tiny, arguments, code, closed):
    command = f"{sys.executable} -m glulam {arguments.format(model=tiny[0])} {closed}>&-"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True)
    assert done.returncode == code
    assert "Traceback" not in done.stderr
    assert "error" not in done.stdout


@pytest.mark.parametrize("arguments", [["--repeat", "0"], ["--top", "-1"]])
def test_profile_refuses_what_is_no_count(arguments, capsys):
    with pytest.raises(SystemExit):
        main(["profile", "resnet18", *arguments])
    assert "is not a whole number of at least" in capsys.readouterr().err


def test_what_is_given_twice_is_refused(tiny, tmp_path, capsys):
    np.save(tmp_path / "x.npy", np.zeros(3))
    with pytest.raises(UsageError, match="a second array for x"):
        read_inputs([f"x={tmp_path}/x.npy", f"{tmp_path}/x.npy"], ["x"])
    assert main(["explain", str(tiny[0]), "--shape", "x=1,3,12,12", "--shape", "x=2,3,12,12"]) == 2
    assert "--shape was given twice" in capsys.readouterr().err


@pytest.mark.parametrize("columns", ["", "0", "wide"])
def test_tables_do_not_vanish_without_columns(tiny, columns, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", columns)
    assert main(["explain", str(tiny[0]), "--pass", "fuse"]) == 0
    assert "fuse" in capsys.readouterr().out


@pytest.fixture(scope="module")
def compiled(tiny):
    """The small network compiled, and a file with an array for its input."""
    artifact, feed = tiny[0].with_suffix(".glulam"), tiny[0].with_suffix(".npy")
    assert main(["compile", str(tiny[0]), "-o", str(artifact)]) == 0
    np.save(feed, np.ones((1, 3, 12, 12), np.float32))
    return artifact, feed


@pytest.mark.parametrize("command", ["inspect {0} --kernels", "run {0} --input {1} --profile", "run {0} --random 0"])
def test_what_works_on_an_artifact_loads_neither_compiler_nor_benchmarks(command, compiled):
    code = (
        "import sys\nfrom glulam.cli import main\nassert main(sys.argv[1:]) == 0\n"
        "bad = [m for m in sys.modules if m.startswith(('glulam.benchmarks', 'glulam.compiler'))]\n"
        "sys.exit(str(bad) if bad else 0)"
    )
    words = command.format(*compiled).split()
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def _damaged_npy(tmp_path, header: bytes):
    path = tmp_path / "bad.npy"
    path.write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
    return path


@pytest.mark.parametrize(
    "header",
    [
        b"{'descr': '<f4', 'fortran_order': False, 'shape': (3",
        b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000,), }\n",
        b"{'descr': '<f4', 'fortran_order': False, 'shape': (-1,), }\n",
        b"{'descr': 3, 'fortran_order': False, 'shape': (), }\n",
        b"{1: 2, 'a': 3}\n",
        b"\xff\xfe",
        b"'''",
        b"",
    ],
)
def test_a_damaged_array_is_refused_in_one_line(header, compiled, tmp_path, capsys):
    path = _damaged_npy(tmp_path, header)
    assert main(["run", str(compiled[0]), "--input", str(path)]) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"glulam: error: {path} is not an array file")
    assert told.count("\n") == 1


@pytest.mark.parametrize("place", [*range(0, 60, 3), -40, -20])
def test_a_damaged_archive_is_refused_or_holds_what_it_held(place, tmp_path):
    path = tmp_path / "bad.npz"
    np.savez_compressed(path, x=np.arange(64.0))
    data = bytearray(path.read_bytes())
    data[place] ^= 0x55
    path.write_bytes(data)
    try:
        found = read_inputs([str(path)], ["x"])
    except UsageError as error:
        assert str(path) in str(error)  # noqa: PT017 - damage that zipfile does not look at is none
    else:
        assert all(np.array_equal(array, np.arange(64.0)) for array in found.values())


def test_an_unknown_input_is_named(compiled, capsys):
    assert main(["run", str(compiled[0]), "--input", f"nope={compiled[1]}"]) == 2
    assert "no input nope; it has x: float32[1,3,12,12]" in capsys.readouterr().err


def test_the_output_may_be_one_array(compiled, tmp_path, capsys):
    result = tmp_path / "y.npy"
    assert main(["run", str(compiled[0]), "--input", str(compiled[1]), "-o", str(result)]) == 0
    assert np.load(result).shape == (1, 5)


@pytest.mark.parametrize(
    ("output", "told"),
    [("nobody/y.npz", "there is no folder"), (".", "is a folder"), ("y.txt", "y.txt: outputs are written to an .npz")],
)
def test_run_looks_at_its_output_first(output, told, compiled, tmp_path, capsys):
    assert main(["run", str(compiled[0]), "--input", "missing.npy", "-o", str(tmp_path / output)]) == 2
    assert told in capsys.readouterr().err


def test_a_folder_is_no_model(tmp_path, capsys):
    (tmp_path / "net.onnx").mkdir()
    assert main(["compile", str(tmp_path / "net.onnx")]) == 1
    assert "is a folder" in capsys.readouterr().err


def test_what_cannot_be_written_is_named_as_the_user_did(compiled, tiny, tmp_path, capsys, monkeypatch):
    def refuse(file, artifact):
        raise PermissionError(13, "Permission denied", ".hidden.tmp")

    monkeypatch.setattr("glulam.runtime.artifact._write", refuse)
    assert main(["compile", str(tiny[0]), "-o", str(tmp_path / "out.glulam")]) == 1
    assert capsys.readouterr().err == f"glulam: error: {tmp_path / 'out.glulam'}: Permission denied\n"


@pytest.mark.skipif(os.name != "posix", reason="pipes of this kind are POSIX's")
@pytest.mark.parametrize(
    "command", ["explain {model}", "inspect {artifact} --kernels", "run {artifact} --input {feed} -o {out}"]
)
def test_a_reader_that_has_seen_enough_is_no_error(command, tiny, compiled, tmp_path):
    out = tmp_path / "y.npz"
    words = command.format(model=tiny[0], artifact=compiled[0], feed=compiled[1], out=out).split()
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run([sys.executable, "-m", "glulam", *words], stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")
    assert out.exists() == (words[0] == "run")


@pytest.mark.skipif(os.name != "posix", reason="pipes of this kind are POSIX's")
def test_what_is_noted_comes_after_the_output_is_written(compiled, tmp_path):
    out = tmp_path / "y.npz"
    reading, writing = os.pipe()
    os.close(reading)
    words = ["run", str(compiled[0]), "--input", str(compiled[1]), "-o", str(out), "--threads", "100000"]
    done = subprocess.run([sys.executable, "-m", "glulam", *words], stdout=writing, stderr=writing)
    os.close(writing)
    assert done.returncode == 0
    assert out.exists()


@pytest.mark.parametrize("option", ["--json", "--trace"])
def test_profile_looks_at_its_outputs_first(option, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["profile", "no_such_model", option, str(tmp_path)])
    assert ended.value.code == 2
    assert "is a folder" in capsys.readouterr().err


def test_profile_writes_before_it_prints(tiny, tmp_path, monkeypatch):
    def closed():
        raise BrokenPipeError

    monkeypatch.setattr("glulam.cli_profile.wide_console", closed)
    figures, trace = tmp_path / "p.json", tmp_path / "t.json"
    arguments = ["--repeat", "1", "--json", str(figures), "--trace", str(trace)]
    with pytest.raises(BrokenPipeError):
        main_action(["profile", str(tiny[0]), *arguments])
    assert figures.exists()
    assert trace.exists()


def main_action(words):
    """The command itself, without what `main` does about errors."""
    options = build_parser().parse_args(words)
    options.action(options)
