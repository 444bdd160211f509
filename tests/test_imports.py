"""The import direction: frontends -> compiler -> runtime, and inside the compiler only leftward along ROOMS."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ["errors", "options", "targets", "graph", "loops", "kernels", "ops", "passes", "lowering", "codegen", "driver"]
FREE_OF = {"codegen": {"graph", "ops", "passes", "kernels", "lowering"}}  # though they stand to the left
ALLOWED = {"codegen": {"graph.types"}}  # element types are everybody's words
BESIDE = {"pipeline": "driver"}  # files that count as part of a room
FILES = sorted(p for room in ("compiler", "runtime", "frontends") for p in (ROOT / room).rglob("*.py"))


def imports(path: Path) -> list[str]:
    """Dotted names of the glulam modules that the file imports, wherever in the file."""
    found: list[str] = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return [name.removeprefix("glulam.") for name in found if name.split(".")[0] == "glulam"]


def room_of(dotted: str) -> str:
    room = dotted.split(".")[1]
    return BESIDE.get(room, room)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_the_right_way(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    for name in imports(path):
        top = name.split(".")[0]
        if parts[0] == "runtime":
            assert top == "runtime", f"{path} imports glulam.{name}"
        elif parts[0] == "frontends":
            assert top in {"frontends", "compiler", "runtime"}, f"{path} imports glulam.{name}"
        elif top == "compiler" and parts[1] != "__init__":
            here, there = room_of(".".join(parts)), room_of(name)
            assert ROOMS.index(there) <= ROOMS.index(here), f"{path} imports glulam.{name}"
            free = there in FREE_OF.get(here, ()) and not any(f"{a}." in f"{name[9:]}." for a in ALLOWED[here])
            assert not free, f"{path} imports glulam.{name}"
        else:
            assert top in {"compiler", "runtime"}, f"{path} imports glulam.{name}"


def test_runtime_does_not_import_the_compiler_or_llvmlite():
    modules = [
        "glulam." + ".".join(p.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for p in sorted((ROOT / "runtime").rglob("*.py"))
    ]
    check = (
        f"import importlib, sys\nfor name in {modules!r}: importlib.import_module(name)\n"
        "bad = [m for m in sys.modules if m.startswith(('glulam.compiler', 'glulam.frontends', 'llvmlite'))]\n"
        "sys.exit(str(bad) if bad else 0)"
    )
    subprocess.run([sys.executable, "-c", check], check=True)
