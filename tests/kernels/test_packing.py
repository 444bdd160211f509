"""Constants as one block of bytes: shared if equal, the same in memory and in a file, whatever the order of filling."""

from __future__ import annotations

import numpy as np
import pytest

import glulam as gl
from glulam.compiler.graph.types import DType
from glulam.compiler.kernels import packing
from glulam.compiler.kernels.minimal_filtering import filtering
from glulam.compiler.kernels.packing import Packing, WeightBlock
from glulam.runtime import memory
from glulam.runtime.memory import FileMap, Spool, let_go

RNG = np.random.default_rng(3)


def owner(array):
    while isinstance(array, np.ndarray):
        array = array.base
    return array.obj if isinstance(array, memoryview) else array


def filters(outputs, out_channels, in_channels, blocks, lanes):
    f = filtering((outputs, outputs), (3, 3))
    weights = RNG.standard_normal((out_channels, in_channels, 3, 3), np.float32)
    groups = -(-out_channels // (blocks * lanes))
    shape = (groups, f.points, in_channels, blocks, lanes)
    return Packing(weights, shape, DType.F32, f.transform_filters, blocks * lanes)


def constants():
    return [
        filters(4, 70, 65, 2, 16),
        filters(2, 17, 3, 1, 8),
        RNG.standard_normal((5, 7, 3), np.float32).transpose(2, 0, 1),
        np.zeros((0, 4), np.float32),
        np.arange(11, dtype=np.int64),
        np.array([True, False, True]),
    ]


def packed(parts):
    block = WeightBlock()
    return [block.add(part) for part in parts], block.packed()


@pytest.mark.parametrize("piece", [1, 300_000, 1 << 30])
def test_pieces_join_to_the_whole(piece, monkeypatch):
    monkeypatch.setattr(packing, "_PIECE", piece)
    for part in constants():
        whole = part if isinstance(part, Packing) else Packing.copy(part)
        parts = [each.copy() for each in whole.pieces()]
        joined = np.concatenate(parts) if parts else np.empty(whole.shape, whole.dtype.numpy)
        np.testing.assert_array_equal(joined, whole.array())
        assert len(parts) > 1 or piece > 1 or whole.shape[0] < 2


def test_a_block_is_the_same_in_a_file_as_in_memory(monkeypatch):
    parts = constants()
    offsets, block = packed(parts)
    monkeypatch.setattr(packing, "_SMALL", -(1 << 40))
    monkeypatch.setattr(packing, "_PIECE", 100_000)
    same_offsets, spooled = packed(parts)
    assert (offsets, block.tobytes()) == (same_offsets, spooled.tobytes())
    assert isinstance(owner(spooled), FileMap)
    assert not isinstance(owner(block), FileMap)
    for offset, part in zip(offsets, parts, strict=True):
        array = part.array() if isinstance(part, Packing) else part
        assert block[offset : offset + array.nbytes].tobytes() == array.tobytes()


@pytest.mark.parametrize("missing", ["room", "folder"])
def test_without_room_for_a_file_the_block_is_in_memory(missing, monkeypatch, tmp_path):
    parts = constants()
    _, block = packed(parts)
    monkeypatch.setattr(packing, "_SMALL", -(1 << 40))
    if missing == "room":

        def full(*_):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(memory.os, "posix_fallocate", full, raising=False)
    else:
        monkeypatch.setattr(memory.tempfile, "tempdir", str(tmp_path / "nowhere"))
    _, kept = packed(parts)
    assert not isinstance(owner(kept), FileMap)
    assert kept.tobytes() == block.tobytes()


def test_equal_constants_are_stored_once():
    same = np.arange(100, dtype=np.float32)
    (a, b, c), block = packed([same, same.copy(), -same])
    assert a == b != c
    assert block.nbytes == 2 * 448


def test_a_model_from_a_file_runs_and_is_saved(monkeypatch, tmp_path):
    """Convolutions that Winograd takes outgrow their weights; the pages that are written are let go of."""
    layers = gl.layers
    net = gl.Sequential([layers.Input((16, 32, 32)), layers.Conv2d(64, 3, padding=1), layers.Conv2d(64, 3, padding=1)])
    x = RNG.standard_normal((1, 16, 32, 32), np.float32)
    expected = gl.compile(net)(x)
    monkeypatch.setattr(packing, "_SMALL", 0)
    model = gl.compile(net)
    assert isinstance(owner(model._artifact.weights), FileMap)
    np.testing.assert_array_equal(model(x), expected)
    model.save(tmp_path / "net.glulam")
    np.testing.assert_array_equal(gl.load(tmp_path / "net.glulam")(x), expected)
    np.testing.assert_array_equal(model(x), expected)


def test_what_is_let_go_of_is_there_again():
    spool = Spool(100_000)
    data = RNG.integers(0, 256, 100_000).astype(np.uint8)
    spool.write(50_000, data[50_000:])
    spool.write(0, data[:50_000])
    mapped = spool.mapped()
    for array in (mapped, mapped[4096:], data):
        before = array.tobytes()
        let_go(array)
        assert array.tobytes() == before
