"""External functions: C pointers and Python callables between fused kernels, on one thread and on two."""

from __future__ import annotations

import ctypes
import threading

import llvmlite.binding as llvm
import numpy as np
import pytest

import glulam as gl
from glulam.compiler import driver
from glulam.compiler.errors import GraphError, ShapeError, UnsupportedError
from glulam.compiler.graph.parser import parse
from glulam.compiler.graph.text import constants_of, to_text
from glulam.compiler.loops.program import interpret_program
from glulam.compiler.ops import OPS_BY_NAME
from glulam.runtime import context, processors
from glulam.runtime.errors import ArtifactError, ForeignError, GlulamError

L = gl.layers
COUNT = 8 * 12 * 12

# y[i] = x[i] / 2 for as many elements as `user` points to
HALVE = """
define void @halve(ptr %ins, ptr %outs, ptr %user) {
  %x = load ptr, ptr %ins
  %y = load ptr, ptr %outs
  %n = load i64, ptr %user
  br label %loop
loop:
  %i = phi i64 [ 0, %0 ], [ %j, %loop ]
  %p = getelementptr float, ptr %x, i64 %i
  %q = getelementptr float, ptr %y, i64 %i
  %v = load float, ptr %p
  %h = fmul float %v, 0.5
  store float %h, ptr %q
  %j = add i64 %i, 1
  %more = icmp slt i64 %j, %n
  br i1 %more, label %loop, label %end
end:
  ret void
}
"""


@pytest.fixture(scope="module")
def halve():
    """The address of a C function, and its user pointer."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    machine = llvm.Target.from_default_triple().create_target_machine()
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(HALVE), machine)
    engine.finalize_object()
    count = ctypes.c_int64(COUNT)
    yield engine.get_function_address("halve"), ctypes.addressof(count)
    del engine, count


def around(function, outputs=(1, 8, 12, 12), **more):
    """A convolution, the function, and another convolution."""
    x = L.Input((3, 12, 12), name="x")
    y = gl.external(function, L.ReLU()(L.Conv2d(8, 3, padding=1)(x)), outputs=outputs, **more)
    return gl.Graph.of([x], {"z": L.ReLU()(L.Conv2d(5, 3, padding=1)(y))})


@pytest.fixture
def feeds():
    return {"x": np.random.default_rng(0).uniform(-1, 1, (1, 3, 12, 12)).astype(np.float32)}


def agree(graph, feeds, threads):
    wanted = gl.reference(graph, feeds)
    with gl.compile(graph, threads=threads) as model:
        for _ in range(50):
            native = model.run(feeds)
            for name, array in wanted.items():
                np.testing.assert_allclose(native[name], array, rtol=1e-4, atol=1e-5)
        assert model.profile(feeds, 3).steps


@pytest.mark.parametrize("threads", [1, 2])
def test_c_function(halve, feeds, threads):
    address, user = halve
    graph = around(address, user=user, name="halve")
    agree(graph, feeds, threads)
    halves, whole = gl.reference(graph, feeds)["z"], gl.reference(around(lambda x: x * np.float32(0.5)), feeds)["z"]
    np.testing.assert_array_equal(halves, whole)


@pytest.mark.parametrize("threads", [1, 2])
def test_python_callable(feeds, threads):
    agree(around(lambda x: np.sort(x, axis=1)), feeds, threads)


def test_function_objects_with_an_address(halve, feeds):
    """numba's cfuncs have `address`; ctypes' functions are taken as they are."""
    address, user = halve

    class Cfunc:
        def __init__(self):
            self.address = address

    signature = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)
    wanted = gl.reference(around(address, user=user), feeds)["z"]
    for function in (Cfunc(), signature(address)):
        agree(around(function, user=user), feeds, 1)
        np.testing.assert_array_equal(gl.reference(around(function, user=user), feeds)["z"], wanted)


def test_several_inputs_and_outputs_of_several_types(feeds):
    def statistics(x, y):
        return np.float32([x.mean(), y.max()]), np.int64([x.size]), np.array(x.sum() > 0)

    x = L.Input((3, 12, 12), name="x")
    pair, size, positive = gl.external(statistics, x, x * 2, outputs=[(2,), ((1,), "int64"), ((), bool)])
    graph = gl.Graph.of([x], {"pair": L.ReLU()(pair), "size": size, "positive": positive})
    agree(graph, feeds, 2)


def test_the_interpreter_calls_it_too(feeds):
    graph = around(lambda x: -x)
    result = interpret_program(driver.lower(graph), feeds)["z"]
    np.testing.assert_allclose(result, gl.reference(graph, feeds)["z"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("threads", [1, 2])
def test_what_python_raises_is_raised_by_the_run(feeds, threads):
    calls = []

    def moody(x):
        calls.append(threading.get_ident())
        if len(calls) % 2:
            raise ValueError("not today")
        return x

    with gl.compile(around(moody), threads=threads) as model:
        for _ in range(3):
            with pytest.raises(ForeignError, match="'moody' raised ValueError: not today") as caught:
                model.run(feeds)
            assert isinstance(caught.value.__cause__, ValueError)
            model.run(feeds)


@pytest.mark.parametrize("result", [np.zeros((1, 8, 12, 12)), np.zeros((2,), np.float32), None, (1, 2)])
def test_a_wrong_result_is_named(feeds, result):
    with gl.compile(around(lambda x: result, name="odd")) as model, pytest.raises(ForeignError, match="'odd' gave"):
        model.run(feeds)


def test_an_interrupt_stays_one(feeds):
    def stop(x):
        raise KeyboardInterrupt

    with gl.compile(around(stop)) as model, pytest.raises(KeyboardInterrupt):
        model.run(feeds)


def test_inputs_are_read_only(feeds):
    def careless(x):
        x[0] = 0
        return x

    with gl.compile(around(careless)) as model, pytest.raises(ForeignError, match="read-only"):
        model.run(feeds)


@pytest.mark.parametrize("threads", [1, 2])
def test_inputs_may_be_kept(feeds, threads):
    kept = []

    def remember(x):
        kept.append(x)
        return x

    with gl.compile(around(remember), threads=threads) as model:
        model.run(feeds)
        first = kept[0].copy()
        model.run({"x": feeds["x"] * 2})
    np.testing.assert_array_equal(kept[0], first)
    assert not np.array_equal(kept[1], first)


def test_many_runs_at_a_time(feeds):
    """With one thread a model may be run from several Python threads; each run gets its own error."""
    seen = threading.Barrier(2, timeout=20)

    def meet(x):
        seen.wait()
        if x.flat[0] == 0:
            raise ValueError("zero")
        return x

    x = L.Input((4,), name="x")
    graph = gl.Graph.of([x], {"y": gl.external(meet, x, outputs=x.shape)})
    outcomes = {}

    def run(model, value):
        try:
            outcomes[value] = model.run({"x": np.full((1, 4), value, np.float32)})["y"].max()
        except ForeignError as error:
            outcomes[value] = str(error)

    with gl.compile(graph) as model:
        threads = [threading.Thread(target=run, args=(model, value)) for value in (0, 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert "zero" in outcomes[0]
    assert outcomes[1] == 1


class OnAWorker:
    """A model with a function that calls `act` once, when it is on a worker.

    Before it there is enough to do for the worker to wake up and take part, so that either thread may be there first.
    """

    def __init__(self, act, monkeypatch):
        monkeypatch.setattr(processors, "usable", lambda: 2)
        self.act, self.done = act, False
        x = L.Input((16, 64, 64), name="x")
        y = L.Conv2d(1, 1)(L.Conv2d(32, 3)(x))
        graph = gl.Graph.of([x], {"z": gl.external(self, y, outputs=y.shape)})
        self.feeds = {"x": np.random.default_rng(0).uniform(-1, 1, x.shape).astype(np.float32)}
        self.right = gl.reference(graph, self.feeds)["z"]
        self.model = gl.compile(graph, threads=2)

    def __call__(self, x):
        if not self.done and threading.current_thread().name.startswith("glulam-worker"):
            self.done = True
            self.act(self)
        return x + np.float32(1)

    def check(self):
        np.testing.assert_allclose(self.model.run(self.feeds)["z"], self.right, rtol=1e-3, atol=1e-4)

    def run(self):
        """Runs until it is done, in another thread, since it may hang. Who calls the function is a matter of chance."""

        def work():
            for _ in range(5000):
                self.check()
                if self.done:
                    break

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        thread.join(20)
        assert not thread.is_alive(), "the run hangs"
        assert self.done


def test_a_function_on_a_worker_may_run_its_own_model(monkeypatch):
    case = OnAWorker(lambda case: case.check(), monkeypatch)
    with case.model:
        case.run()
        case.check()


def test_a_function_on_a_worker_may_close_its_own_model(monkeypatch):
    case = OnAWorker(lambda case: case.model.close(), monkeypatch)
    before = set(threading.enumerate())
    case.run()
    assert set(threading.enumerate()) <= before
    with pytest.raises(GlulamError, match="closed"):
        case.check()


@pytest.mark.parametrize("act", ["run", "close"])
@pytest.mark.parametrize("threads", [1, 2])
def test_a_function_may_wait_for_a_thread_that_uses_its_own_model(act, threads, monkeypatch):
    monkeypatch.setattr(processors, "usable", lambda: 2)
    found, known = [], set()

    def use():
        if act == "close":
            model.close()
        else:
            found.append(model.run({"x": np.full((1, 4), 2, np.float32)})["y"][0])

    def ask(x):
        if x.flat[0] != 2 and act not in known:
            known.add(act)
            other = threading.Thread(target=use, daemon=True)
            other.start()
            other.join(20)
            assert not other.is_alive(), "it hangs"
        return x + 1

    x = L.Input((4,), name="x")
    model = gl.compile(gl.Graph.of([x], {"y": gl.external(ask, x, outputs=x.shape)}), threads=threads)
    for _ in range(2 if act == "run" else 1):
        found.append(model.run({"x": np.zeros((1, 4), np.float32)})["y"][0])
    assert [int(row[0]) for row in found] == ([3, 1, 1] if act == "run" else [1])
    model.close()


@pytest.mark.parametrize("threads", [1, 2])
def test_a_run_does_not_raise_what_went_wrong_in_one_that_was_interrupted(feeds, threads, monkeypatch):
    calls = []

    def moody(x):
        calls.append(x)
        if len(calls) == 1:
            raise ValueError("not today")
        return x

    def interrupt(failures):
        raise KeyboardInterrupt

    with gl.compile(around(moody), threads=threads) as model:
        with monkeypatch.context() as patch:
            patch.setattr(context, "raise_first", interrupt)
            with pytest.raises(KeyboardInterrupt):
                model.run(feeds)
        model.run(feeds)
    assert len(calls) == 2


def test_saving_is_refused_by_name(tmp_path, feeds):
    with gl.compile(around(lambda x: x, name="mine")) as model, pytest.raises(ArtifactError, match="'mine'"):
        model.save(tmp_path / "net.glulam")
    assert list(tmp_path.iterdir()) == []


def test_text_has_the_name_alone(feeds):
    graph = around(lambda x: x, name="mine")
    again = parse(to_text(graph), OPS_BY_NAME, constants_of(graph))
    with pytest.raises(UnsupportedError, match="'mine' is not here"):
        gl.compile(again)


def test_onnx_export_names_it(feeds):
    with pytest.raises(UnsupportedError, match="external"):
        gl.to_onnx(around(lambda x: x, name="mine"))


@pytest.mark.parametrize(("function", "outputs"), [(0, (1,)), (-5, (1,)), ("text", (1,)), (None, (1,))])
def test_no_function(function, outputs):
    with pytest.raises(GraphError):
        gl.external(function, L.Input((3,)), outputs=outputs)


@pytest.mark.parametrize("outputs", ["float32", 3, ((2.5,), "float32"), (1.5,)])
def test_no_type(outputs):
    with pytest.raises((ShapeError, GraphError, TypeError)):
        gl.external(np.sort, L.Input((3,)), outputs=outputs)
