"""The cache on disk: it saves time where it works, and nothing goes wrong where it does not."""

import os
import subprocess
import sys
import time

import numpy as np
import pytest

import glulam as gl
from glulam.compiler import cache as caches
from glulam.compiler import driver, emission
from glulam.compiler.cache import Cache, default_cache, key_of

KEY = key_of("code", ["some", "text"])


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv(caches.VARIABLE, str(tmp_path / "entries"))
    return tmp_path / "entries"


@pytest.fixture
def builds(monkeypatch):
    """The kernels that LLVM makes code of, one after the other, and "entry" for entry points."""
    calls = []
    build = emission.build_objects

    def recorded(kernels, machine, entry):
        calls.extend([*(kernel.name for kernel in kernels), *(["entry"] if entry else [])])
        return build(kernels, machine, entry)

    monkeypatch.setattr(emission, "build_objects", recorded)
    return calls


def network():
    return gl.Sequential([gl.layers.Input((3, 8, 8)), gl.layers.Conv2d(4, 3), gl.layers.ReLU()])


def entries(folder):
    return sorted(folder.glob("*.entry"))


def deeper(channels=4):
    """The network with a second layer behind it."""
    more = [gl.layers.Conv2d(channels, 1), gl.layers.Sigmoid()]
    return gl.Sequential([gl.layers.Input((3, 8, 8)), gl.layers.Conv2d(4, 3), gl.layers.ReLU(), *more])


def test_the_same_code_is_generated_once(folder, builds):
    x = np.random.default_rng(0).normal(size=(1, 3, 8, 8)).astype(np.float32)
    first = gl.compile(network())
    made = list(builds)
    second = gl.compile(network())
    assert builds == made
    assert made[-1] == "entry"
    assert len(entries(folder)) == len(made)
    np.testing.assert_array_equal(first(x), second(x))
    assert first.manifest == second.manifest


def test_networks_share_kernels(folder, builds):
    """Another layer costs its own kernel and the entry points; a change to it likewise."""
    x = np.random.default_rng(0).normal(size=(1, 3, 8, 8)).astype(np.float32)
    expected = [gl.compile(net, cache=False)(x) for net in (network(), deeper(), deeper(5))]
    builds.clear()
    shared = set()
    for net, wanted in zip((network(), deeper(), deeper(5)), expected, strict=True):
        np.testing.assert_array_equal(gl.compile(net)(x), wanted)
        assert not shared & set(builds)
        shared |= {name for name in builds if name != "entry"}
        assert builds[-1] == "entry"
        builds.clear()
    assert len(shared) < 7  # without sharing there would be three for each network


def test_what_is_missing_is_made_anew(folder, builds):
    x = np.ones((1, 3, 8, 8), np.float32)
    expected = gl.compile(deeper())(x)
    made = len(builds)
    for path in entries(folder):
        path.unlink()
        builds.clear()
        np.testing.assert_array_equal(gl.compile(deeper())(x), expected)
        assert len(builds) == 1
    assert len(entries(folder)) == made


@pytest.mark.parametrize(
    "settings", [{"numerics": "strict", "fuse": False}, {"target": "x86-64-v2"}], ids=lambda s: next(iter(s))
)
def test_other_code_is_another_entry(folder, builds, settings):
    driver.build_artifact(network().graph(), gl.Options())
    driver.build_artifact(network().graph(), gl.Options(**settings))
    assert builds.count("entry") == 2
    assert len(set(builds)) == len(builds) - 1
    assert len(entries(folder)) == len(builds)


@pytest.mark.skipif(os.name != "posix", reason="there are no such permissions")
@pytest.mark.parametrize("mask", [0o000, 0o002, 0o077])
def test_entries_are_read_whatever_the_umask_was(tmp_path, mask):
    cache = Cache(tmp_path / "entries")
    before = os.umask(mask)
    try:
        cache.put(KEY, b"contents")
    finally:
        os.umask(before)
    assert cache.get(KEY) == b"contents"
    assert [path.stat().st_mode & 0o777 for path in entries(cache.folder)] == [0o600]


def test_a_folder_may_be_named_from_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.setenv(caches.VARIABLE, "~/mine")
    assert default_cache().folder == tmp_path / "mine"


def test_whoever_wants_none_gets_none(folder, builds, monkeypatch):
    gl.compile(network(), cache=False)
    gl.compile(network(), cache=False)
    monkeypatch.setenv(caches.VARIABLE, "off")
    gl.compile(network())
    assert builds.count("entry") == 3
    assert not folder.exists()


def damaged(data):
    middle = len(data) // 2
    yield b""
    yield data[:10]
    yield data[:-1]
    yield data + b"\0"
    yield data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
    yield b"X" + data[1:]


def test_damage_is_noticed_and_repaired(folder, builds):
    x = np.ones((1, 3, 8, 8), np.float32)
    expected = gl.compile(network())(x)
    for path in entries(folder):
        good = path.read_bytes()
        for bad in damaged(good):
            path.write_bytes(bad)
            builds.clear()
            np.testing.assert_array_equal(gl.compile(network())(x), expected)
            assert len(builds) == 1
            assert path.read_bytes() == good


def test_an_entry_under_another_key_is_not_believed(tmp_path):
    cache = Cache(tmp_path)
    cache.put(KEY, b"contents")
    (path,) = entries(tmp_path)
    path.rename(tmp_path / f"{key_of('code', ['other'])}.entry")
    assert cache.get(key_of("code", ["other"])) is None


def test_parts_of_a_key_do_not_run_together():
    assert len({key_of("code", parts) for parts in (["ab", "c"], ["a", "bc"], ["abc"], ["abc", ""])}) == 4
    assert key_of("code", ["a"]) != key_of("tune", ["a"])


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_what_others_may_write_is_not_believed(tmp_path):
    cache = Cache(tmp_path / "new")
    cache.put(KEY, b"contents")
    assert (tmp_path / "new").stat().st_mode & 0o077 == 0
    (path,) = entries(tmp_path / "new")
    path.chmod(0o666)
    assert cache.get(KEY) is None


def test_it_goes_on_where_nothing_can_be_written(tmp_path, monkeypatch, builds):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv(caches.VARIABLE, str(tmp_path / "file" / "below"))
    assert gl.compile(network())(np.zeros((1, 3, 8, 8), np.float32)).shape == (1, 4, 6, 6)
    assert builds.count("entry") == 1


def test_a_full_disk_leaves_nothing_behind(tmp_path, monkeypatch):
    cache = Cache(tmp_path)

    def full(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(caches.Path, "replace", full)
    cache.put(KEY, b"contents")
    assert list(tmp_path.iterdir()) == []
    assert cache.get(KEY) is None


def test_what_was_not_used_for_longest_goes_first(tmp_path):
    cache = Cache(tmp_path, limit=3500)
    for i in range(3):
        cache.put(f"code-{i}", bytes(1000))
        os.utime(tmp_path / f"code-{i}.entry", (1000 + i, 1000 + i))
    assert cache.get("code-0") is not None  # used now, so 1 is the oldest
    cache.put("code-3", bytes(1000))
    assert [cache.get(f"code-{i}") is not None for i in range(4)] == [True, False, True, True]
    cache.put("code-4", bytes(4000))  # larger than everything
    assert cache.get("code-4") is None


def test_temporary_files_of_the_dead_are_swept(tmp_path):
    old, new = tmp_path / "code-1.entry.1.aa.tmp", tmp_path / "code-1.entry.2.bb.tmp"
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (time.time() - 7200,) * 2)
    Cache(tmp_path).put(KEY, b"contents")
    assert not old.exists()
    assert new.exists()


WRITER = """
import sys
from pathlib import Path
from glulam.compiler.cache import Cache
cache = Cache(Path(sys.argv[1]), limit=40_000)
for round in range(150):
    for i in range(6):
        contents = bytes([i]) * 9000
        assert cache.get(f"code-{i}") in (None, contents)
        cache.put(f"code-{i}", contents)
"""


def test_several_processes_write_the_same_entries(tmp_path):
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)]) for _ in range(3)]
    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    assert all(path.suffix == ".entry" for path in tmp_path.iterdir())
    found = [Cache(tmp_path).get(f"code-{i}") for i in range(6)]
    assert any(found)
    assert all(contents in (None, bytes([i]) * 9000) for i, contents in enumerate(found))


def test_where_the_cache_is(monkeypatch, tmp_path):
    monkeypatch.delenv(caches.VARIABLE)
    monkeypatch.setattr(caches.sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache().folder == tmp_path / "glulam" / "compiled"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_cache().folder == tmp_path / ".cache" / "glulam" / "compiled"
    for none in ("", "off", " OFF "):
        monkeypatch.setenv(caches.VARIABLE, none)
        assert default_cache().folder is None
