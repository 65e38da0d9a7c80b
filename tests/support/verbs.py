"""Finds pyverbs, the distribution's binding of libibverbs and librdmacm: it is on no package index, and the virtual environment
does not see what the distribution installed."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

DIST_PACKAGES = "/usr/lib/python3/dist-packages"


def load(name: str) -> Any:
    """A module of pyverbs. The folder of the distribution is searched last, and only while pyverbs is looked for, so that
    nothing else comes from there."""
    sys.path.append(DIST_PACKAGES)
    try:
        return importlib.import_module(f"pyverbs.{name}")
    except ImportError as error:
        wanted = f"{sys.version_info.major}.{sys.version_info.minor}"
        raise ImportError(
            f"the tests over RDMA need pyverbs for Python {wanted}: apt-get install python3-pyverbs ({error})"
        ) from error
    finally:
        sys.path.remove(DIST_PACKAGES)


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
