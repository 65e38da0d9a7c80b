"""Kinds of settings: how a value is read from text, and shown again."""

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cairn_dpu.quantities import Bytes, Milliseconds, parse_duration, parse_size, show_duration, show_size


@dataclass(frozen=True, slots=True)
class Kind:
    """How a value is read from text and shown again. `parse` raises ValueError with a sentence."""

    metavar: str
    parse: Callable[[str], Any]
    show: Callable[[Any], str] = str
    toml: type = str  # the TOML type that may stand for the text
    separator: str = ","  # between the values of a repeatable setting in the environment


def count(least: int, most: int) -> Kind:
    """A whole number in that range."""

    def parse(text: str) -> int:
        if not (text.isascii() and text.isdigit() and least <= int(text) <= most):
            raise ValueError(f"'{text}' is not a whole number from {least} to {most}")
        return int(text)

    return Kind("N", parse, str, int)


def choice(*words: str) -> Kind:
    """One of the words."""

    def parse(text: str) -> str:
        if text not in words:
            raise ValueError(f"'{text}' is not one of {', '.join(words)}")
        return text

    return Kind("|".join(words), parse)


def size(least: int, *, or_none: bool = False) -> Kind:
    """At least so many bytes; with `or_none` also 0."""

    def parse(text: str) -> Bytes:
        size = parse_size(text)
        if size < least and not (or_none and size == 0):
            raise ValueError(f"'{text}' is too small; the least is {show_size(least)}")
        return size

    return Kind("SIZE", parse, show_size)


def duration(least_ms: int, most_ms: int | None = None) -> Kind:
    """From so long to so long."""

    def parse(text: str) -> Milliseconds:
        duration = parse_duration(text)
        if duration < least_ms:
            raise ValueError(f"'{text}' is too short; the least is {show_duration(least_ms)}")
        if most_ms is not None and duration > most_ms:
            raise ValueError(f"'{text}' is too long; the most is {show_duration(most_ms)}")
        return duration

    return Kind("DURATION", parse, show_duration)


def _parse_flag(text: str) -> bool:
    if text.lower() in ("true", "yes", "on", "1"):
        return True
    if text.lower() in ("false", "no", "off", "0"):
        return False
    raise ValueError(f"'{text}' is neither true nor false")


def _parse_uuid(text: str) -> uuid.UUID | None:
    try:
        return uuid.UUID(text) if text else None
    except ValueError:
        raise ValueError(f"'{text}' is not a UUID, such as {uuid.UUID(int=0)}") from None


def _parse_path(text: str) -> Path:
    if not text:
        raise ValueError("the path is empty")
    return Path(text).absolute()


SWITCH = Kind("BOOL", _parse_flag, lambda value: str(value).lower(), bool)
FILE = Kind("PATH", _parse_path)
IDENTITY = Kind("UUID", _parse_uuid, lambda value: "" if value is None else str(value))
