"""What callers pass, checked: a value, or a UsageError that says what was given and what is right."""

from typing import Any

from cairnkv.errors import UsageError

TEXT_BYTES_MOST = 256


def shown(value: Any) -> str:
    """The value, short, for a sentence; whatever it is."""
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    try:
        text = f"{value!r:.60}"
    except Exception:  # whatever a caller's __repr__ raises
        text = "that does not show itself"
    return f"{type(value).__name__} {text}"


def number(name: str, value: Any, least: int, most: int) -> int:
    """A whole number; True is none."""
    if type(value) is not int or not least <= value <= most:
        raise UsageError(f"{name} is a number from {least} to {most}, not {shown(value)}")
    return value


def text(name: str, value: Any, bytes_most: int = TEXT_BYTES_MOST) -> str:
    """Text that goes over the wire."""
    if not isinstance(value, str):
        raise UsageError(f"{name} is text (str), not {shown(value)}")
    try:
        encoded = value.encode()
    except UnicodeEncodeError:
        raise UsageError(f"{name} is valid Unicode, not {shown(value)}") from None
    if len(encoded) > bytes_most:
        raise UsageError(f"{name} has at most {bytes_most} bytes, not {len(encoded)}")
    return value


def flag(name: str, value: Any) -> bool:
    """True or False, and nothing that only counts as one."""
    if type(value) is not bool:
        raise UsageError(f"{name} is True or False, not {shown(value)}")
    return value
