"""Sizes and times as people write them on the command line: `64KiB`, `64K`, `30s`."""

import re

from cairnkv.errors import UsageError

UNITS: dict[str, int] = {
    "B": 1,
    "KiB": 1 << 10,
    "MiB": 1 << 20,
    "GiB": 1 << 30,
    "TiB": 1 << 40,
    "K": 1 << 10,
    "M": 1 << 20,
    "G": 1 << 30,
    "T": 1 << 40,
    "kB": 1000,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
}
_SIZE = re.compile(r"(\d{1,15})(?:\.(\d{1,6}))?\s*([A-Za-z]+)", re.ASCII)


def parse_size(text: str) -> int:
    """Bytes. A unit is always needed (MiB = M = 1024², as truncate and qemu-img take it; MB = 1000²). Raises UsageError."""
    found = _SIZE.fullmatch(text.strip())
    unit = next((scale for name, scale in UNITS.items() if found and name.lower() == found.group(3).lower()), None)
    if found is None or unit is None:
        raise UsageError(f"'{text}' is no size; write a number with a unit, such as 64KiB or 1MiB")
    whole, fraction = found.group(1), found.group(2) or ""
    return int(whole + fraction) * unit // int(10 ** len(fraction))


MILLISECONDS: dict[str, int] = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_DURATION = re.compile(r"(\d{1,15})\s*([a-z]*)", re.ASCII)


def parse_duration(text: str) -> int:
    """Milliseconds, at least 1. Without a unit they are what is meant. Raises UsageError."""
    found = _DURATION.fullmatch(text.strip())
    scale = MILLISECONDS.get(found.group(2) or "ms") if found else None
    if found is None or scale is None or int(found.group(1)) == 0:
        raise UsageError(
            f"'{text}' is no time; write a positive whole number with a unit, such as 500ms, 30s, 5m, 1h or 2d"
        )
    return int(found.group(1)) * scale


def show_size(count: int) -> str:
    """For a person, rounded: 64 KiB, 1.5 GiB."""
    value, unit = float(count), "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if value < 1024 or unit == "TiB":
            break
        value /= 1024
    return f"{value:.4g} {unit}"
