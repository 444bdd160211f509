"""All kernels of a model and its entry functions as one object file, by LLVM."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
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
    entry, declarations = _declared(entry_text)
    functions = []
    for kernel in kernels:
        text, needs = emit_kernel(kernel, target)
        functions.append(text)
        declarations |= needs
    return _text(target, declarations, [*functions, entry])


def _optimised(
    kernels: Sequence[Kernel], entry_text: str, target: Target, machine: llvm.TargetMachine
) -> llvm.ModuleRef:
    """One module, linked from one for each function: text takes several times the memory of what it says."""
    entry, declarations = _declared(entry_text)
    prototypes = {f"declare void @{k.name}({', '.join(['ptr'] * (len(k.params) + 1))}, i64, i64)" for k in kernels}
    module = _parsed(_text(target, declarations | prototypes, [entry]), target)
    for kernel in kernels:
        text, needs = emit_kernel(kernel, target)
        visible = text.replace("define internal", "define", 1)  # what is internal cannot be linked
        module.link_in(_parsed(_text(target, needs, [visible]), target))
        module.get_function(kernel.name).linkage = llvm.Linkage.internal
    module.data_layout = str(machine.target_data)
    return module


def _declared(text: str) -> tuple[str, set[str]]:
    """Text without its declarations, and these."""
    lines = text.splitlines()
    rest = "\n".join(line for line in lines if not line.startswith("declare "))
    return rest, {line.strip() for line in lines if line.startswith("declare ")}


def _text(target: Target, declarations: Iterable[str], functions: Iterable[str]) -> str:
    attributes = f'nounwind "tune-cpu"="{target.tune}" "prefer-vector-width"="{target.vector_bytes * 8}"'
    head = f'target triple = "{target.triple}"'
    return "\n".join([head, *sorted(declarations), *functions, f"attributes #0 = {{ {attributes} }}", ""])


def _parsed(text: str, target: Target) -> llvm.ModuleRef:
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
