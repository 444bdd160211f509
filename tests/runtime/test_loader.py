"""Object code in memory: where it comes to lie, and what is said about code that is not whole."""

import subprocess
import sys

import numpy as np
import pytest

import glulam as gl
from glulam.runtime.archive import unpack
from glulam.runtime.artifact import open_artifact
from glulam.runtime.errors import ArtifactError
from glulam.runtime.loader import NativeCode

IN_A_FULL_PROCESS = """
import ctypes, sys
import numpy as np
import glulam as gl

SIZE, PAGE, NOTHING, PRIVATE, FIXED = 8 << 30, 4096, 0, 0x4022, 0x10
libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
x = np.load(sys.argv[2])
gl.load(sys.argv[1])(x)
base = libc.mmap(None, SIZE, NOTHING, PRIVATE, -1, 0)
step = 64 << 20
while step >= PAGE:  # fill what is free above, the large gaps first
    while (at := libc.mmap(None, step, NOTHING, PRIVATE, -1, 0)) > base:
        pass
    libc.munmap(at, step)
    step //= 2
for pages in range(1, 5):  # the one gap above holds the code of a kernel, and not its constants
    libc.munmap(base + SIZE // 2, pages * PAGE)
    np.testing.assert_array_equal(gl.load(sys.argv[1])(x), np.load(sys.argv[3]))
    libc.mmap(base + SIZE // 2, pages * PAGE, NOTHING, PRIVATE | FIXED, -1, 0)
"""


@pytest.fixture
def artifact(tmp_path):
    net = gl.Sequential([gl.layers.Input((5, 9, 7)), gl.layers.Conv2d(11, 3), gl.layers.GELU(), gl.layers.Softmax()])
    model = gl.compile(net)
    model.save(tmp_path / "net.glulam")
    x = np.random.default_rng(0).standard_normal((1, 5, 9, 7), dtype=np.float32)
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", model(x))
    return tmp_path / "net.glulam"


@pytest.mark.skipif(sys.platform != "linux", reason="fills the address space by calls of Linux")
def test_code_loads_where_its_constants_would_find_no_room_beside_it(artifact):
    files = [str(artifact), str(artifact.with_name("x.npy")), str(artifact.with_name("y.npy"))]
    done = subprocess.run([sys.executable, "-c", IN_A_FULL_PROCESS, *files], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_missing_functions_are_an_error(artifact, capfd):
    kernels = list(unpack(open_artifact(artifact).object_code).values())
    manifest = open_artifact(artifact).manifest
    for code in (kernels[0], kernels[-1]):  # a kernel without entry points, and these without kernels
        with pytest.raises(ArtifactError, match="compile the model again"):
            NativeCode(code, manifest.triple, manifest.cpu_features)
    assert not capfd.readouterr().err
