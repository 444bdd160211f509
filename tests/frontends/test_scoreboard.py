"""The scoreboard's own conduct: how it is called, and that no worker outlives it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from glulam.compiler.errors import UnsupportedError
from glulam.frontends.onnx import scoreboard


def test_help_names_the_command(capsys):
    with pytest.raises(SystemExit):
        scoreboard.main(["--help"])
    assert capsys.readouterr().out.startswith("usage: python -m glulam.frontends.onnx.scoreboard")


def test_without_the_onnx_package_the_remedy_is_named(tmp_path):
    (tmp_path / "onnx.py").write_text("raise ImportError", encoding="utf-8")
    program = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import runpy; "
    program += "runpy.run_module('glulam.frontends.onnx.scoreboard', run_name='__main__')"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert ended.stderr == "error: ONNX files need the onnx package: pip install 'glulam[onnx]'\n"


def test_a_worker_that_does_not_start_is_stopped(monkeypatch):
    stopped = []

    class Worker:
        def __init__(self, *arguments):
            pass

        def scores(self, timeout):
            raise UnsupportedError("the worker does not start")
            yield

        def stop(self):
            stopped.append(self)

    monkeypatch.setattr(scoreboard, "_Worker", Worker)
    with pytest.raises(UnsupportedError):
        scoreboard.run()
    assert len(stopped) == 1
