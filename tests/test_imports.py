"""The import direction: frontends -> compiler -> runtime, and inside the compiler only leftward along ROOMS.

Every import statement counts, wherever it stands: at the top, in a function, or for type checkers only.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import networkx as nx
import pytest

ROOT = Path(__file__).parent.parent
ROOMS = [
    *("errors", "options", "targets", "cache", "graph", "loops", "kernels", "ops", "passes", "lowering", "codegen"),
    "emission",
    "driver",
]
# Codegen knows loops and targets, though more stands to its left; element types are everybody's words.
FREE_OF = {"codegen": {"options", "cache", "graph", "kernels", "ops", "passes", "lowering"}}
EXCEPTIONS = {("codegen", "compiler.graph.types")}
BESIDE = {
    "twins": "lowering",
    "scalars": "lowering",
    "pipeline": "driver",
    "tuning": "driver",
    "interpreter": "driver",
}  # files that count as part of a room
USES_RUNTIME = {
    "compiler/errors.py": {"runtime.errors"},  # one root for all errors
    "compiler/codegen/entry.py": {"runtime.abi"},
    "compiler/codegen/steps.py": {"runtime.abi"},
    "compiler/codegen/walks.py": {"runtime.abi"},
    "compiler/codegen/workers.py": {"runtime.abi"},
    "compiler/codegen/module.py": {"runtime.archive"},
    "compiler/codegen/processes.py": {"runtime.processors"},
    "compiler/codegen/platform.py": {"runtime.cpu"},
    "compiler/targets/host.py": {"runtime.cpu"},
    "compiler/driver.py": {
        "runtime.artifact",
        "runtime.cpu",
        "runtime.errors",
        "runtime.manifest",
        "runtime.model",
    },
    "compiler/emission.py": {"runtime.abi", "runtime.archive"},
    "compiler/tuning.py": {"runtime.artifact", "runtime.cpu", "runtime.model"},
    # an external function is one object from the op to the binding table
    "compiler/kernels/context.py": {"runtime.foreign"},
    "compiler/loops/program.py": {"runtime.foreign"},
    "compiler/ops/external.py": {"runtime.foreign"},
    # large arrays lie in memory that goes back to the system, or in files
    "compiler/kernels/packing.py": {"runtime.memory"},
    "compiler/passes/scaled_weights.py": {"runtime.memory"},
}
USES_LLVM = {
    "compiler/codegen/llvm_process.py", "compiler/codegen/module.py", "compiler/targets/host.py", "runtime/cpu.py",
    "runtime/loader.py",
}  # fmt: skip
FILES = sorted(p for room in ("compiler", "runtime", "frontends") for p in (ROOT / room).rglob("*.py"))


def module_name(path: Path) -> str:
    """Dotted name below `glulam`; a package's name for its `__init__`."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_name(path): path for path in FILES}


def imports(source: str) -> list[str]:
    """Dotted names of everything that the text imports, wherever in the file; our own without `glulam`."""
    found: list[str] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return [name.removeprefix("glulam.") for name in found]


@cache
def ours(path: Path) -> list[str]:
    """The modules of this project that the file imports."""
    found = []
    for name in imports(path.read_text(encoding="utf-8")):
        known = next((n for n in (name, name.rpartition(".")[0]) if n in MODULES), None)
        if known is not None:
            found.append(known)
        else:
            assert name.split(".")[0] not in ("compiler", "runtime", "frontends", "glulam"), f"{path}: no module {name}"
    return found


def room_of(module: str) -> str:
    room = module.split(".")[1]
    return BESIDE.get(room, room)


def wrong(importer: str, imported: str) -> str | None:
    """What is wrong with an import between two modules, None if nothing is."""
    direction = ["runtime", "compiler", "frontends"]
    here, there = importer.split(".")[0], imported.split(".")[0]
    if direction.index(there) > direction.index(here):
        return f"{here} imports nothing of {there}"
    if (here, there) == ("frontends", "runtime") or not here == there == "compiler" or importer == "compiler":
        return None
    mine, theirs = room_of(importer), room_of(imported)
    if ROOMS.index(theirs) > ROOMS.index(mine):
        return f"{theirs} stands to the right of {mine}"
    if theirs in FREE_OF.get(mine, ()) and (mine, imported) not in EXCEPTIONS:
        return f"{mine} imports nothing of {theirs}"
    return None


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_the_right_way(path):
    here = module_name(path)
    faults = [f"imports {name}: {reason}" for name in ours(path) if (reason := wrong(here, name)) is not None]
    assert not faults


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_few_files_know_the_runtime_or_llvm(path):
    place = path.relative_to(ROOT).as_posix()
    if place.startswith("compiler/"):
        assert {name for name in ours(path) if name.startswith("runtime.")} <= USES_RUNTIME.get(place, set())
    if place not in USES_LLVM:
        assert not [name for name in imports(path.read_text(encoding="utf-8")) if name.startswith("llvmlite")]


def test_there_are_no_cycles():
    """Not even through imports inside functions; packages import their parts and are imported through them."""
    view = nx.DiGraph((here, name) for here, path in MODULES.items() for name in ours(path) if name != here)
    assert nx.is_directed_acyclic_graph(view), nx.find_cycle(view)


@pytest.mark.parametrize(
    ("importer", "imported"),
    [
        ("runtime.model", "compiler.driver"),
        ("compiler.driver", "frontends.layers"),
        ("compiler.kernels.gemm", "compiler.ops.matmul"),
        ("compiler.codegen.kernel", "compiler.graph.graph"),
        ("compiler.lowering", "compiler.codegen.module"),
        ("compiler.passes.fuse", "compiler.pipeline"),
    ],
)
def test_wrong_ways_are_noticed(importer, imported):
    assert wrong(importer, imported) is not None


def test_codegen_may_name_element_types():
    assert wrong("compiler.codegen.kernel", "compiler.graph.types") is None


def test_hidden_imports_are_found():
    text = "if TYPE_CHECKING:\n    from glulam.a import b\ndef f():\n    import glulam.c, llvmlite.binding as x\n"
    assert sorted(imports(text)) == ["a.b", "c", "llvmlite.binding"]


def test_runtime_imports_neither_the_compiler_nor_llvm():
    modules = [f"glulam.{name}" for name in MODULES if name.split(".")[0] == "runtime"]
    check = (
        f"import importlib, sys\nfor name in {modules!r}: importlib.import_module(name)\n"
        "bad = [m for m in sys.modules if m.startswith(('glulam.compiler', 'glulam.frontends', 'llvmlite'))]\n"
        "sys.exit(str(bad) if bad else 0)"
    )
    subprocess.run([sys.executable, "-c", check], check=True)
