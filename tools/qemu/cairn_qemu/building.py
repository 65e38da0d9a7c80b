"""Where the images are built, and how the tool speaks."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NoReturn

from cairn_guest.building import ROOT

HERE = Path(__file__).resolve().parent
BUILD = ROOT / "build" / "qemu"


def say(sentence: str) -> None:
    sys.stderr.write(f"qemu: {sentence}\n")
    sys.stderr.flush()


def stop(sentence: str) -> NoReturn:
    """The end, with a sentence: the machine could not be made or did not come up, which says nothing about the store."""
    say(sentence)
    raise SystemExit(2)
