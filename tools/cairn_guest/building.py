"""Commands whose output is shown when they fail, and steps that are left out while their input is the same."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
COMMAND_SECONDS_MOST = 3600  # compiling, on a busy machine
LOG_LINES_SHOWN = 30


class BuildError(Exception):
    """The machine could not be made; the sentence says why."""


class NoProgramError(BuildError):
    """A program is missing that is needed for it."""


def say(sentence: str) -> None:
    sys.stderr.write(f"guest: {sentence}\n")
    sys.stderr.flush()


def run(log: Path, *words: str | Path) -> None:
    """Its output goes behind `log`; the end of that is shown when it fails."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        try:
            status = subprocess.run(
                list(map(str, words)),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                timeout=COMMAND_SECONDS_MOST,
                check=False,
            ).returncode
        except FileNotFoundError:
            raise NoProgramError(f"there is no {words[0]}") from None
        except subprocess.TimeoutExpired:
            raise BuildError(f"{words[0]} took longer than {COMMAND_SECONDS_MOST} s; its output: {log}") from None
    if status != 0:
        lines = log.read_text(errors="replace").splitlines()[-LOG_LINES_SHOWN:]
        sys.stderr.write("".join(f"  {line}\n" for line in lines))
        raise BuildError(f"{words[0]} ended with {status}; all of its output: {log}")


def digest_of(parts: Iterable[str | Path]) -> str:
    """Of words, and of the content of files and of whole folders."""
    total = hashlib.sha256()
    for part in parts:
        files = [part] if isinstance(part, str) or part.is_file() else sorted(part.rglob("*"))
        for file in files:
            if isinstance(file, str):
                total.update(file.encode() + b"\0")
            elif file.is_file() and "__pycache__" not in file.parts:
                total.update(str(file.relative_to(ROOT)).encode() + b"\0" + file.read_bytes() + b"\0")
    return total.hexdigest()


def step(name: str, stamp: Path, inputs: Iterable[str | Path], make: Callable[[], None]) -> bool:
    """Calls `make` unless it was called with these inputs before; whether it did. The stamp is written last, so that what was begun and
    not ended is begun again."""
    digest = digest_of(inputs)
    if stamp.exists() and stamp.read_text() == digest:
        return False
    say(f"making {name}")
    stamp.unlink(missing_ok=True)
    begun = time.monotonic()
    make()
    stamp.parent.mkdir(parents=True, exist_ok=True)
    stamp.write_text(digest)
    say(f"made {name} in {time.monotonic() - begun:.0f} s")
    return True
