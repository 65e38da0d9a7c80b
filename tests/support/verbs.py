"""Finds pyverbs, the distribution's binding of libibverbs and librdmacm: it is on no package index, and the virtual environment
does not see what the distribution installed."""

from __future__ import annotations

import importlib
import os
import re
import sys
from pathlib import Path
from typing import Any

DIST_PACKAGES = "/usr/lib/python3/dist-packages"
COMPILED_FOR = re.compile(r"\.cpython-(\d)(\d+)-")


def load(name: str) -> Any:
    """A module of pyverbs. The folder of the distribution is searched last, and only while pyverbs is looked for, so that
    nothing else comes from there."""
    sys.path.append(DIST_PACKAGES)
    try:
        return importlib.import_module(f"pyverbs.{name}")
    except ImportError as error:
        raise ImportError(f"{why_not(f'{sys.version_info.major}.{sys.version_info.minor}')} ({error})") from error
    finally:
        sys.path.remove(DIST_PACKAGES)


def why_not(wanted: str, folder: str = DIST_PACKAGES) -> str:
    """Why there is no pyverbs for this Python, and what to do about it."""
    modules = [COMPILED_FOR.search(module.name) for module in Path(folder, "pyverbs").glob("enums.*.so")]
    offered = sorted({f"{found[1]}.{found[2]}" for found in modules if found})
    sentence = f"the tests over RDMA need pyverbs for Python {wanted}"
    if not offered:
        return f"{sentence}: apt-get install python3-pyverbs"
    if wanted in offered:
        return f"{sentence}, and the one that is installed does not load"
    return (
        f"{sentence}, and this system's is for {' and '.join(offered)}: make .venv with that one, "
        f"make clean && make setup PYTHON=/usr/bin/python{offered[-1]}"
    )


def _open_files() -> dict[int, str]:
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:  # the listing's own
            continue
    return found


def with_descriptor(make: Any, kind: str) -> tuple[Any, int]:
    """What `make` returns, and the descriptor that it opened: pyverbs hides it, but without it a wait has no time limit."""
    before = _open_files()
    made = make()
    opened = [fd for fd, target in _open_files().items() if kind in target and before.get(fd) != target]
    assert len(opened) == 1, f"{len(opened)} new descriptors of the kind {kind}"
    return made, opened[0]


if __name__ == "__main__":
    try:
        load("enums")
    except ImportError as problem:
        sys.exit(f"verbs: {problem}")
