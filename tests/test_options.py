"""Options that cannot be what they are are refused by name; what means the same is taken."""

import numpy as np
import pytest

import glulam as gl
from glulam.compiler import errors
from glulam.runtime import errors as runtime_errors


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("threads", value) for value in (0, -1, 2.0, "2", None, True)),
        *(("numerics", value) for value in ("loose", None)),
        *(("stop_after", value) for value in (-1, "3", 1.5, True)),
        *(("disable", value) for value in ("fuse", 3, (1,), None)),
        *(("target", value) for value in (3, None)),
        *((name, value) for name in ("fuse", "tune", "cache") for value in (1, "no", None)),
    ],
)
def test_what_no_option_can_be(name, value):
    with pytest.raises(ValueError, match=f"{name}=") as told:
        gl.Options(**{name: value})
    assert isinstance(told.value, gl.errors.GlulamError)


def test_what_means_the_same():
    assert gl.Options(threads=np.int64(2), stop_after=np.int32(3), disable=["fuse"]) == gl.Options(
        threads=2, stop_after=3, disable=("fuse",)
    )
    for name in ("threads", "stop_after"):
        assert type(getattr(gl.Options(**{name: np.int64(2)}), name)) is int
    assert gl.Options(disable=(name for name in ("fuse", "trim_taps"))).disable == ("fuse", "trim_taps")


def test_all_errors_are_public():
    assert set(vars(errors)) >= {name for name in vars(runtime_errors) if name.endswith("Error")}
    assert all(
        getattr(errors, name) is vars(runtime_errors)[name] for name in errors.__all__ if name in vars(runtime_errors)
    )


def test_options_are_one_object_or_names():
    net = gl.Sequential([gl.layers.Input((3,)), gl.layers.ReLU()])
    for told, make in (
        (r"of type dict; give gl\.Options", lambda: gl.compile(net, {"threads": 2})),
        ("not both", lambda: gl.compile(net, gl.Options(), threads=2)),
        ("no option thread; there are target, threads", lambda: gl.compile(net, thread=2)),
    ):
        with pytest.raises(TypeError, match=told) as error:
            make()
        assert isinstance(error.value, gl.errors.GlulamError)


def test_a_wrong_number_of_threads_is_the_same_error_for_compile_and_load(tmp_path):
    net = gl.Sequential([gl.layers.Input((3,)), gl.layers.ReLU()])
    with gl.compile(net) as model:
        model.save(tmp_path / "m.glulam")
    for make in (lambda: gl.compile(net, threads=0), lambda: gl.load(tmp_path / "m.glulam", threads=0)):
        with pytest.raises(gl.errors.InputError, match="threads=0"):
            make()


def _relu():
    x = gl.layers.Input((3,), name="x")
    return x, gl.layers.ReLU()(x)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: gl.reference(_net(), None), "the inputs are a NoneType; give arrays by name"),
        (lambda: gl.reference(_net(), np.zeros(3)), "the inputs are a ndarray; give arrays by name"),
        (lambda: gl.reference(_net(), {"x": [[1], [1, 2]]}), "input 'x' is no array"),
        (lambda: gl.to_onnx(_net(), opset="17"), "opset is '17'; it is a number"),
        (lambda: gl.to_onnx(_net(), opset=17.0), "opset is 17.0; it is a number"),
        (lambda: gl.to_onnx(_net(), opset=None), "opset is None; it is a number"),
        (lambda: gl.from_onnx(3), "from_onnx takes a path"),
        (lambda: gl.from_onnx(gl.to_onnx(_net()), shapes=[1, 3]), r"shapes is \[1, 3\]; it must map names"),
        (lambda: gl.Graph.of([_relu()[0]], None), "the outputs are None; they must be"),
        (lambda: gl.Graph.of([_relu()[0]], {}), "needs an output"),
        (lambda: gl.Graph.of([_relu()[0]], [3]), r"the outputs are \[3\]; they must be"),
        (lambda: gl.Graph.of([_relu()[0]], {"y": None}), "the outputs are {'y': None}; they must be"),
        *(
            (lambda source=source: _net().load_state_dict(source), "a state dict is a mapping, or the path")
            for source in ([1, 2], None, 3, b"weights.npz")
        ),
    ],
)
def test_what_an_entry_cannot_take(make, told):
    with pytest.raises(gl.errors.GlulamError, match=told):
        make()


def _net():
    return gl.Sequential([gl.layers.Input((3,), name="x"), gl.layers.ReLU()])
