"""Sizes and durations as people write them: `512MiB`, `2GiB`, `2G` (the same, as truncate and qemu-img take it), `30s`,
`500ms`. A unit is always needed, so that nobody
has to guess what `512` meant; only 0 stands without one."""

import re
from typing import NewType

Bytes = NewType("Bytes", int)
Milliseconds = NewType("Milliseconds", int)

SIZE_UNITS = {
    "B": 1,
    "KiB": 1024,
    "MiB": 1024**2,
    "GiB": 1024**3,
    "TiB": 1024**4,
    "K": 1024,
    "M": 1024**2,
    "G": 1024**3,
    "T": 1024**4,
    "kB": 1000,
    "MB": 1000**2,
    "GB": 1000**3,
    "TB": 1000**4,
}
DURATION_UNITS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_BINARY = ("TiB", "GiB", "MiB", "KiB", "B")
_NUMBER = re.compile(r"(\d{1,19})(?:\.(\d{1,6}))?\s*([A-Za-z]*)", re.ASCII)
MOST = 2**63 - 1


def _parse(text: str, units: dict[str, int], noun: str, examples: str) -> int:
    match = _NUMBER.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"'{text}' is not a {noun}; write a number with a unit, such as {examples}")
    whole, fraction, unit = match.group(1), match.group(2) or "", match.group(3)
    if not unit:
        if int(whole + fraction) == 0:
            return 0
        raise ValueError(f"'{text}' has no unit; write for example {examples}")
    scale = next((units[name] for name in units if name.lower() == unit.lower()), None)
    if scale is None:
        raise ValueError(f"'{text}' has the unknown unit '{unit}'; the units are {', '.join(units)}")
    value = int(whole + fraction) * scale // int(10 ** len(fraction))
    if value > MOST:
        raise ValueError(f"'{text}' is too large")
    return value


def parse_size(text: str) -> Bytes:
    """Bytes from text such as `512MiB`, `512M` or `1.6TB` (MiB = M = 1024², MB = 1000²). Raises ValueError with a sentence."""
    return Bytes(_parse(text, SIZE_UNITS, "size", "512MiB or 2GiB"))


def show_size(size: int) -> str:
    """The shortest exact text with a binary unit; `parse_size` gives the same number back."""
    unit = next(name for name in _BINARY if size % SIZE_UNITS[name] == 0) if size else "B"
    return f"{size // SIZE_UNITS[unit]}{unit}"


def describe_size(size: int) -> str:
    """For a person to read, rounded: `1.6 TiB`."""
    unit = next((name for name in _BINARY if size >= SIZE_UNITS[name]), "B")
    value = size / SIZE_UNITS[unit]
    return f"{value:.1f} {unit}" if value != int(value) else f"{int(value)} {unit}"


def parse_duration(text: str) -> Milliseconds:
    """Milliseconds from text such as `30s` or `500ms`. Raises ValueError with a sentence."""
    return Milliseconds(_parse(text, DURATION_UNITS, "duration", "30s or 500ms"))


def show_duration(milliseconds: int) -> str:
    """The shortest exact text; `parse_duration` gives the same number back."""
    if milliseconds == 0:
        return "0"
    unit = next(name for name in reversed(DURATION_UNITS) if milliseconds % DURATION_UNITS[name] == 0)
    return f"{milliseconds // DURATION_UNITS[unit]}{unit}"
