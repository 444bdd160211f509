"""Models: arrays in and out, their checks, profiles."""

import copy
import pickle
import warnings

import numpy as np
import pytest
import runtime_programs as programs

from glulam.compiler.codegen.steps import EntryStep
from glulam.runtime import arrays
from glulam.runtime.errors import CopyError, GlulamError, InputError, OutOfMemoryError
from glulam.runtime.manifest import TensorSpec
from glulam.runtime.model import load

RAMP = np.arange(1000, dtype=np.float32)


@pytest.fixture(scope="module")
def model():
    with programs.adder() as model:
        yield model


def misaligned(x):
    view = np.frombuffer(bytearray(x.nbytes + 1), x.dtype, x.size, 1)
    view[:] = x
    assert not view.flags.aligned
    return view


VALUES = np.random.default_rng(0).integers(-100, 100, 1000).astype(np.float32)


def readonly(x):
    x = x.copy()
    x.flags.writeable = False
    return x


@pytest.mark.parametrize(
    "given",
    [
        VALUES,
        np.repeat(VALUES, 2)[::2],
        VALUES[::-1].copy()[::-1],
        VALUES.astype(">f4"),
        VALUES.astype(np.float64),
        VALUES.astype(">f8"),
        VALUES.astype(np.float16),
        VALUES.astype(np.int64),
        VALUES.astype(np.int8),
        readonly(VALUES),
        VALUES.tolist(),
        misaligned(VALUES),
        np.frombuffer(VALUES.tobytes(), np.float32),
        VALUES.view(type("Sub", (np.ndarray,), {})),
        np.stack([VALUES, VALUES], axis=1)[:, 1],
        np.broadcast_to(np.float32(3), (1000,)),
    ],
    ids=lambda given: f"{type(given).__name__}-{getattr(given, 'dtype', '')}",
)
def test_every_kind_of_array_is_read_right_and_left_alone(model, given):
    before = np.array(given, copy=True)
    result = model(given)
    assert result.dtype == np.float32
    assert np.array_equal(result, np.asarray(before, np.float32) + RAMP)
    assert np.array_equal(np.asarray(given), before)


def test_fortran_order():
    spec = (TensorSpec("x", "float32", (10, 100)),), (TensorSpec("y", "float32", (10, 100)),)
    step = EntryStep("add", (("input", 0, 0), ("weights", 0, 0), ("output", 0, 0)), 1000, 10)
    with programs.build(programs.ADD_KERNEL, [step], *spec, scratch_bytes=8, weights=RAMP.tobytes()) as model:
        x = VALUES.reshape(10, 100)
        assert np.array_equal(model(np.asfortranarray(x)), x + RAMP.reshape(10, 100))
        assert np.array_equal(model(x.T.copy().T), x + RAMP.reshape(10, 100))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (np.zeros(999, np.float32), r"expected shape \(1000,\), got \(999,\)"),
        (np.zeros((1, 1000), np.float32), r"got \(1, 1000\)"),
        (np.float32(1), r"got \(\)"),
        (np.zeros(1000, np.complex64), "got complex64"),
        (np.zeros(1000, object), "got object"),
        (np.array(["a"] * 1000), "got <U1"),
        (np.zeros(1000, "M8[s]"), "datetime64"),
        (np.zeros(1000, [("a", "f4")]), "expected dtype float32"),
        (np.ma.masked_equal(np.zeros(1000, np.float32), 0), "masked"),
        ([[1], [1, 2]], "'x'"),
        (None, "'x'"),
        ("text", "'x'"),
    ],
)
def test_what_cannot_be_read_right_is_refused(model, given, message):
    with pytest.raises(InputError, match=message):
        model(given)


@pytest.mark.parametrize("inputs", [{}, {"z": VALUES}, {"x": VALUES, "z": VALUES}, None, VALUES, [VALUES]])
def test_wrong_names_are_refused(model, inputs):
    with pytest.raises(InputError, match="'x'"):
        model.run(inputs)


def test_integers_convert_only_within_range():
    with programs.chain([], 4) as model:
        assert model(np.array([0, 1, -1, 2], np.int64)).tolist() == [4, 13, -5, 22]
        assert model([True, False, True, True]).tolist() == [13, 4, 13, 13]
        with pytest.raises(InputError, match="beyond its range"):
            model(np.array([0, 1, 2, 1 << 31]))
        with pytest.raises(InputError, match="got float64"):
            model(np.array([0.0, 1.0, 2.0, 3.0]))


def test_conversion_never_warns(model):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isinf(model(np.full(1000, 1e300))).all()
        assert np.isnan(model(np.full(1000, np.nan))).all()
        model(VALUES)


def test_a_float32_array_is_used_in_place_at_any_element_address(model):
    memory = np.zeros(1003, np.float32)
    for shift in range(3):
        view = memory[shift : shift + 1000]
        view[:] = VALUES
        assert np.array_equal(model(view), VALUES + RAMP)


def test_kept_outputs_do_not_change(model):
    first = model(VALUES)
    copy = first.copy()
    model(VALUES * 2)
    assert np.array_equal(first, copy)


def test_out_is_written_in_place(model):
    y = np.empty(1000, np.float32)
    results = model.run({"x": VALUES}, out={"y": y})
    assert results["y"] is y
    assert np.array_equal(y, VALUES + RAMP)


class Sub(np.ndarray):
    """An array with something more."""


@pytest.mark.parametrize("kind", [np.memmap, Sub], ids=lambda kind: kind.__name__)
def test_memory_of_arrays_with_something_more_is_used_in_place(model, kind, tmp_path, monkeypatch):
    def memory(name):
        if kind is np.memmap:
            return np.memmap(tmp_path / name, np.float32, "w+", shape=(1000,))
        return np.empty(1000, np.float32).view(kind)

    def refuse(array, argument):
        raise AssertionError("it was copied")

    monkeypatch.setattr(arrays, "_converted", refuse)
    x, y = memory("x"), memory("y")
    x[:] = VALUES
    results = model.run({"x": x}, out={"y": y})
    assert results["y"] is y
    assert np.array_equal(np.asarray(y), VALUES + RAMP)
    with pytest.raises(InputError, match="shares memory with an input"):
        model.run({"x": x}, out={"y": x})


@pytest.mark.parametrize(
    ("bad", "named"),
    [
        (np.ma.masked_equal(VALUES, 0), r"got MaskedArray float32\[1000\]"),
        (readonly(VALUES).view(Sub), r"got Sub float32\[1000\] \(read-only\)"),
        (memoryview(VALUES), "got memoryview"),
    ],
)
def test_a_refusal_says_the_type(model, bad, named):
    with pytest.raises(InputError, match=named):
        model.run({"x": VALUES}, out={"y": bad})


def test_what_cannot_become_an_array_is_an_input_error(model):
    class Tensor:
        def __array__(self, *arguments, **options):
            raise RuntimeError("Can't call numpy() on Tensor that requires grad")

    with pytest.raises(InputError, match=r"'x'.*Tensor.*requires grad"):
        model(Tensor())


@pytest.mark.parametrize("threads", [1, 2])
def test_memory_that_the_system_does_not_give_is_named(threads):
    with programs.build("", [], (), (), arena_bytes=(1 << 47) - 1, threads=threads) as model:
        with pytest.raises(OutOfMemoryError, match="140,737,488,355,327 bytes"):
            model.run({})
        with pytest.raises(GlulamError, match="140,737,488,355,327 bytes"):
            model.run({})


def test_outputs_that_the_system_has_no_memory_for_are_named():
    spec = TensorSpec("y", "float32", ((1 << 45) - 1,))
    step = EntryStep("who", (("output", 0, 0),), 1, 1)
    with (
        programs.build(programs.WHO_KERNEL, [step], (), (spec,)) as model,
        pytest.raises(OutOfMemoryError, match="bytes"),
    ):
        model.run({})


@pytest.mark.parametrize(
    "bad",
    [
        np.empty(1000, np.float64),
        np.empty(999, np.float32),
        np.empty(2000, np.float32)[::2],
        readonly(VALUES),
        [0.0] * 1000,
        np.empty(1000, ">f4"),
        misaligned(VALUES),
    ],
)
def test_an_unfit_out_is_refused(model, bad):
    with pytest.raises(InputError, match="output 'y'"):
        model.run({"x": VALUES}, out={"y": bad})


def test_out_names_and_overlaps_are_refused(model):
    x = np.zeros(1500, np.float32)
    with pytest.raises(InputError, match="'y'"):
        model.run({"x": VALUES}, out={})
    with pytest.raises(InputError, match="shares memory with an input"):
        model.run({"x": x[:1000]}, out={"y": x[:1000]})
    with pytest.raises(InputError, match="shares memory with an input"):
        model.run({"x": x[:1000]}, out={"y": x[500:]})


def two_by_two():
    """Two inputs, two outputs: sums and the same again, by offsets into arena and weights."""
    specs = [TensorSpec(name, "float32", (6,)) for name in ("a", "b", "y", "z")]
    steps = [
        EntryStep("add", (("input", 0, 0), ("input", 1, 0), ("arena", 0, 64)), 6, 1),
        EntryStep("add", (("arena", 0, 64), ("weights", 0, 8), ("output", 0, 0)), 6, 2),
        EntryStep("add", (("arena", 0, 64), ("arena", 0, 64), ("output", 1, 0)), 6, 4),
    ]
    weights = np.arange(8, dtype=np.float32).tobytes()
    return programs.build(
        programs.ADD_KERNEL,
        steps,
        tuple(specs[:2]),
        tuple(specs[2:]),
        arena_bytes=128,
        scratch_bytes=8,
        weights=weights,
    )


def test_several_inputs_and_outputs_with_offsets():
    a, b = np.arange(6, dtype=np.float32), np.full(6, 10, np.float32)
    with two_by_two() as model:
        result = model.run({"b": b, "a": a})
        assert result["y"].tolist() == (a + b + np.arange(2, 8)).tolist()
        assert result["z"].tolist() == (2 * (a + b)).tolist()
        same = np.empty(6, np.float32)
        with pytest.raises(InputError, match="shares memory with output 'y'"):
            model.run({"a": a, "b": b}, out={"y": same, "z": same})
        with pytest.raises(InputError, match="2 inputs and 2 outputs"):
            model(a)
        assert model.run({"a": a, "b": a})["z"].tolist() == (4 * a).tolist()


@pytest.mark.parametrize("take", [copy.copy, copy.deepcopy, pickle.dumps])
def test_copies_are_made_by_a_file(model, take):
    with pytest.raises(CopyError, match=r"save\(path\) it, and glulam\.load"):
        take(model)


@pytest.mark.parametrize("given", [b"\0glulam", None, 3])
def test_a_model_is_loaded_from_a_path(given):
    with pytest.raises(InputError, match=f"load takes the path of a model file, not {type(given).__name__}"):
        load(given)


@pytest.mark.parametrize("given", [b"m.glulam", None, 3])
def test_a_model_is_saved_to_a_path(model, given):
    with pytest.raises(InputError, match=f"save takes the path of the file to write, not {type(given).__name__}"):
        model.save(given)


def test_repr_and_specs():
    with two_by_two() as model:
        text = repr(model)
        assert "a: float32[6], b: float32[6]" in text
        assert "3 steps" in text
        assert model.inputs["b"].shape == (6,)
        assert model.arena_bytes == 128
        assert model.weights_bytes == 32
        assert model.threads == 1


@pytest.mark.parametrize("threads", [1, 2])
def test_profile_names_every_step_and_adds_up(threads):
    with programs.chain([(50_000, 500)] * 4, 50_000, threads) as model:
        x = np.zeros(50_000, np.int32)
        profile = model.profile({"x": x}, repeat=5)
        assert [step.label for step in profile.steps] == [f"layer {i}" for i in range(6)]
        assert all(0 < step.seconds < 0.1 for step in profile.steps)
        assert 0.3 < sum(step.seconds for step in profile.steps) / profile.seconds < 3
        assert profile.steps[1].gflops == pytest.approx(100_000 / profile.steps[1].seconds / 1e9)
        assert "layer 3 (tick)" in str(profile)
        for repeat in (0, True, 2.5):
            with pytest.raises(InputError, match=f"repeat={repeat}; a profile needs a whole number of runs"):
                model.profile({"x": x}, repeat=repeat)


@pytest.mark.parametrize("threads", [0, -1, 2.5, "2", None, True])
def test_threads_are_a_positive_number(threads):
    with pytest.raises(InputError, match=f"threads={threads!r}"):
        programs.adder(threads=threads)


@pytest.mark.parametrize("threads", [1, 2])
def test_the_model_may_run_between_the_runs_of_its_profile(threads):
    with programs.chain([(500, 50)] * 2, 500, threads) as model:
        x = np.zeros(500, np.int32)
        calls = []
        model.profile({"x": x}, repeat=3, before=lambda: calls.append(model.run({"x": x})))
        assert len(calls) == 3
