"""Sizes and times as they are typed."""

from __future__ import annotations

import pytest

from cairnkv import UsageError
from cairnkv.quantities import parse_duration, parse_size, show_size


@pytest.mark.parametrize(
    ("text", "expected"),
    [("5", 5), ("500ms", 500), ("30s", 30_000), (" 5 m ", 300_000), ("1h", 3_600_000), ("2d", 172_800_000)],
)
def test_times(text: str, expected: int) -> None:
    assert parse_duration(text) == expected


@pytest.mark.parametrize("text", ["", "0", "0s", "-5s", "1.5s", "5 weeks", "s", "1h30m", "5S"])
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(UsageError, match="is no time; write a positive whole number with a unit, such as 500ms, 30s"):
        parse_duration(text)


def test_sizes() -> None:
    assert parse_size("64KiB") == 65_536 and parse_size("1.5 MB") == 1_500_000
    assert [parse_size(text) for text in ("64K", "512M", "2G", "1T")] == [1 << 16, 1 << 29, 1 << 31, 1 << 40]
    assert show_size(1536) == "1.5 KiB"
    for wrong in ("64", "KiB", "-1KiB", "1 parsec"):
        with pytest.raises(UsageError, match="is no size"):
            parse_size(wrong)
