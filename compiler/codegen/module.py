"""Kernels of a model and its entry functions as object files, by LLVM."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path

import llvmlite
import llvmlite.binding as llvm

from glulam.compiler.codegen.kernel import emit_kernel
from glulam.compiler.codegen.llvm_process import object_code, parsed, target_machine
from glulam.compiler.codegen.processes import compiled, processes_for
from glulam.compiler.errors import CompileError
from glulam.compiler.loops.ir import Kernel
from glulam.compiler.targets import Target


def build_objects(kernels: Sequence[Kernel], target: Target, entry_text: str = "") -> list[bytes]:
    """Object files, position independent: one for each kernel, which it exports under its name, and one for the entry.

    `entry_text` is LLVM IR that declares and calls kernels, of these or other objects; "" for none.
    Raises CompileError if LLVM refuses the text.
    """
    here = partial(_object, target=target, machine=_machine(target))
    objects = compiled(_kernel_texts(kernels, target), here, target, processes_for(len(kernels)))
    if entry_text:
        objects.append(_object(_entry_text(entry_text, target), target, _quick_machine(target)))
    return objects


def declarations(kernels: Sequence[Kernel]) -> str:
    """LLVM IR by which entry points know kernels of other objects."""
    return "".join(f"declare void @{k.name}({'ptr, ' * (len(k.params) + 1)}i64, i64)\n" for k in kernels)


def generator() -> tuple[str, ...]:
    """What code depends on besides kernels, entry points and target: LLVM, llvmlite, these sources and the loop IR."""
    return llvmlite.__version__, ".".join(map(str, llvm.llvm_version_info)), _sources()


@cache
def _sources() -> str:
    sha = hashlib.sha256()
    here = Path(__file__).parent
    for path in sorted((*here.glob("*.py"), *here.with_name("loops").glob("*.py"))):
        sha.update(path.read_bytes())
    return sha.hexdigest()


def build_assembly(kernels: Sequence[Kernel], entry_text: str, target: Target) -> str:
    """The same code as assembly, for inspection."""

    def assembly(text: str, machine: llvm.TargetMachine) -> str:
        with _blaming_ourselves(text, target):
            return str(machine.emit_assembly(parsed(text, machine)))

    machine = _machine(target)
    texts = [assembly(text, machine) for text in _kernel_texts(kernels, target)]
    if entry_text:
        texts.append(assembly(_entry_text(declarations(kernels) + entry_text, target), _quick_machine(target)))
    return "\n".join(texts)


def module_text(kernels: Sequence[Kernel], entry_text: str, target: Target) -> str:
    """The LLVM IR of the whole module as it goes to LLVM. Declarations may be repeated in `entry_text`."""
    entry, declarations = _declared(entry_text)
    functions = []
    for kernel in kernels:
        text, needs = emit_kernel(kernel, target)
        functions.append(text)
        declarations |= needs
    return _text(target, declarations, [*functions, entry])


def _kernel_texts(kernels: Sequence[Kernel], target: Target) -> Iterator[str]:
    """A module for each kernel: the text of all takes several times the memory of the code."""
    for kernel in kernels:
        text, needs = emit_kernel(kernel, target)
        yield _text(target, needs, [text])


def _entry_text(text: str, target: Target) -> str:
    """The module of the entry points."""
    entry, declarations = _declared(text)
    return _text(target, declarations, [entry])


def _object(text: str, target: Target, machine: llvm.TargetMachine) -> bytes:
    with _blaming_ourselves(text, target):
        return object_code(text, machine)


def _declared(text: str) -> tuple[str, set[str]]:
    """Text without its declarations, and these."""
    lines = text.splitlines()
    rest = "\n".join(line for line in lines if not line.startswith("declare "))
    return rest, {line.strip() for line in lines if line.startswith("declare ")}


def _text(target: Target, declarations: Iterable[str], functions: Iterable[str]) -> str:
    # LLVM learns too late of vectors that are spilled to align the stack for them; else they cross cache lines, in some
    # processes and not in others.
    size = target.vector_bytes
    attributes = f'nounwind alignstack={size} "tune-cpu"="{target.tune}" "prefer-vector-width"="{size * 8}"'
    head = f'target triple = "{target.triple}"'
    return "\n".join([head, *sorted(declarations), *functions, f"attributes #0 = {{ {attributes} }}", ""])


@contextmanager
def _blaming_ourselves(text: str, target: Target) -> Iterator[None]:
    """What LLVM refuses should not have been written."""
    try:
        yield
    except RuntimeError as error:
        refused = CompileError(
            f"LLVM refused the code emitted for {target.name}: {error}; this is a bug of glulam, please report it with "
            "the model and what --debug prints"
        )
        refused.add_note(text)
        raise refused from error


def _machine(target: Target) -> llvm.TargetMachine:
    return target_machine(target.triple, target.cpu, target.features)


def _quick_machine(target: Target) -> llvm.TargetMachine:
    """For entry points, which compute next to nothing but are long: it takes an eighth of the other's time."""
    return target_machine(target.triple, target.cpu, target.features, opt=0)
