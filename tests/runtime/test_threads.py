"""Runs on several threads: always the right bits, never a hang, no core burnt afterwards."""

import faulthandler
import gc
import os
import random
import subprocess
import sys
import textwrap
import threading
import time
import weakref

import numpy as np
import pytest
import runtime_programs as programs

from glulam.runtime import processors
from glulam.runtime.errors import GlulamError

SIZE = 96


@pytest.fixture(autouse=True)
def _as_many_threads_as_asked(monkeypatch):
    monkeypatch.setattr(processors, "usable", lambda: 64)
    faulthandler.dump_traceback_later(120, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()


def random_steps(rng, count):
    steps = []
    for _ in range(count):
        extent = rng.choice([0, 1, 2, 3, rng.randint(1, SIZE), SIZE])
        steps.append((extent, rng.choice([1, 1, 2, 3, 7, SIZE])))
    return steps


def expected(steps, x):
    buffers = [x * 3 + 1, np.zeros_like(x)]
    for number, (extent, _) in enumerate(steps):
        buffers[(number + 1) % 2][:extent] = buffers[number % 2][:extent] * 3 + 1
    return buffers[len(steps) % 2] * 3 + 1


def full_steps(rng, count, size=SIZE):
    return [(size, rng.choice([1, 2, 5, 16, size])) for _ in range(count)]


@pytest.mark.parametrize("threads", [1, 2, 3, 4, 11])
@pytest.mark.parametrize(("seed", "parts"), [(0, 1), (1, 1), (2, 1), (3, 2), (4, 3), (5, 2)])
def test_right_bits_in_every_run_of_random_chunks_and_pauses(threads, seed, parts):
    rng = random.Random(seed)
    steps = full_steps(rng, rng.choice([1, 5, 30]), SIZE // parts)
    right = [(SIZE, grain) for _, grain in steps]
    with programs.chain(steps, SIZE, threads, parts=parts) as model:
        for number in range(400):
            x = np.full(SIZE, number, np.int32) + np.arange(SIZE, dtype=np.int32)
            assert np.array_equal(model(x), expected(right, x)), number
            if rng.random() < 0.05:
                time.sleep(rng.random() * 0.002)


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_steps_without_iterations_or_with_few(threads):
    rng = random.Random(7)
    steps = random_steps(rng, 25)
    with programs.chain(steps, SIZE, threads) as model:
        reference = programs.chain(steps, SIZE, 1)
        for number in range(300):
            x = np.full(SIZE, number, np.int32)
            # partly written buffers keep what earlier runs left, so the runs must be compared one by one
            assert np.array_equal(model(x), reference(x)), number


@pytest.mark.parametrize("threads", [2, 3])
def test_thousands_of_runs_back_to_back(threads):
    steps = [(SIZE, 1), (SIZE, SIZE), (SIZE, 5), (SIZE, SIZE), (SIZE, SIZE), (SIZE, 3)]
    with programs.chain(steps, SIZE, threads) as model:
        x = np.arange(SIZE, dtype=np.int32)
        inputs, right, y = {"x": x}, expected(steps, x), np.empty(SIZE, np.int32)
        for _ in range(5000):
            y.fill(0)
            model.run(inputs, out={"y": y})
            assert np.array_equal(y, right)


@pytest.mark.parametrize(
    ("threads", "mask", "labels"),
    [
        (2, 7, programs.DELAYED),
        (3, 31, programs.DELAYED),
        (4, 63, programs.DELAYED),
        (9, 31, programs.DELAYED),
        (2, 0, ("join",)),
        (4, 1, ("join",)),
    ],
)
@pytest.mark.parametrize("parts", [1, 2])
def test_threads_that_fall_asleep_wherever_their_order_could_matter(threads, mask, labels, parts):
    rng = random.Random(threads)
    steps = [(SIZE // parts, grain) for grain in (SIZE, 20, 9, SIZE, 1, 30)]
    with programs.chain(steps, SIZE, threads, programs.with_delays(mask, labels), parts) as model:
        inputs = [{"x": np.full(SIZE, number, np.int32)} for number in range(2)]
        right = [expected([(SIZE, 1)] * len(steps), x["x"]) for x in inputs]
        stop = time.monotonic() + 1
        number = 0
        while time.monotonic() < stop:
            assert np.array_equal(model.run(inputs[number % 2])["y"], right[number % 2]), number
            number += 1
            if rng.random() < 0.05:
                time.sleep(rng.random() * 0.001)
    assert number > 20


@pytest.mark.parametrize("parts", [1, 2, 3])
def test_the_caller_does_all_where_no_other_thread_starts(parts, monkeypatch):
    def refuse(self):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    steps = [(SIZE // parts, grain) for grain in (1, SIZE, 2, 1)]
    x = np.arange(SIZE, dtype=np.int32)
    with programs.chain(steps, SIZE, 3, parts=parts) as model:
        for _ in range(3):
            assert np.array_equal(model(x), expected([(SIZE, 1)] * len(steps), x))


def test_workers_take_part_each_with_scratch_of_its_own():
    with programs.who(64, 3) as model:
        scratch = {int(address) for _ in range(50) for address in model.run({})["y"]}
        assert 1 < len(scratch) <= 3
        assert all((address - min(scratch)) % 128 == 0 and address % 64 == 0 for address in scratch)


def test_a_step_starts_while_one_that_it_does_not_need_is_going_on():
    with programs.branches(2) as model:
        np.testing.assert_array_equal(model(np.array([5], np.int32)), [16 * 3 + 1, 7 * 3 + 1])


@pytest.mark.parametrize("threads", [2, 3, 5])
@pytest.mark.parametrize("mask", [None, 15])
@pytest.mark.parametrize("seed", range(4))
def test_right_bits_in_every_run_of_steps_that_wait_only_for_what_they_need(threads, mask, seed):
    rng, buffers = random.Random(seed), 5
    moves = [(*rng.sample(range(buffers), 2), rng.choice([1, 2, 5, 16, SIZE])) for _ in range(30)]
    change = str if mask is None else programs.with_delays(mask)
    with programs.web(moves, buffers, SIZE, threads, change) as model:
        for number in range(400 if mask is None else 60):
            x = np.full(SIZE, number, np.int32) + np.arange(SIZE, dtype=np.int32)
            values = [x * 3 + 1] * buffers
            for source, target, _ in moves:
                values[target] = values[source] * 3 + 1
            assert np.array_equal(model(x), values[0] * 3 + 1), number


@pytest.mark.parametrize("threads", [1, 2])
def test_two_callers_of_one_model(threads):
    steps = full_steps(random.Random(3), 8)
    wrong = []

    def call(offset):
        for number in range(500):
            x = np.full(SIZE, offset + number, np.int32)
            if not np.array_equal(model(x), expected(steps, x)):
                wrong.append(number)

    with programs.chain(steps, SIZE, threads) as model:
        callers = [threading.Thread(target=call, args=(1000 * i,)) for i in range(3)]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
    assert wrong == []


def test_progress_on_cores_that_are_busy_with_others():
    steps = full_steps(random.Random(4), 10)
    hogs = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(3)]
    try:
        with programs.chain(steps, SIZE, 4) as model:
            began = time.monotonic()
            for number in range(100):
                x = np.full(SIZE, number, np.int32)
                assert np.array_equal(model(x), expected(steps, x))
            assert time.monotonic() - began < 30
    finally:
        for hog in hogs:
            hog.kill()
            hog.wait()


def test_the_thread_count_does_not_change_a_bit():
    x = np.random.default_rng(0).standard_normal(5000).astype(np.float32)
    results = [programs.adder(5000, 3, threads)(x) for threads in (1, 2, 3, 4)]
    assert all(np.array_equal(results[0], other) for other in results)


def test_an_idle_pool_sleeps():
    with programs.adder(threads=3) as model:
        for _ in range(50):
            model(np.zeros(1000, np.float32))
        before = time.process_time()
        time.sleep(1)
        assert time.process_time() - before <= 0.005


def test_workers_are_pinned_inside_the_allowed_set_and_the_caller_is_not():
    before = os.sched_getaffinity(0)
    with programs.adder(threads=3) as model:
        model(np.zeros(1000, np.float32))
        time.sleep(0.05)
        workers = [thread for thread in threading.enumerate() if thread.name.startswith("glulam-worker")]
        masks = [os.sched_getaffinity(thread.native_id) for thread in workers]
        assert len(masks) == 2
        assert all(len(mask) == 1 and mask <= before for mask in masks)
        assert os.sched_getaffinity(0) == before


def worker_count():
    return sum(thread.name.startswith("glulam-worker") for thread in threading.enumerate())


def test_close_stops_the_workers_and_ends_the_model():
    model = programs.adder(threads=3)
    model(np.zeros(1000, np.float32))
    assert worker_count() == 2
    model.close()
    model.close()
    assert worker_count() == 0
    assert "closed" in repr(model)
    with pytest.raises(GlulamError, match="closed"):
        model(np.zeros(1000, np.float32))


def test_a_dropped_model_stops_its_workers():
    model = programs.adder(threads=2)
    model(np.zeros(1000, np.float32))
    alive = weakref.ref(model)
    del model
    gc.collect()
    assert alive() is None
    assert worker_count() == 0


def run_script(text):
    return subprocess.run(
        [sys.executable, "-X", "faulthandler", "-W", "error", "-c", textwrap.dedent(text)],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=programs.FOLDER,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([*sys.path, str(programs.FOLDER)])},
        check=False,
    )


PRELUDE = """
    import os, sys, threading, time
    import numpy as np
    from glulam.runtime import processors
    processors.usable = lambda: 4
    import runtime_programs as programs
    x = np.ones(1000, np.float32)
    right = x + np.arange(1000, dtype=np.float32)
"""


@pytest.mark.parametrize("call", ["run", "profile"])
def test_an_exception_between_any_two_calls_of_a_run_leaves_the_model_to_others(call):
    """Handlers of signals raise where a function is entered or left; each such place has its turn."""
    x, right = np.zeros(1000, np.float32), np.arange(1000, dtype=np.float32)
    with programs.adder(threads=2) as model:
        model(x)
        work = {"run": lambda: model.run({"x": x}), "profile": lambda: model.profile({"x": x}, 1)}[call]
        for place in range(10_000):
            if not interrupted(work, place):
                break
            seen = []
            other = threading.Thread(target=lambda seen=seen: seen.append(model(x)), daemon=True)
            other.start()
            other.join(10)
            assert seen, place
            assert np.array_equal(seen[0], right)
    assert place > 10
    assert worker_count() == 0


class Interruption(Exception):
    """What a handler of signals raises."""


def interrupted(work, place):
    """Whether there are more such places than `place` in the work, which ends there."""
    passed = 0

    def raise_there(frame, event, arg):
        nonlocal passed
        if event != "c_call" and frame.f_globals["__name__"].startswith(
            ("glulam.runtime.model", "glulam.runtime.context")
        ):
            passed += 1
            if passed > place:
                raise Interruption

    sys.setprofile(raise_there)
    try:
        work()
    except Interruption:
        return True
    finally:
        sys.setprofile(None)
    return False


def test_interpreter_exit_with_a_live_pool():
    done = run_script(PRELUDE + "    model = programs.adder(threads=4)\n    assert (model(x) == right).all()")
    assert (done.returncode, done.stderr) == (0, "")


def test_interpreter_exit_while_a_daemon_thread_runs_the_model():
    script = """
    model = programs.adder(100000, 100, threads=3)
    big = np.ones(100000, np.float32)
    def forever():
        while True:
            model(big)
    threading.Thread(target=forever, daemon=True).start()
    time.sleep(0.3)
    """
    done = run_script(PRELUDE + script)
    assert done.returncode == 0, done.stderr


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("threads", [1, 3])
def test_a_forked_child_has_a_pool_of_its_own(threads):
    script = f"""
    model = programs.adder(threads={threads})
    assert (model(x) == right).all()
    stop = False
    def keep_busy():
        while not stop:
            model(x)
    busy = threading.Thread(target=keep_busy)
    busy.start()
    import warnings; warnings.simplefilter("ignore")
    for _ in range(20):
        time.sleep(0.005)
        child = os.fork()
        if child == 0:
            ok = all((model(x) == right).all() for _ in range(50))
            os._exit(0 if ok else 1)
        assert os.waitpid(child, 0)[1] == 0
    child = os.fork()
    if child == 0:
        stop = True
        assert (model(x) == right).all()
        sys.exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    stop = True
    busy.join()
    assert (model(x) == right).all()
    """
    done = run_script(PRELUDE + script)
    assert done.returncode == 0, done.stderr
