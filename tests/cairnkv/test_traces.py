"""Reading traces, and what is said when one cannot be read."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import lzma
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cairnkv import UsageError
from cairnkv.traces import (
    Request,
    TraceError,
    facts,
    parse_trace,
    prefix_hit_ratio,
    read_trace,
    select,
    synthetic_trace,
)

LINE = '{"timestamp": 27, "input_length": 1100, "output_length": 5, "hash_ids": [0, 1, 9]}'
REQUEST = Request(27, 1100, 5, (0, 1, 9))
KNOWN_LRU = {1_000: 0.044, 3_000: 0.065, 10_000: 0.211, 30_000: 0.326, 100_000: 0.364}


def request(blocks: list[int], at_ms: float = 0) -> Request:
    return Request(at_ms, 512 * len(blocks), 1, tuple(blocks))


def test_the_known_facts(trace_path: str) -> None:
    requests = read_trace(trace_path)
    found = facts(requests)
    assert (found.requests, found.references, found.unique) == (12_031, 288_500, 182_790)
    assert round(found.span_seconds) == 3_537
    assert round(found.infinite_hit_ratio, 3) == 0.366
    assert {blocks: round(prefix_hit_ratio(requests, blocks), 3) for blocks in KNOWN_LRU} == KNOWN_LRU


@pytest.mark.parametrize("suffix", ["", ".jsonl", ".gz", ".xz"])
def test_plain_and_packed(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"trace{suffix}"
    data = f"{LINE}\n\n{LINE}".encode()
    path.write_bytes({".gz": gzip.compress, ".xz": lzma.compress}.get(suffix, bytes)(data))
    assert read_trace(str(path)) == [REQUEST, REQUEST]


def test_zstd_needs_a_newer_python_or_is_read(tmp_path: Path) -> None:
    path = tmp_path / "trace.zst"
    path.write_bytes(b"")
    if sys.version_info >= (3, 14):
        assert read_trace(str(path)) == []
    else:
        with pytest.raises(TraceError, match="unpack it first"):
            read_trace(str(path))


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(LINE.encode())))
    assert read_trace("-") == [REQUEST]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("{", "not JSON"),
        ("[]", "list found; expected one object with timestamp, input_length, output_length, hash_ids"),
        ("5", "int found"),
        ("[" * 100_000 + "]" * 100_000, "too deep"),
        ('{"hash_ids":' + "[" * 100_000 + "]" * 100_000 + "}", "too deep"),
        (LINE.replace("27", '"noon"'), "'timestamp' is \"noon\"; expected a number that is not negative"),
        (LINE.replace("27", "-1"), "'timestamp' is -1"),
        (LINE.replace("27", "NaN"), "'timestamp' is NaN"),
        (LINE.replace("1100", "true"), "'input_length' is true"),
        (LINE.replace('"output_length": 5, ', ""), "'output_length' is missing"),
        (LINE.replace("[0, 1, 9]", '"0 1 9"'), "'hash_ids' is \"0 1 9\"; expected a list of whole 64-bit numbers"),
        (LINE.replace("[0, 1, 9]", "[0, 1.5]"), "'hash_ids' is [0, 1.5]"),
        (LINE.replace("[0, 1, 9]", "[null]"), "'hash_ids' is [null]"),
        (LINE.replace("[0, 1, 9]", f"[{1 << 64}]"), "'hash_ids' is [18446744073709551616]"),
        (LINE.replace(', "hash_ids": [0, 1, 9]', ""), "'hash_ids' is missing"),
    ],
)
def test_a_line_that_is_wrong_is_named(tmp_path: Path, line: str, told: str) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_text(f"{LINE}\n\n{line}\n")
    with pytest.raises(TraceError) as caught:
        read_trace(str(path))
    assert str(caught.value).startswith(f"{path}, line 3: ") and told in str(caught.value)
    assert isinstance(caught.value, UsageError)


@given(st.text(max_size=200))
def test_no_line_is_worse_than_an_error(line: str) -> None:
    with contextlib.suppress(TraceError):
        list(parse_trace([line], "any"))


def test_a_byte_order_mark_is_no_part_of_a_trace(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + LINE.encode() + b"\n")
    assert read_trace(str(path)) == [REQUEST]


@pytest.mark.parametrize("suffix", [".gz", ".xz"])
def test_damage_anywhere_in_a_packed_trace_is_an_error(tmp_path: Path, suffix: str) -> None:
    pack = gzip.compress if suffix == ".gz" else lzma.compress
    whole = pack((LINE + "\n").encode() * 50)
    path = tmp_path / f"trace.jsonl{suffix}"
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        with contextlib.suppress(TraceError):  # some bytes, such as the time in the header, change nothing
            assert len(read_trace(str(path))) == 50
        path.write_bytes(whole[:at])
        with contextlib.suppress(TraceError):
            assert read_trace(str(path)) == []


def test_files_that_are_no_traces(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="cannot read the trace /nonexistent: No such file"):
        read_trace("/nonexistent")
    with pytest.raises(TraceError, match="cannot read the trace .*: Is a directory"):
        read_trace(str(tmp_path))
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(TraceError, match="is not text"):
        read_trace(str(binary))
    for suffix, data in ((".gz", b"not gzip"), (".xz", b"not xz"), (".gz", gzip.compress(LINE.encode())[:-5])):
        torn = tmp_path / f"torn{suffix}"
        torn.write_bytes(data)
        with pytest.raises(TraceError, match="cannot read the trace"):
            read_trace(str(torn))


def test_a_part_of_a_trace() -> None:
    requests = [request([at], at_ms=at * 1000.0) for at in range(10)]
    assert select(requests) == requests
    assert select(requests, start=8) == requests[8:]
    assert select(requests, start=2, count=3) == requests[2:5]
    assert select(requests, start=2, duration_seconds=3) == requests[2:6]
    assert select(requests, start=2, count=2, duration_seconds=100) == requests[2:4]
    assert select(requests, start=99) == []


def test_prefix_hits_by_hand() -> None:
    requests = [request([1, 2, 3]), request([1, 2, 4]), request([9, 2, 3]), request([1, 2, 4])]
    assert prefix_hit_ratio(requests) == (0 + 2 + 0 + 3) / 12
    assert prefix_hit_ratio(requests, 2) == 0
    assert prefix_hit_ratio([]) == 0
    assert facts(requests).unique == 5


@given(st.lists(st.lists(st.integers(0, 20), max_size=6), max_size=20), st.integers(1, 30))
def test_lru_never_beats_a_cache_without_end(blocks: list[list[int]], capacity: int) -> None:
    requests = [request(ids) for ids in blocks]
    assert prefix_hit_ratio(requests, capacity) <= prefix_hit_ratio(requests)
    assert prefix_hit_ratio(requests, 10_000) == prefix_hit_ratio(requests)


def test_the_made_up_trace_is_always_the_same() -> None:
    made = synthetic_trace(500)
    assert made == synthetic_trace(500) != synthetic_trace(500, seed=2)
    assert len(made) == 500 and [one.timestamp_ms for one in made] == sorted(one.timestamp_ms for one in made)
    assert all(json.dumps(one.blocks) for one in made)
    found = facts(read_trace("synthetic"))
    assert found.requests == 12_000 and 0.3 < found.infinite_hit_ratio < 0.5
