"""The model file: it comes back as it was, and no damage to it is ever more than a typed error."""

import dataclasses
import errno
import hashlib
import json
import os
import random
import resource
import signal
import stat
import struct
import subprocess
import sys
import threading

import numpy as np
import pytest
import runtime_programs as programs

from glulam.runtime.artifact import Check, open_artifact, write_artifact
from glulam.runtime.errors import ArtifactError, ArtifactVersionError, CpuMismatchError
from glulam.runtime.manifest import Manifest, StepInfo, TensorSpec
from glulam.runtime.memory import address_of
from glulam.runtime.model import Model, load

HEADER = struct.Struct("<8sIIQQ32s")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("artifact") / "m.glulam"
    with programs.adder() as model:
        model.save(path)
    return path


def rewritten(saved, target, change):
    """The file with its table changed and hashed again, as by somebody who knows the format."""
    data = saved.read_bytes()
    magic, version, zero, length, table_length, _ = HEADER.unpack(data[: HEADER.size])
    table = json.loads(data[HEADER.size : HEADER.size + table_length])
    change(table)
    text = json.dumps(table).encode()
    parts = data[-(-(HEADER.size + table_length) // 4096) * 4096 :]
    gap = b"\0" * (-(HEADER.size + len(text)) % 4096)
    length = HEADER.size + len(text) + len(gap) + len(parts)
    header = HEADER.pack(magic, version, zero, length, len(text), hashlib.sha256(text).digest())
    target.write_bytes(header + text + gap + parts)
    return target


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("verify", [True, False])
def test_a_loaded_model_is_the_saved_one(saved, threads, verify):
    x = np.random.default_rng(1).standard_normal(1000).astype(np.float32)
    with programs.adder() as model, load(saved, threads, verify) as loaded:
        assert np.array_equal(loaded(x), model(x))
        assert loaded.manifest == model.manifest
        assert loaded.graph_text == "graph of a test"
        assert loaded.inputs == model.inputs


def test_weights_are_mapped_at_a_page(saved):
    weights = open_artifact(saved).weights
    assert address_of(weights) % 4096 == 0
    assert not weights.flags.owndata
    assert not weights.flags.writeable


def test_a_loaded_model_can_be_saved_over_its_own_file(saved, tmp_path):
    path = tmp_path / "again.glulam"
    path.write_bytes(saved.read_bytes())
    with load(path) as model:
        model.save(path)
        assert model(np.zeros(1000, np.float32))[3] == 3
    assert path.read_bytes() == saved.read_bytes()


@pytest.mark.skipif(os.name != "posix", reason="folders are not synchronised")
def test_a_folder_that_cannot_be_synchronised_is_no_failure_to_save(saved, tmp_path, monkeypatch):
    synchronise = os.fsync

    def of_files_only(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "no such thing here")
        synchronise(descriptor)

    monkeypatch.setattr(os, "fsync", of_files_only)
    with programs.adder() as model:
        model.save(tmp_path / "c.glulam")
    assert (tmp_path / "c.glulam").read_bytes() == saved.read_bytes()


def test_saving_is_reproducible(saved, tmp_path):
    with programs.adder() as model:
        model.save(tmp_path / "b.glulam")
    assert (tmp_path / "b.glulam").read_bytes() == saved.read_bytes()


def test_every_truncation_is_refused(saved, tmp_path):
    data = saved.read_bytes()
    path = tmp_path / "short.glulam"
    lengths = {*range(200), *range(200, len(data), 97), len(data) - 1}
    for length in sorted(lengths):
        path.write_bytes(data[:length])
        with pytest.raises(ArtifactError):
            open_artifact(path)
    path.write_bytes(data + b"\0")
    with pytest.raises(ArtifactError):
        open_artifact(path)


def test_every_flipped_byte_is_refused(saved, tmp_path):
    """Each byte outside the weights, one after the other; and some in them."""
    data = bytearray(saved.read_bytes())
    path = tmp_path / "flipped.glulam"
    rng = random.Random(0)
    places = [*range(400), *rng.sample(range(400, len(data)), 400), len(data) - 1]
    for place in places:
        original = data[place]
        data[place] ^= 1 << rng.randrange(8)
        path.write_bytes(data)
        data[place] = original
        with pytest.raises(ArtifactError):
            open_artifact(path)


@pytest.mark.parametrize("content", [b"", b"\x7fELF" + bytes(1000), b"PK\x03\x04" + bytes(500), os.urandom(5000)])
def test_foreign_files_are_refused(tmp_path, content):
    path = tmp_path / "foreign"
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match="foreign"):
        load(path)


def test_another_format_version_is_refused_by_its_own_error(saved, tmp_path):
    data = bytearray(saved.read_bytes())
    data[8] = 99
    path = tmp_path / "new.glulam"
    path.write_bytes(data)
    with pytest.raises(ArtifactVersionError, match="99"):
        load(path)
    later = rewritten(saved, path, lambda table: table["manifest"].update(abi_version=7))
    with pytest.raises(ArtifactVersionError, match="abi_version 7"):
        load(later)
    assert load(rewritten(saved, path, lambda table: None)).graph_text == "graph of a test"


def test_altered_weights_pass_only_unverified(saved, tmp_path):
    data = bytearray(saved.read_bytes())
    data[-1] ^= 1
    path = tmp_path / "w.glulam"
    path.write_bytes(data)
    for check in (Check.SUMS, Check.HASH):
        with pytest.raises(ArtifactError, match="weights"):
            open_artifact(path, check)
    assert open_artifact(path, Check.NOTHING).weights[-1] == data[-1]


@pytest.fixture(scope="module")
def long_weights(tmp_path_factory):
    """A file whose weights are two whole pieces, some pages and some bytes: no two of their words are the same."""
    path = tmp_path_factory.mktemp("artifact") / "long.glulam"
    weights = np.arange((16 << 20) // 8 + 3 * 512 + 1, dtype=np.uint64).view(np.uint8)[:-3]
    with programs.adder() as model:
        model.save(path)
    write_artifact(path, dataclasses.replace(open_artifact(path), weights=weights))
    return path


def _exchange(weights, a, b, size):
    weights[a : a + size], weights[b : b + size] = weights[b : b + size].copy(), weights[a : a + size].copy()


@pytest.mark.parametrize(
    "damage",
    [
        lambda w: w.__setitem__(-1, w[-1] ^ 1),  # in the bytes behind the last row
        lambda w: w.__setitem__((8 << 20) + 7, 1),
        lambda w: _exchange(w, 4096, 5 * 4096, 4096),  # two pages
        lambda w: _exchange(w, 8, 16, 8),  # two words of a page
        lambda w: _exchange(w, 8, 8 + 4096, 8),  # two words of a column
        lambda w: _exchange(w, 0, 8 << 20, 8 << 20),  # two pieces
        lambda w: w.__setitem__(slice(4096, 8192), 0),  # a hole
    ],
)
def test_sums_notice_what_hashes_do(long_weights, tmp_path, damage):
    data = np.fromfile(long_weights, np.uint8)
    assert open_artifact(long_weights, Check.HASH).weights.size == (16 << 20) + 3 * 4096 + 5
    damage(data[-open_artifact(long_weights).weights.size :])
    path = tmp_path / "damaged.glulam"
    data.tofile(path)
    for check in (Check.SUMS, Check.HASH):
        with pytest.raises(ArtifactError, match="weights"):
            open_artifact(path, check)


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.pop("manifest"),
        lambda t: t["manifest"].pop("steps"),
        lambda t: t["manifest"].update(extra=1),
        lambda t: t["manifest"].update(arena_bytes=-1),
        lambda t: t["manifest"].update(arena_bytes=1 << 60),
        lambda t: t["manifest"].update(arena_bytes=1.5),
        lambda t: t["manifest"].update(triple=None),
        lambda t: t["manifest"].update(inputs={}),
        lambda t: t["manifest"]["inputs"][0].update(shape=[1 << 31, 1 << 31, 1 << 31]),
        lambda t: t["manifest"]["inputs"][0].update(shape=[-5]),
        lambda t: t["manifest"]["inputs"][0].update(shape=[0, 1 << 60]),
        lambda t: t["manifest"]["outputs"][0].update(shape=[1] * 65),
        lambda t: t["manifest"].update(arena_bytes=1 << 47),
        lambda t: t["manifest"].update(scratch_bytes=1 << 47),
        lambda t: t["manifest"]["inputs"][0].update(shape="12"),
        lambda t: t["manifest"]["inputs"][0].update(dtype="object"),
        lambda t: t["manifest"]["inputs"].append(t["manifest"]["inputs"][0]),
        lambda t: t["manifest"]["steps"][0].update(grain=0),
        lambda t: t["manifest"]["steps"].__setitem__(0, 5),
        lambda t: t["manifest"].update(options={"a": []}),
        lambda t: t["parts"].pop("code"),
        lambda t: t["parts"]["weights"].update(offset=1 << 70),
        lambda t: t["parts"]["weights"].update(offset=t["parts"]["weights"]["offset"] + 64),
        lambda t: t["parts"]["weights"].update(length=1 << 70),
        lambda t: t["parts"]["code"].update(offset=-64),
        lambda t: t["parts"]["code"].update(sha256=5),
        lambda t: t["parts"]["weights"].update(sums="00"),
        lambda t: t["parts"]["weights"].pop("sums"),
    ],
)
def test_a_hostile_table_with_right_hashes_is_refused(saved, tmp_path, change):
    with pytest.raises(ArtifactError):
        open_artifact(rewritten(saved, tmp_path / "hostile.glulam", change))


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.update(arena_bytes=64),
        lambda m: m.update(scratch_bytes=m["scratch_bytes"] - 64),
        lambda m: m["inputs"][0].update(shape=[999]),
        lambda m: m["outputs"][0].update(dtype="float16"),
        lambda m: m["outputs"].append({**m["outputs"][0], "name": "z"}),
        lambda m: m.update(inputs=[]),
        lambda m: m.update(steps=[]),
    ],
)
def test_a_manifest_of_other_sizes_than_the_code_has_is_refused(saved, tmp_path, change):
    path = rewritten(saved, tmp_path / "other.glulam", lambda table: change(table["manifest"]))
    open_artifact(path)
    with pytest.raises(ArtifactError, match="the manifest is not that of the code"):
        load(path)


def test_fewer_weights_than_the_code_reads_are_refused(saved):
    artifact = open_artifact(saved)
    with pytest.raises(ArtifactError, match="the manifest is not that of the code"):
        Model(dataclasses.replace(artifact, weights=artifact.weights[:64]))


def test_deep_json_is_refused(saved, tmp_path):
    data = saved.read_bytes()
    text = b"[" * 200_000
    header = HEADER.pack(
        b"GLULAM\r\n", 1, 0, HEADER.size + len(text) + len(data), len(text), hashlib.sha256(text).digest()
    )
    path = tmp_path / "deep.glulam"
    path.write_bytes(header + text + data)
    with pytest.raises(ArtifactError):
        open_artifact(path)


def test_code_for_another_machine_is_refused_before_it_is_loaded(saved, tmp_path):
    path = tmp_path / "other.glulam"
    rewritten(saved, path, lambda table: table["manifest"].update(cpu_features=["avx2", "warp-drive"]))
    with pytest.raises(CpuMismatchError, match="warp-drive"):
        load(path)
    rewritten(saved, path, lambda table: table["manifest"].update(triple="riscv64-unknown-linux-gnu"))
    with pytest.raises(CpuMismatchError, match="riscv64"):
        load(path)
    rewritten(saved, path, lambda table: table["manifest"].update(triple=programs.TRIPLE.split("-")[0] + "-none-beos"))
    with pytest.raises(CpuMismatchError, match="beos"):
        load(path)


def test_object_code_of_another_format_is_refused(saved, tmp_path):
    artifact = open_artifact(saved)
    for code in (b"", b"MZ" + bytes(100), artifact.object_code[:18] + b"\x08\x00" + artifact.object_code[20:]):
        write_artifact(tmp_path / "x.glulam", dataclasses.replace(artifact, object_code=code))
        with pytest.raises(ArtifactError, match="object code"):
            load(tmp_path / "x.glulam")


def test_object_code_without_entry_points_is_refused(saved, tmp_path):
    artifact = dataclasses.replace(open_artifact(saved), object_code=programs.object_code(programs.ADD_KERNEL))
    write_artifact(tmp_path / "x.glulam", artifact)
    with pytest.raises(ArtifactError, match="glulam_"):
        load(tmp_path / "x.glulam")


def test_a_full_disk_leaves_the_old_file_and_no_other(saved, tmp_path):
    path = tmp_path / "m.glulam"
    path.write_bytes(b"what was there")
    with programs.adder() as model:
        limit = resource.getrlimit(resource.RLIMIT_FSIZE)
        handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limit[1]))
        try:
            with pytest.raises(OSError, match="large") as caught:
                model.save(path)
            assert caught.value.filename == str(path)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limit)
            signal.signal(signal.SIGXFSZ, handler)
    assert [file.name for file in tmp_path.iterdir()] == ["m.glulam"]
    assert path.read_bytes() == b"what was there"


def test_a_missing_folder_is_an_oserror(tmp_path):
    wanted = tmp_path / "no" / "m.glulam"
    with programs.adder() as model, pytest.raises(FileNotFoundError) as caught:
        model.save(wanted)
    assert caught.value.filename == str(wanted)
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "none.glulam")


@pytest.mark.skipif(os.name != "posix", reason="pipes have names there")
def test_pipes_devices_and_folders_stay_what_they_are(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with programs.adder() as model:
        with pytest.raises(OSError, match="not a regular file"):
            model.save(pipe)
        for folder in (tmp_path, "", "/"):
            with pytest.raises(IsADirectoryError):
                model.save(folder)
    assert pipe.is_fifo()
    assert list(tmp_path.iterdir()) == [pipe]


@pytest.mark.skipif(os.name != "posix", reason="links need no privilege there")
def test_a_link_is_replaced_and_what_it_points_to_stays(tmp_path):
    kept, link = tmp_path / "kept", tmp_path / "m.glulam"
    kept.write_bytes(b"what was there")
    link.symlink_to(kept)
    with programs.adder() as model:
        model.save(link)
    assert not link.is_symlink()
    assert kept.read_bytes() == b"what was there"
    load(link).close()


def test_a_name_may_be_as_long_as_the_file_system_allows(tmp_path):
    path = tmp_path / ("n" * 255)
    with programs.adder() as model:
        model.save(path)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_several_writers_of_one_file(tmp_path):
    path = tmp_path / "m.glulam"
    models = [programs.adder(weights=np.full(1000, i, np.float32)) for i in range(3)]
    models[0].save(path)

    def save(model):
        for _ in range(20):
            model.save(path)

    writers = [threading.Thread(target=save, args=(model,)) for model in models]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        weights = open_artifact(path).weights.view(np.float32)
        assert (weights == weights[0]).all()
    for writer in writers:
        writer.join()
    assert [file.name for file in tmp_path.iterdir()] == ["m.glulam"]


def test_a_program_without_weights_or_steps(tmp_path):
    with programs.build("", [], (), ()) as model:
        assert model.run({}) == {}
        model.save(tmp_path / "empty.glulam")
    with load(tmp_path / "empty.glulam", threads=2) as model:
        assert model.run({}) == {}
        assert model.profile({}).steps == ()


def test_manifest_survives_json():
    spec = TensorSpec("x", "float32", (1, 3, 0))
    steps = (StepInfo("k", "conv1 + relu", 10, 3, 20, 40),)
    manifest = Manifest("0.1", "native", "x86_64-unknown-linux-gnu", ("avx2",), (spec,), (), 64, 0, steps, {"a": None})
    assert Manifest.from_json(json.loads(json.dumps(manifest.to_json()))) == manifest


def test_the_runtime_imports_neither_llvmlite_nor_the_compiler():
    wanted = "[n for n in sys.modules if 'llvm' in n or n.startswith('glulam.compiler')]"
    script = f"import sys, glulam.runtime.model; print({wanted})"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.strip() == "[]"
