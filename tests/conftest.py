"""What tests in several folders share."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import surroundings

surroundings.clear(os.environ)
surroundings.hear_signals()


@pytest.fixture
def short_dir() -> Iterator[Path]:
    """A folder whose path leaves room for a Unix socket's name (107 bytes in all)."""
    with tempfile.TemporaryDirectory(prefix="cairn-") as folder:
        yield Path(folder)
