"""The wheel carries exactly the packages of the tree, under names that are ours."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import glulam
from glulam.compiler import emission

ROOT = Path(__file__).parent.parent
ROOMS = {"glulam": "glulam", "compiler": "glulam/compiler", "runtime": "glulam/runtime"}
ROOMS |= {"frontends": "glulam/frontends", "benchmarks": "glulam/benchmarks"}
KINDS = {".py", ".json", ".typed"}


def files_of_the_tree() -> set[str]:
    """Every file of the rooms, by the name it is installed under."""
    return {
        f"{installed}/{path.relative_to(ROOT / room)}"
        for room, installed in ROOMS.items()
        for path in (ROOT / room).rglob("*")
        if path.suffix in KINDS and path.is_file()
    }


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """Built from a copy, so that nothing lying about in `build` gets in."""
    copy = tmp_path_factory.mktemp("copy")
    for name in (*ROOMS, "pyproject.toml", "README.md", "LICENSE"):
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, copy / name)
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(copy / "dist"), str(copy)]
    done = subprocess.run(build, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = (copy / "dist").glob("*.whl")
    return zipfile.ZipFile(path)


def test_wheel_holds_every_file_of_the_tree_and_no_other(wheel):
    packed = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert packed == files_of_the_tree()


def test_wheel_claims_no_name_but_ours(wheel):
    tops = {name.split("/")[0] for name in wheel.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"glulam"}


def test_every_folder_with_code_is_a_package():
    """A folder without `__init__.py` would import from the tree and be missing from the wheel."""
    folders = {path.parent for room in ROOMS for path in (ROOT / room).rglob("*.py")}
    assert [str(folder) for folder in sorted(folders) if not (folder / "__init__.py").exists()] == []


def test_run_time_needs_only_what_the_design_allows():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names = {requirement.split(">")[0] for requirement in project["dependencies"]}
    assert names == {"numpy", "llvmlite", "networkx", "rich"}


def test_the_project_and_the_code_have_one_version():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert glulam.__version__ == emission.VERSION == project["version"]


def test_importing_glulam_imports_neither_the_compiler_nor_llvm():
    code = "import sys, glulam; print([m for m in ('llvmlite', 'networkx', 'glulam.compiler') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_examples_of_the_readme_run(tmp_path, monkeypatch):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 2
    monkeypatch.chdir(tmp_path)
    (tmp_path / "readme.py").write_text("\n".join(blocks), encoding="utf-8")
    done = subprocess.run([sys.executable, "readme.py"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "+" in done.stdout  # the label of a fused kernel


def test_files_that_the_documents_name_exist():
    text = "".join((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "benchmarks/RESULTS.md"))
    rooms = "|".join((*ROOMS, "tests", "examples"))
    names = set(re.findall(rf"`((?:{rooms})/[\w./]*|\.ci/run|LICENSE)`", text))
    assert len(names) > 15
    assert [name for name in sorted(names) if not (ROOT / name).exists()] == []
