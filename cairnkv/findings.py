"""One line of what `cairn doctor` found, and the four words that it judges by."""

from dataclasses import dataclass

OK, WARN, FAIL, NOT_CHECKED = "ok", "warn", "fail", "not-checked"
LEVELS = (OK, WARN, FAIL, NOT_CHECKED)


@dataclass(frozen=True, slots=True)
class Finding:
    """One line. level: one of LEVELS. advice: what to do, or what to type to find out; empty when nothing."""

    name: str
    level: str
    text: str
    advice: str = ""
