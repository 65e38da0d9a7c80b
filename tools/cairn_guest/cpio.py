"""An archive that the kernel unpacks into its first root: cpio in the form `newc`. The same input makes the same bytes."""

from __future__ import annotations

import stat
from collections.abc import Mapping

TRAILER = "TRAILER!!!"


def member(number: int, name: str, mode: int, content: bytes) -> bytes:
    fields = (number, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name) + 1, 0)
    head = b"070701" + b"".join(b"%08X" % field for field in fields) + name.encode() + b"\0"
    return padded(head) + padded(content)


def padded(part: bytes) -> bytes:
    return part + b"\0" * (-len(part) % 4)


def archive(programs: Mapping[str, bytes], files: Mapping[str, bytes]) -> bytes:
    """The folders of all names, then the programs (mode 755), then the files (mode 644)."""
    folders = {
        "/".join(name.split("/")[:depth]) for name in (*programs, *files) for depth in range(1, name.count("/") + 1)
    }
    members = [(name, stat.S_IFDIR | 0o755, b"") for name in sorted(folders)]
    members += [(name, stat.S_IFREG | 0o755, content) for name, content in sorted(programs.items())]
    members += [(name, stat.S_IFREG | 0o644, content) for name, content in sorted(files.items())]
    members.append((TRAILER, 0, b""))
    return b"".join(member(number, *each) for number, each in enumerate(members, 1))
