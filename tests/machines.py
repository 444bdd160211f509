"""A processor that choices are tested for, whatever the host is."""

from dataclasses import replace

from glulam.compiler.targets import target

ZEN4 = replace(
    target("x86-64-v4"), fmas_per_cycle=1, loads_per_cycle=1, l1_bytes=32 << 10, l2_bytes=1 << 20, l3_bytes=32 << 20
)
