"""What `--drive` says: a path, and perhaps the size of a file to create there."""

import os
from dataclasses import dataclass

from cairn_dpu.quantities import Bytes, parse_size, show_size


@dataclass(frozen=True, slots=True)
class DriveSpec:
    """One `--drive`: a path, and the size of the file to create there (None: it must exist)."""

    path: str
    create_bytes: Bytes | None = None

    def __str__(self) -> str:
        return self.path if self.create_bytes is None else f"{self.path}:{show_size(self.create_bytes)}"


def parse_drive(text: str) -> DriveSpec:
    """`PATH` or `PATH:SIZE`. A colon inside the path is fine (/dev/disk/by-path/…): only a number with a unit after the
    last colon is a size. Raises ValueError with a sentence."""
    path, create_bytes = text, None
    head, _, size = text.rpartition(":")
    if head and size[:1].isdigit() and size[-1:].isalpha():
        try:
            path, create_bytes = head, parse_size(size)
        except ValueError:
            path = text
        if create_bytes == 0:
            raise ValueError(f"'{text}': a drive has more than 0 bytes")
    if not path:
        raise ValueError("a drive needs a path, such as /dev/nvme0n1 or /var/lib/cairn/drive:64GiB")
    if "\0" in path:
        raise ValueError("a path holds no NUL byte")
    return DriveSpec(os.path.abspath(path), create_bytes)
