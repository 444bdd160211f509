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
        self._engine = _load(objects)
        functions = {name: self._function(name) for name in abi.ENTRY_SYMBOLS}
        self.run_single = functions[abi.RUN_SINGLE]
        self.run_single_profiled = functions[abi.RUN_SINGLE_PROFILED]
        self.run_shared = functions[abi.RUN_SHARED]
        self.worker = functions[abi.WORKER]
        self.stop_workers = functions[abi.STOP_WORKERS]
        self.read_ticks = functions[abi.READ_TICKS]

    def sizes(self) -> list[int]:
        """What the code was compiled for, as `abi.sizes` has it."""
        address = self._engine.get_global_value_address(abi.SIZES)
        if not address:
            raise ArtifactError(f"the object code has no {abi.SIZES}; compile the model again")
        count = _I64.from_address(address).value
        return list((_I64 * count).from_address(address + ctypes.sizeof(_I64)))

    def _function(self, name: str) -> Any:
        address = self._engine.get_function_address(name)
        if not address:
            raise ArtifactError(f"the object code has no function {name}; compile the model again")
        return ctypes.CFUNCTYPE(*_SIGNATURES[name])(address)


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


def _load(objects: Sequence[bytes]) -> Any:
    """An MCJIT engine that owns its TargetMachine and holds the code of all objects, which may call each other."""
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    _add_system_symbols(llvm)
    machine = llvm.Target.from_default_triple().create_target_machine(reloc="pic", codemodel="small")
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)
    try:
        for code in objects:
            engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    except RuntimeError as error:
        raise ArtifactError(f"LLVM refused the object code: {error}") from error
    engine.finalize_object()
    return engine


def _add_system_symbols(llvm: Any) -> None:
    """Windows keeps its wait functions in a library that is not searched by itself."""
    if sys.platform == "win32":
        synch = ctypes.WinDLL("api-ms-win-core-synch-l1-2-0.dll")
        kernel = ctypes.WinDLL("kernel32.dll")
        for library, name in ((synch, "WaitOnAddress"), (synch, "WakeByAddressAll"), (kernel, "SwitchToThread")):
            llvm.add_symbol(name, ctypes.cast(getattr(library, name), ctypes.c_void_p).value)
