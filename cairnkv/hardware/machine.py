"""What the kernel tells of a machine, below a root: `/`, or a small tree that a test made."""

import os
from pathlib import Path


class Machine:
    """Reads sysfs and procfs. What is not there, or not for us to read, is None: every caller has to say what that means."""

    def __init__(self, root: Path = Path("/")) -> None:
        self.root = root

    def path(self, path: str) -> Path:
        """Where `path`, written from the machine's own root, is for us."""
        return self.root / path.lstrip("/")

    def exists(self, path: str) -> bool:
        """Whether there is such a file or folder."""
        return self.path(path).exists()

    def data(self, path: str) -> bytes | None:
        """All of a file."""
        try:
            return self.path(path).read_bytes()
        except OSError:  # absent, unreadable, or a device that is just going away: the caller says which it may be
            return None

    def text(self, path: str) -> str | None:
        """A file as a line of text, without what surrounds it."""
        data = self.data(path)
        return None if data is None else data.decode(errors="replace").strip()

    def number(self, path: str) -> int | None:
        """A file that begins with a whole number, decimal or 0x…."""
        words = (self.text(path) or "").split()
        try:
            return int(words[0], 0) if words else None
        except ValueError:
            return None

    def names(self, folder: str) -> list[str]:
        """What a folder holds, in the order in which a person counts: nvme2 before nvme10."""
        try:
            found = os.listdir(self.path(folder))
        except OSError:
            return []
        return sorted(found, key=_counted)

    def resolve(self, path: str) -> str | None:
        """Where a link leads, written from the machine's own root; None where there is nothing."""
        target = self.path(path)
        if not target.exists():
            return None
        return "/" + str(target.resolve().relative_to(self.root.resolve()))


def _counted(name: str) -> list[tuple[int, str]]:
    digits, words = "", []
    for letter in name + " ":
        if letter.isdigit():
            digits += letter
            continue
        if digits:
            words.append((int(digits), ""))
            digits = ""
        words.append((-1, letter))
    return words
