"""The scoreboard's own conduct: how it is called, and that no worker outlives it."""

from __future__ import annotations

import pytest

from glulam.compiler.errors import UnsupportedError
from glulam.frontends.onnx import scoreboard


def test_help_names_the_command(capsys):
    with pytest.raises(SystemExit):
        scoreboard.main(["--help"])
    assert capsys.readouterr().out.startswith("usage: python -m glulam.frontends.onnx.scoreboard")


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
