"""Code from several processes is the code of one; processes that fail are done without."""

from __future__ import annotations

import io
import subprocess
import sys
import time
from functools import partial

import pytest

from glulam.compiler.codegen import llvm_process, module, processes
from glulam.compiler.codegen.module import build_objects, module_text
from glulam.compiler.codegen.processes import Helper, compiled, processes_for
from glulam.compiler.errors import CompileError
from glulam.compiler.loops.builder import Builder
from glulam.compiler.loops.ir import Access
from glulam.compiler.targets import runnable_targets
from glulam.runtime import processors

TARGET = runnable_targets()[0]
BROKEN = "define void @f() {\n  ret i32 %nothing\n}\n"


def powers(exponent):
    """A kernel: vectors multiplied by themselves some times."""
    b = Builder(f"powers{exponent}")
    x, y = b.param("x", (9, 8)), b.param("y", (9, 8), Access.WRITE)
    with b.section(i=9) as (i,), b.vector("v", 8) as v:
        product = x[i, v] * 1.0
        for _ in range(exponent):
            product = product * x[i, v]
        b.store(y[i, v], product)
    return b.kernel()


KERNELS = [powers(exponent) for exponent in range(9)]


def texts():
    return [module_text([kernel], "", TARGET) for kernel in KERNELS]


def here(text):
    machine = llvm_process.target_machine(TARGET.triple, TARGET.cpu, TARGET.features)
    return llvm_process.object_code(text, machine)


def unwilling(text):
    raise AssertionError("this was to be compiled in another process")


COMMAND = [sys.executable, "-P", llvm_process.__file__]


@pytest.fixture
def helper():
    """Starts a helper, which is closed afterwards."""
    made = []

    def start(command=COMMAND):
        made.append(Helper(TARGET, command))
        return made[-1]

    yield start
    for each in made:
        each.close()


def script(folder, text):
    """An executable file."""
    path = folder / "executable"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_the_code_is_the_same_wherever_it_is_compiled(count):
    assert compiled(texts(), here, TARGET, count) == [here(text) for text in texts()]


def test_a_process_compiles_by_itself(helper):
    process = helper()
    assert process.is_ready()
    assert process.compiler(unwilling)(texts()[0]) == here(texts()[0])
    assert process.object_code(BROKEN) is None
    assert process.compiler(unwilling)(texts()[1]) == here(texts()[1]), "it goes on after a text that was refused"


def test_a_process_may_print_when_it_starts(helper, tmp_path, monkeypatch):
    (tmp_path / "sitecustomize.py").write_text("import os\nprint('hello' * 100, flush=True)\nos.write(1, b'+')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    process = helper()
    assert process.is_ready()
    assert process.compiler(unwilling)(texts()[0]) == here(texts()[0])


@pytest.mark.parametrize("text", ["exit 0", "exec yes", 'shift 2; head -c 50; echo "+no no no no no no" >&$1'])
def test_what_is_no_helper_is_never_ready(helper, tmp_path, text, monkeypatch):
    monkeypatch.setattr(processes, "_PATIENCE", 0.2)
    assert not helper([script(tmp_path, text), "-P", "file"]).is_ready()


@pytest.mark.parametrize("text", ["exec sleep 60", "sleep 60; true"], ids=["itself", "a child of it"])
def test_nobody_waits_for_a_process_that_is_not_ready(tmp_path, monkeypatch, text):
    monkeypatch.setattr(sys, "executable", script(tmp_path, text))
    monkeypatch.setattr(processes, "_PATIENCE", 60.0)
    began = time.monotonic()
    assert compiled(texts()[:2], here, TARGET, 2) == [here(text) for text in texts()[:2]]
    assert time.monotonic() - began < 30


def test_a_process_that_ends_before_the_first_request_is_reaped(started):
    found = started(2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(llvm_process, "send", refuse)
        build_objects(KERNELS[:2], TARGET)
    assert len(found) == 2
    assert all(helper._process.returncode is not None and helper._answers.closed for helper in found)


def refuse(stream, message):
    raise BrokenPipeError("nobody reads this")


def test_no_process_is_started_from_a_frozen_program(monkeypatch):
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    monkeypatch.setattr(subprocess, "Popen", unwilling)
    assert processes._start(TARGET) is None


def test_an_exception_cancels_what_has_not_begun():
    begun = []

    def slowly(text):
        begun.append(text)
        time.sleep(0.2)
        return b""

    def interrupted():
        yield from "abcdef"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compiled(interrupted(), slowly, TARGET, 0)
    assert len(begun) <= 1


@pytest.mark.parametrize(
    "command", [[sys.executable, "-c", "pass"], [sys.executable, "-c", "import sys; sys.stdin.read(50); print('+no')"]]
)
def test_what_a_process_does_not_compile_is_compiled_here(command, helper):
    process = helper(command)
    assert [process.compiler(here)(text) for text in texts()] == [here(text) for text in texts()]


@pytest.mark.parametrize("executable", ["", "/no/such/python"])
def test_processes_that_cannot_be_started_are_done_without(executable, monkeypatch):
    monkeypatch.setattr(sys, "executable", executable)
    assert compiled(texts()[:2], here, TARGET, 2) == [here(text) for text in texts()[:2]]


@pytest.fixture
def started(monkeypatch):
    """Sets how many processes a compilation starts, whatever the cores and the tests at work; lists those that were."""
    found, start = [], processes._start
    monkeypatch.setattr(processes, "_start", lambda target: found.append(start(target)) or found[-1])

    def use(count):
        found.clear()
        monkeypatch.setattr(module, "processes_for", lambda kernels: count)
        return found

    return use


def test_text_that_llvm_refuses_is_an_error_wherever_it_is_compiled(started):
    for count in (0, 1):
        found = started(count)
        with pytest.raises(CompileError, match="LLVM refused the code"):
            build_objects(KERNELS, TARGET, BROKEN)
        assert len(found) == count


def test_objects_are_the_same_with_processes_and_without(started):
    made = []
    for count in (0, 1):
        found = started(count)
        made.append(build_objects(KERNELS, TARGET))
        assert len(found) == count
    assert made[0] == made[1]


def test_there_are_as_many_processes_as_cores_and_work(monkeypatch):
    monkeypatch.setattr(processors, "usable", lambda: 4)
    assert [processes_for(n) for n in (0, 7, 8, 15, 16, 100)] == [0, 0, 1, 1, 2, 3]
    monkeypatch.setattr(processors, "usable", lambda: 1)
    assert processes_for(100) == 0


def test_messages_come_whole_or_not_at_all():
    stream = io.BytesIO()
    for message in (b"", b"abc", b"x" * 1000):
        llvm_process.send(stream, message)
    whole = stream.getvalue()
    receive = partial(llvm_process.receive, io.BytesIO(whole))
    assert [receive() for _ in range(4)] == [b"", b"abc", b"x" * 1000, None]
    cut = io.BytesIO(whole[:-1])
    assert [llvm_process.receive(cut) for _ in range(3)] == [b"", b"abc", None]
    too_long = io.BytesIO((llvm_process.LONGEST + 1).to_bytes(8, "little") + b"abc")
    assert llvm_process.receive(too_long) is None
