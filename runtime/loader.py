"""Object code in memory -> callable entry points. The only file of the runtime that runs LLVM.

llvmlite serialises every call into LLVM by a lock of its own, so programs may be loaded from several threads.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Sequence
from typing import Any

from glulam.runtime import abi, cpu
from glulam.runtime.archive import is_archive, unpack
from glulam.runtime.errors import ArtifactError

_POINTER = ctypes.c_void_p
_I64 = ctypes.c_int64
_SIGNATURES: dict[str, tuple[Any, ...]] = {
    abi.RUN_SINGLE: (None, _POINTER),
    abi.RUN_SINGLE_PROFILED: (None, _POINTER, _POINTER),
    abi.RUN_SHARED: (None, _POINTER, _POINTER, _I64, _POINTER),
    abi.WORKER: (None, _POINTER, _POINTER, _I64, _I64),
    abi.STOP_WORKERS: (None, _POINTER),
    abi.READ_TICKS: (_I64,),
}
_SYMBOLS = (*abi.ENTRY_SYMBOLS, abi.SIZES)

# (first bytes, where the machine field is, its values) of the object format of each system
_ELF_MACHINE = {"x86_64": b"\x3e\x00", "aarch64": b"\xb7\x00"}
_MACHO_MACHINE = {"x86_64": b"\x07\x00\x00\x01", "aarch64": b"\x0c\x00\x00\x01"}
_COFF_MACHINE = {"x86_64": b"\x64\x86", "aarch64": b"\x64\xaa"}


class NativeCode:
    """A loaded program: one object file, or an archive of several.

    Its functions live as long as this object; all of them release the interpreter lock.

    Raises:
        CpuMismatchError: the machine cannot execute the code; nothing was loaded.
        ArtifactError: the bytes are not object code of this platform, or lack an entry point.
    """

    def __init__(self, object_code: bytes, triple: str, cpu_features: tuple[str, ...]) -> None:
        cpu.check_host(triple, cpu_features)
        objects = list(unpack(object_code).values()) if is_archive(object_code) else [object_code]
        for code in objects:
            _check_object(code)
        self._loaded, addresses = _load(objects)
        self._sizes = addresses[abi.SIZES]
        functions = {name: ctypes.CFUNCTYPE(*_SIGNATURES[name])(addresses[name]) for name in abi.ENTRY_SYMBOLS}
        self.run_single = functions[abi.RUN_SINGLE]
        self.run_single_profiled = functions[abi.RUN_SINGLE_PROFILED]
        self.run_shared = functions[abi.RUN_SHARED]
        self.worker = functions[abi.WORKER]
        self.stop_workers = functions[abi.STOP_WORKERS]
        self.read_ticks = functions[abi.READ_TICKS]

    def sizes(self) -> list[int]:
        """What the code was compiled for, as `abi.sizes` has it."""
        count = _I64.from_address(self._sizes).value
        return list((_I64 * count).from_address(self._sizes + ctypes.sizeof(_I64)))


def _check_object(code: bytes) -> None:
    machine = cpu.host_architecture()
    if sys.platform == "win32":
        good = code[:2] == _COFF_MACHINE.get(machine)
    elif sys.platform == "darwin":
        good = code[:4] == b"\xcf\xfa\xed\xfe" and code[4:8] == _MACHO_MACHINE.get(machine)
    else:
        good = code[:6] == b"\x7fELF\x02\x01" and code[18:20] == _ELF_MACHINE.get(machine)
    if not good:
        raise ArtifactError(f"the object code is not in the format of {sys.platform} on {machine}")


def _load(objects: Sequence[bytes]) -> tuple[Any, dict[str, int]]:
    """What keeps the code of all objects in memory, which may call each other, and the addresses of `_SYMBOLS`."""
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    machine = llvm.Target.from_default_triple().create_target_machine(reloc="pic", codemodel="small")
    try:
        return (_load_by_mcjit if sys.platform == "win32" else _link)(llvm, machine, objects)
    except RuntimeError as error:
        raise ArtifactError(f"LLVM refused the object code: {error}; compile the model again") from error


def _link(llvm: Any, machine: Any, objects: Sequence[bytes]) -> tuple[Any, dict[str, int]]:
    """JITLink maps each object in one piece, wherever there is room, for code reads its constants by 32-bit offsets.

    (MCJIT maps every section by itself; where two come to lie more than 2 GB apart, LLVM ends the process.)
    """
    builder = llvm.JITLibraryBuilder().add_current_process()
    for code in objects:
        builder.add_object_img(code)
    for name in _SYMBOLS:
        builder.export_symbol(name)
    linker = llvm.create_lljit_compiler(machine, use_jit_link=True, suppress_errors=True)
    library = builder.link(linker, "model")
    return library, {name: library[name] for name in _SYMBOLS}


def _load_by_mcjit(llvm: Any, machine: Any, objects: Sequence[bytes]) -> tuple[Any, dict[str, int]]:
    """For COFF, which JITLink does not know well. The engine owns its TargetMachine."""
    _add_system_symbols(llvm)
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)
    for code in objects:
        engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    addresses = {name: engine.get_global_value_address(name) for name in _SYMBOLS}
    for name, address in addresses.items():
        if not address:
            raise ArtifactError(f"the object code has no {name}; compile the model again")
    return engine, addresses


def _add_system_symbols(llvm: Any) -> None:
    """Windows keeps its wait functions in a library that is not searched by itself."""
    if sys.platform == "win32":
        synch = ctypes.WinDLL("api-ms-win-core-synch-l1-2-0.dll")
        kernel = ctypes.WinDLL("kernel32.dll")
        for library, name in ((synch, "WaitOnAddress"), (synch, "WakeByAddressAll"), (kernel, "SwitchToThread")):
            llvm.add_symbol(name, ctypes.cast(getattr(library, name), ctypes.c_void_p).value)
