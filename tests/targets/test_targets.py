"""Targets are data with a name, and the host is one of them."""

from __future__ import annotations

import dataclasses

import pytest

from glulam.compiler.errors import TargetError
from glulam.compiler.targets import NAMED, host, runnable_targets, target
from glulam.compiler.targets.arm import AARCH64
from glulam.compiler.targets.x86 import BEYOND_LEVELS, X86_64_V4
from glulam.runtime import cpu
from glulam.runtime.cpu import host_features
from glulam.runtime.errors import CpuMismatchError


def test_a_name_finds_its_target():
    for known in NAMED:
        assert target(known.name) is known


def test_an_unknown_name_is_refused_with_the_names_there_are():
    with pytest.raises(TargetError, match=r"x86-64-v4.*aarch64"):
        target("x86-64-v9")


def test_lanes_follow_from_the_vector_width():
    assert {t.name: t.lanes for t in NAMED} == {"x86-64-v4": 16, "x86-64-v3": 8, "x86-64-v2": 4, "aarch64": 4}


def test_features_are_spelled_out():
    """A processor's name alone may stand for less with another version of LLVM."""
    for known in NAMED:
        assert known.features
        assert set(known.required_features) <= {f.removeprefix("+") for f in known.features.split(",")}


def added(here, level):
    """The features that a target has and requires over its level."""
    assert here.features.startswith(level.features)
    found = here.features.removeprefix(level.features).replace(",+", " ").split()
    assert here.required_features == (*level.required_features, *found)
    return found


def beyond(here, level):
    """The features of no level by which a target says what it has for bytes."""
    return [feature for feature, says in BEYOND_LEVELS.get(level.name, {}).items() if getattr(here, says)]


def test_native_adds_no_instructions_to_its_level_but_those_for_bytes():
    native = target()
    level = runnable_targets()[0]
    for field in ("name", "cpu", "vector_bytes", "vector_registers", "has_fma"):
        assert getattr(native, field) == getattr(level, field)
    assert added(native, level) == beyond(native, level)
    assert native.l1_bytes <= native.l2_bytes <= native.l3_bytes


def test_a_level_of_this_machine_has_its_caches():
    for level in runnable_targets():
        here, native = target(f"native:{level.name}"), target()
        assert (here.name, here.vector_bytes) == (level.name, level.vector_bytes)
        assert added(here, level) == beyond(here, level)
        for field in ("tune", "triple", "l1_bytes", "l2_bytes", "l3_bytes", "l3_rate", "memory_rate"):
            assert getattr(here, field) == getattr(native, field)
    assert target(f"native:{runnable_targets()[0].name}") == target()


@pytest.mark.parametrize("present", [[], ["avx512vnni"], ["avx512vbmi"], ["avx512vnni", "avx512vbmi"]])
def test_instructions_for_bytes_are_for_processors_that_have_them(monkeypatch, present):
    features = {*X86_64_V4.required_features, *present}
    monkeypatch.setattr(host, "host_features", lambda: frozenset(features))
    made = host._beyond(X86_64_V4)
    assert (made.dots_bytes, made.looks_up_bytes) == ("avx512vnni" in present, "avx512vbmi" in present)
    assert added(made, X86_64_V4) == present
    assert host._beyond(AARCH64) == AARCH64


@pytest.mark.parametrize("name", ["native:", "native:x86-64-v9", "native:native", "native:none-such"])
def test_levels_that_this_machine_does_not_run_are_refused_with_those_that_it_does(name):
    with pytest.raises(TargetError, match=runnable_targets()[0].name):
        target(name)


def test_a_processor_that_llvm_does_not_know_has_no_features(monkeypatch):
    def unknown():
        raise RuntimeError("failed to get host cpu features")

    monkeypatch.setattr(host.llvm, "get_host_cpu_features", unknown)
    monkeypatch.setattr(cpu, "host_features", host_features.__wrapped__)
    assert cpu.host_features() == frozenset()
    cpu.check_host(target().triple, [])
    with pytest.raises(CpuMismatchError, match="lacks: avx2"):
        cpu.check_host(target().triple, ["+avx2"])


def test_the_host_has_what_runnable_targets_need():
    assert runnable_targets()
    for known in runnable_targets():
        assert host_features().issuperset(known.required_features)


@pytest.mark.parametrize(
    ("processor", "slow"),
    [("znver4", False), ("icelake-client", False), ("emeraldrapids", True), ("skylake-avx512", True)],
)
def test_a_last_level_cache_behind_a_mesh_is_slow_and_not_all_ones_own(processor, slow, monkeypatch):
    monkeypatch.setattr(host, "runnable_targets", lambda: (target("x86-64-v4"),))
    monkeypatch.setattr(host.llvm, "get_host_cpu_name", lambda: processor)
    monkeypatch.setattr(host, "_caches", lambda: (48 << 10, 2 << 20, 300 << 20))
    found = host._native.__wrapped__()
    assert found.l3_is_slow == slow
    assert found.l3_bytes == (64 << 20 if slow else 300 << 20)
    assert found.memory_rate < found.l3_rate
    assert not any(known.l3_is_slow for known in NAMED)


@pytest.mark.parametrize(("processor", "hides"), [("znver4", False), ("znver5", True), ("emeraldrapids", False)])
def test_a_processor_that_hides_what_goes_on_beside_products_is_known_by_name(processor, hides, monkeypatch):
    monkeypatch.setattr(host, "runnable_targets", lambda: (target("x86-64-v4"),))
    monkeypatch.setattr(host.llvm, "get_host_cpu_name", lambda: processor)
    found = host._native.__wrapped__()
    assert (found.overhead < 1, found.asks_ahead, found.asks_nearest) == (hides, hides, hides)
    assert all(known.overhead == 1 for known in NAMED)


def test_targets_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        target().name = "other"
