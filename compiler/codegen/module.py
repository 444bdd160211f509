"""All kernels of a model and its entry functions as one object file, by LLVM."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import llvmlite
import llvmlite.binding as llvm

from glulam.compiler.codegen.kernel import emit_kernel
from glulam.compiler.errors import CompileError
from glulam.compiler.loops.ir import Kernel
from glulam.compiler.targets import Target


def build_object(kernels: Sequence[Kernel], entry_text: str, target: Target) -> bytes:
    """An object file, position independent, that exports what `entry_text` (LLVM IR that calls the kernels) defines.

    Raises CompileError if LLVM refuses the text.
    """
    machine = _machine(target)
    return bytes(machine.emit_object(_optimised(kernels, entry_text, target, machine)))


def generator() -> tuple[str, ...]:
    """What code depends on besides kernels, entry points and target: LLVM, llvmlite, and the sources of this room."""
    return llvmlite.__version__, ".".join(map(str, llvm.llvm_version_info)), _sources()


@cache
def _sources() -> str:
    sha = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        sha.update(path.read_bytes())
    return sha.hexdigest()


def build_assembly(kernels: Sequence[Kernel], entry_text: str, target: Target) -> str:
    """The same code as assembly, for inspection."""
    machine = _machine(target)
    return str(machine.emit_assembly(_optimised(kernels, entry_text, target, machine)))


def module_text(kernels: Sequence[Kernel], entry_text: str, target: Target) -> str:
    """The LLVM IR of the whole module as it goes to LLVM. Declarations may be repeated in `entry_text`."""
    declarations: set[str] = set()
    functions = []
    for kernel in kernels:
        text, needs = emit_kernel(kernel, target)
        functions.append(text)
        declarations |= needs
    lines = entry_text.splitlines()
    declarations.update(line.strip() for line in lines if line.startswith("declare "))
    entry = "\n".join(line for line in lines if not line.startswith("declare "))
    attributes = f'nounwind "tune-cpu"="{target.tune}" "prefer-vector-width"="{target.vector_bytes * 8}"'
    head = f'target triple = "{target.triple}"'
    return "\n".join([head, *sorted(declarations), *functions, entry, f"attributes #0 = {{ {attributes} }}", ""])


def _optimised(
    kernels: Sequence[Kernel], entry_text: str, target: Target, machine: llvm.TargetMachine
) -> llvm.ModuleRef:
    text = module_text(kernels, entry_text, target)
    try:
        module = llvm.parse_assembly(text)
        module.verify()
    except RuntimeError as error:
        refused = CompileError(
            f"LLVM refused the code emitted for {target.name}: {error}; this is a bug of glulam, please report it with "
            "the model and what --debug prints"
        )
        refused.add_note(text)
        raise refused from error
    module.data_layout = str(machine.target_data)
    return module


def _machine(target: Target) -> llvm.TargetMachine:
    _initialise()
    return llvm.Target.from_triple(target.triple).create_target_machine(
        cpu=target.cpu, features=target.features, opt=3, reloc="pic", codemodel="small"
    )


@cache
def _initialise() -> None:
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
