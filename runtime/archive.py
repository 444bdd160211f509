"""Archives of object files, one after the other, in the `ar` format that binutils, LLVM and others read.

::

    "!<arch>\\n", then for each member a header of 60 bytes, its name, padded with zeros to a multiple of 8, and its
    contents, padded with a newline to an even length

The header says "#1/" and the length of the name, the date, owner, group and mode (always the same here), and the length
of name and contents, all as text (4.4BSD's form of long names).
"""

from __future__ import annotations

from collections.abc import Mapping

from glulam.runtime.errors import ArtifactError

_MAGIC = b"!<arch>\n"
_HEADER = 60
_END = b"`\n"
_LONG_NAME = b"#1/"


def pack(members: Mapping[str, bytes]) -> bytes:
    """The archive of these members, in order."""
    parts = [_MAGIC]
    for name, contents in members.items():
        label = name.encode()
        label += b"\0" * (-len(label) % 8)
        size = len(label) + len(contents)
        fields = ((f"#1/{len(label)}", 16), ("0", 12), ("0", 6), ("0", 6), ("644", 8), (str(size), 10))
        head = "".join(text.ljust(width) for text, width in fields).encode() + _END
        parts += [head, label, contents, b"\n" * (size % 2)]
    return b"".join(parts)


def is_archive(code: bytes) -> bool:
    return code.startswith(_MAGIC)


def unpack(code: bytes) -> dict[str, bytes]:
    """The members by name. Raises ArtifactError if the bytes are no archive as `pack` makes them."""
    if not is_archive(code):
        raise ArtifactError("the object code is no archive")
    members: dict[str, bytes] = {}
    place = len(_MAGIC)
    while place < len(code):
        head, place = code[place : place + _HEADER], place + _HEADER
        if len(head) < _HEADER or not head.startswith(_LONG_NAME) or not head.endswith(_END):
            raise ArtifactError("the object code has no header of a member where one should be; it is damaged")
        try:
            label, size = int(head[len(_LONG_NAME) : 16]), int(head[48:58])
        except ValueError as error:
            raise ArtifactError("the header of a member of the object code is damaged") from error
        if not 0 <= label <= size or place + size > len(code):
            raise ArtifactError("the object code ends within a member; it is truncated")
        name = code[place : place + label].rstrip(b"\0").decode(errors="replace")
        if name in members:
            raise ArtifactError(f"the object code has two members named {name!r}")
        members[name] = code[place + label : place + size]
        place += size + size % 2
    return members
