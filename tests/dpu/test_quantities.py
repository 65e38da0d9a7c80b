"""Sizes and durations as people write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cairn_dpu.quantities import MOST, describe_size, parse_duration, parse_size, show_duration, show_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("512MiB", 512 * 1024**2),
        ("2GiB", 2 * 1024**3),
        ("2 gib", 2 * 1024**3),
        ("2G", 2 * 1024**3),
        ("512M", 512 * 1024**2),
        ("64k", 65_536),
        ("1.5T", 3 * 1024**4 // 2),
        ("1.5KiB", 1536),
        ("1.6TB", 1_600_000_000_000),
        ("10B", 10),
        ("0", 0),
        (" 4kB ", 4000),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [("30s", 30_000), ("500ms", 500), ("1.5s", 1500), ("2m", 120_000), ("1h", 3_600_000), ("1d", 86_400_000), ("0", 0)],
)
def test_durations(text: str, milliseconds: int) -> None:
    assert parse_duration(text) == milliseconds


@pytest.mark.parametrize(
    "text", ["", "MiB", "512", "-1MiB", "1e3MiB", "12 bananas", "1.MiB", "½GiB", "99999999TiB", "1 2MiB"]
)
def test_bad_sizes_say_what_to_write(text: str) -> None:
    with pytest.raises(ValueError, match=r"MiB|large|units"):
        parse_size(text)


@pytest.mark.parametrize("text", ["", "s", "30", "-1s", "30 parsecs", "5s5s"])
def test_bad_durations_say_what_to_write(text: str) -> None:
    with pytest.raises(ValueError, match=r"30s|units"):
        parse_duration(text)


@given(st.integers(0, MOST))
def test_a_size_shown_reads_back(size: int) -> None:
    assert parse_size(show_size(size)) == size


@given(st.integers(0, 10**15))
def test_a_duration_shown_reads_back(milliseconds: int) -> None:
    assert parse_duration(show_duration(milliseconds)) == milliseconds


@given(st.text(max_size=20))
def test_any_text_is_a_size_or_an_error_with_a_sentence(text: str) -> None:
    try:
        assert 0 <= parse_size(text) <= MOST
    except ValueError as error:
        assert str(error)  # noqa: PT017


def test_described_for_people() -> None:
    assert describe_size(1_600_000_000_000) == "1.5 TiB"
    assert describe_size(64 * 1024**3) == "64 GiB"
    assert describe_size(0) == "0 B"
