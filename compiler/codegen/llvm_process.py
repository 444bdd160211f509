"""From LLVM IR to object code, as functions, and as a process that does nothing else.

llvmlite lets one thread at a time into LLVM, so more cores help only in more processes. Such a process runs this file
as it is, which therefore imports nothing of glulam. It reads requests and writes answers, each with its length before
it (8 bytes, little-endian): first the triple, processor and features, separated by zero bytes, answered by `READY`
alone; then texts, each of which is answered by object code behind b"+", or by what LLVM said against it behind b"-".

Requests are its standard input. Answers go to the descriptor that its argument names, else to its standard output,
which is nobody else's from then on: what the process prints goes where errors go.
"""

from __future__ import annotations

import os
import struct
import sys
from functools import cache
from typing import IO

import llvmlite.binding as llvm

READY = b"glulam llvm 1\n"
LONGEST = 1 << 30  # bytes of a message

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
    """The next message; None at the end of the stream, even if it comes within a message, and for one too long."""
    head = stream.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        return None
    (length,) = _LENGTH.unpack(head)
    if length > LONGEST:
        return None
    message = stream.read(length)
    return message if len(message) == length else None


def serve(requests: IO[bytes], answers: IO[bytes]) -> None:
    """Answer all requests, until there are no more."""
    first = receive(requests)
    if first is None:
        return
    triple, cpu, features = first.decode().split("\0")
    machine = target_machine(triple, cpu, features)
    answers.write(READY)
    answers.flush()
    while (text := receive(requests)) is not None:
        try:
            answer = b"+" + object_code(text.decode(), machine)
        except RuntimeError as error:
            answer = b"-" + str(error).encode()
        send(answers, answer)


def _answers() -> IO[bytes]:
    descriptor = int(sys.argv[1]) if len(sys.argv) > 1 else os.dup(1)
    os.dup2(2, 1)
    return os.fdopen(descriptor, "wb")


@cache
def _initialise() -> None:
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()


if __name__ == "__main__":
    serve(sys.stdin.buffer, _answers())
