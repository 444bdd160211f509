"""Options that cannot be what they are are refused by name; what means the same is taken."""

import numpy as np
import pytest

import glulam as gl


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("threads", value) for value in (0, -1, 2.0, "2", None, True)),
        *(("numerics", value) for value in ("loose", None)),
        *(("stop_after", value) for value in (-1, "3", 1.5, True)),
        *(("disable", value) for value in ("fuse", 3, (1,), None)),
    ],
)
def test_what_no_option_can_be(name, value):
    with pytest.raises(ValueError, match=f"{name}="):
        gl.Options(**{name: value})


def test_what_means_the_same():
    assert gl.Options(threads=np.int64(2), stop_after=np.int32(3), disable=["fuse"]) == gl.Options(
        threads=2, stop_after=3, disable=("fuse",)
    )
    assert type(gl.Options(threads=np.int64(2)).threads) is int


def test_options_are_one_object_or_names():
    net = gl.Sequential([gl.layers.Input((3,)), gl.layers.ReLU()])
    with pytest.raises(TypeError, match=r"gl\.Options"):
        gl.compile(net, {"threads": 2})
    with pytest.raises(TypeError, match="not both"):
        gl.compile(net, gl.Options(), threads=2)
