"""Archives of object files: what goes in comes out, other tools read them, and damage is noticed."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from glulam.runtime.archive import is_archive, pack, unpack
from glulam.runtime.errors import ArtifactError

MEMBERS = {
    "k0_conv.o": b"\x7fELF odd",
    "a_name_that_is_longer_than_sixteen_letters.o": bytes(range(256)),
    "entry.o": b"",
}


def test_round_trip():
    code = pack(MEMBERS)
    assert is_archive(code)
    assert unpack(code) == MEMBERS
    assert list(unpack(code)) == list(MEMBERS)
    assert unpack(pack({})) == {}


def test_the_same_members_give_the_same_bytes():
    assert pack(MEMBERS) == pack(dict(MEMBERS))


@pytest.mark.skipif(shutil.which("ar") is None, reason="there is no ar")
def test_ar_reads_it(tmp_path):
    (tmp_path / "code.a").write_bytes(pack(MEMBERS))
    listed = subprocess.run(["ar", "t", "code.a"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert listed.stdout.split() == list(MEMBERS)
    subprocess.run(["ar", "x", "code.a"], cwd=tmp_path, check=True)
    for name, contents in MEMBERS.items():
        assert (tmp_path / name).read_bytes() == contents


def test_every_truncation_is_noticed_or_ends_between_members():
    code, whole = pack(MEMBERS), list(MEMBERS.items())
    for length in range(len(code)):
        try:
            found = list(unpack(code[:length]).items())
        except ArtifactError:
            continue
        assert found == whole[: len(found)]
        assert len(found) < len(whole) or length >= len(code) - 1


@pytest.mark.parametrize(
    ("code", "why"),
    [
        (b"", "no archive"),
        (b"\x7fELF", "no archive"),
        (b"!<arch>\njunk", "no header"),
        (pack(MEMBERS).replace(b"`\n", b"??", 1), "no header"),
        (pack(MEMBERS).replace(b"#1/16", b"#1/xx", 1), "damaged"),
        (pack(MEMBERS).replace(b"#1/16", b"#1/-9", 1), "truncated"),
        (pack({"a": b"1"}) + pack({"a": b"2"})[8:], "two members"),
    ],
)
def test_damage_is_told(code, why):
    with pytest.raises(ArtifactError, match=why):
        unpack(code)
