"""How many threads the surroundings of the process allow."""

import os

import pytest
import runtime_programs as programs

from glulam.runtime import processors


def write(folder, **files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)


@pytest.mark.parametrize(("text", "quota"), [("max 100000\n", None), ("150000 100000\n", 1.5), ("50000 100000", 0.5)])
def test_quota_of_cgroup_2(tmp_path, text, quota):
    write(tmp_path / "cg" / "app" / "inner", cpu__max=text)
    write(tmp_path, membership="0::/app/inner\n")
    assert processors.cgroup_quota(tmp_path / "cg", tmp_path / "membership") == quota


def test_the_tightest_group_counts(tmp_path):
    write(tmp_path / "cg" / "app" / "inner", cpu__max="800000 100000")
    write(tmp_path / "cg" / "app", cpu__max="200000 100000")
    write(tmp_path, membership="0::/app/inner\n")
    assert processors.cgroup_quota(tmp_path / "cg", tmp_path / "membership") == 2


def test_quota_of_cgroup_1(tmp_path):
    write(tmp_path / "cg" / "cpu" / "box", cpu__cfs_quota_us="300000\n", cpu__cfs_period_us="100000\n")
    write(tmp_path, membership="9:memory:/x\n4:cpu,cpuacct:/box\n")
    assert processors.cgroup_quota(tmp_path / "cg", tmp_path / "membership") == 3


def test_no_limit_where_nothing_is_said(tmp_path):
    write(tmp_path, membership="nonsense\n\n")
    assert processors.cgroup_quota(tmp_path, tmp_path / "membership") is None
    assert processors.cgroup_quota(tmp_path, tmp_path / "none") is None


def test_threads_are_limited_by_quota_and_mask(monkeypatch):
    monkeypatch.setattr(processors, "allowed", lambda: (0, 1, 2, 3))
    monkeypatch.setattr(processors, "cgroup_quota", lambda: 2.5)
    assert processors.usable() == 3
    monkeypatch.setattr(processors, "cgroup_quota", lambda: 0.1)
    assert processors.usable() == 1
    monkeypatch.setattr(processors, "cgroup_quota", lambda: None)
    assert processors.usable() == 4


def test_a_model_takes_no_more_threads_than_there_are_processors():
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        with programs.adder(threads=8) as model:
            assert model.threads == 1
    finally:
        os.sched_setaffinity(0, before)
