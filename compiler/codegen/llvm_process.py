"""From LLVM IR to object code, as functions, and as a process that does nothing else.

llvmlite lets one thread at a time into LLVM, so more cores help only in more processes. Such a process runs this file
as it is, which therefore imports nothing of glulam. It reads requests and writes answers, each with its length before
it (8 bytes, little-endian): first the triple, processor and features, separated by zero bytes, then texts, each of
which is answered by object code behind b"+", or by what LLVM said against it behind b"-".
"""

from __future__ import annotations

import struct
import sys
from functools import cache
from typing import IO

import llvmlite.binding as llvm

_LENGTH = struct.Struct("<Q")


def target_machine(triple: str, cpu: str, features: str, opt: int = 3) -> llvm.TargetMachine:
    """What emits position independent code for a processor, by LLVM's names; `opt` is its level of optimisation."""
    _initialise()
    made = llvm.Target.from_triple(triple)
    return made.create_target_machine(cpu=cpu, features=features, opt=opt, reloc="pic", codemodel="small")


def parsed(text: str, machine: llvm.TargetMachine) -> llvm.ModuleRef:
    """The module of the text, for the machine. Raises RuntimeError if LLVM refuses it."""
    module = llvm.parse_assembly(text)
    module.verify()
    module.data_layout = str(machine.target_data)
    return module


def object_code(text: str, machine: llvm.TargetMachine) -> bytes:
    """The object file of the text. Raises RuntimeError if LLVM refuses it."""
    return bytes(machine.emit_object(parsed(text, machine)))


def send(stream: IO[bytes], message: bytes) -> None:
    """Write a message with its length."""
    stream.write(_LENGTH.pack(len(message)))
    stream.write(message)
    stream.flush()


def receive(stream: IO[bytes]) -> bytes | None:
    """The next message; None at the end of the stream, even if it comes within a message."""
    head = stream.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        return None
    (length,) = _LENGTH.unpack(head)
    message = stream.read(length)
    return message if len(message) == length else None


def serve(requests: IO[bytes], answers: IO[bytes]) -> None:
    """Answer all requests, until there are no more."""
    first = receive(requests)
    if first is None:
        return
    triple, cpu, features = first.decode().split("\0")
    machine = target_machine(triple, cpu, features)
    while (text := receive(requests)) is not None:
        try:
            answer = b"+" + object_code(text.decode(), machine)
        except RuntimeError as error:
            answer = b"-" + str(error).encode()
        send(answers, answer)


@cache
def _initialise() -> None:
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()


if __name__ == "__main__":
    serve(sys.stdin.buffer, sys.stdout.buffer)
