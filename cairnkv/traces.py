"""Traces of requests to an inference engine: reading them, and what caches of any kind could have made of them. Pure but
for opening the file.

The format is Mooncake's JSONL: one object a line with `timestamp` (ms), `input_length`, `output_length` (tokens) and
`hash_ids`, one id for each 512-token block of the prompt. An id stands for its block together with everything before it, so
equal ids mean equal prefixes.
"""

import gzip
import io
import json
import lzma
import random
import sys
import zlib
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, BinaryIO, cast

from cairnkv.errors import UsageError

BLOCK_TOKENS = 512
SHIPPED = {"conversation": "mooncake_conversation.jsonl.xz"}
SYNTHETIC = "synthetic"
SYNTHETIC_REQUESTS = 12_000
_FIELDS = ("timestamp", "input_length", "output_length", "hash_ids")


class TraceError(UsageError):
    """A trace that cannot be read; the sentence names the file, the line and what was expected there."""


@dataclass(frozen=True, slots=True)
class Request:
    """One request. blocks: the ids of its prompt's blocks, in order."""

    timestamp_ms: float
    input_tokens: int
    output_tokens: int
    blocks: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class TraceFacts:
    """What a trace holds. infinite_hit_ratio: see `prefix_hit_ratio`, with a cache that never evicts."""

    requests: int
    references: int
    unique: int
    span_seconds: float
    infinite_hit_ratio: float


def read_trace(source: str) -> list[Request]:
    """Every request of a trace, in the file's order. Raises TraceError.

    source: a path (plain, .gz, .xz, or .zst where Python can), `-` for standard input, or the name of a trace that is shipped
    (`conversation`) or made up (`synthetic`).
    """
    if source == SYNTHETIC:
        return synthetic_trace()
    name = "standard input" if source == "-" else source
    try:
        with io.TextIOWrapper(_open(source), encoding="utf-8-sig") as lines:
            return list(parse_trace(lines, name))
    except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise TraceError(f"cannot read the trace {name}: {reason}") from None
    except UnicodeDecodeError:
        raise TraceError(f"{name} is not text: a trace is JSON lines in UTF-8 (or that in .gz or .xz)") from None


def shipped(name: str) -> bool:
    """Whether the trace of this name is part of the installation."""
    return name in SHIPPED and (resources.files("cairnkv") / "data" / SHIPPED[name]).is_file()


def parse_trace(lines: Iterable[str], name: str) -> Iterator[Request]:
    """Requests from lines; blank ones are skipped. Raises TraceError."""
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield parse_request(line, f"{name}, line {number}")


def parse_request(line: str, where: str) -> Request:
    """One line. Raises TraceError beginning with `where`."""
    try:
        row = json.loads(line)
    except ValueError as error:
        raise TraceError(f"{where}: not JSON ({error}); expected one object with {', '.join(_FIELDS)}") from None
    except RecursionError:
        raise TraceError(
            f"{where}: lists or objects within one another, too deep; expected one object with {', '.join(_FIELDS)}"
        ) from None
    if not isinstance(row, dict):
        raise TraceError(f"{where}: {type(row).__name__} found; expected one object with {', '.join(_FIELDS)}")
    timestamp = _number(row, "timestamp", where)
    blocks = row.get("hash_ids")
    if not isinstance(blocks, list) or not all(
        type(block) is int and -(1 << 63) <= block < 1 << 64 for block in blocks
    ):
        raise TraceError(f"{where}: 'hash_ids' is {_shown(row, 'hash_ids')}; expected a list of whole 64-bit numbers")
    return Request(
        timestamp, int(_number(row, "input_length", where)), int(_number(row, "output_length", where)), tuple(blocks)
    )


def select(
    requests: Sequence[Request], start: int = 0, count: int | None = None, duration_seconds: float | None = None
) -> list[Request]:
    """A part of a trace: from request number `start` on, at most so many, and at most so long in the trace's own time."""
    part = list(requests[start : None if count is None else start + count])
    if duration_seconds is not None and part:
        until_ms = part[0].timestamp_ms + duration_seconds * 1000
        part = [request for request in part if request.timestamp_ms <= until_ms]
    return part


def facts(requests: Sequence[Request]) -> TraceFacts:
    """Counts of a trace or a part of one."""
    unique = {block for request in requests for block in request.blocks}
    times = [request.timestamp_ms for request in requests]
    return TraceFacts(
        requests=len(requests),
        references=sum(len(request.blocks) for request in requests),
        unique=len(unique),
        span_seconds=(max(times) - min(times)) / 1000 if times else 0.0,
        infinite_hit_ratio=prefix_hit_ratio(requests),
    )


def prefix_hit_ratio(requests: Iterable[Request], capacity_blocks: int | None = None) -> float:
    """Blocks of leading prefixes that were present, over all references: what a cache of so many blocks with LRU eviction
    (None: without eviction) finds when each request looks up its longest cached prefix and then stores all its blocks."""
    cache: OrderedDict[int, None] = OrderedDict()
    hits = references = 0
    for request in requests:
        references += len(request.blocks)
        hits += next((at for at, block in enumerate(request.blocks) if block not in cache), len(request.blocks))
        for block in request.blocks:
            cache[block] = None
            cache.move_to_end(block)
        while capacity_blocks is not None and len(cache) > capacity_blocks:
            cache.popitem(last=False)
    return hits / references if references else 0.0


def synthetic_trace(requests: int = SYNTHETIC_REQUESTS, seed: int = 1) -> list[Request]:
    """A made-up hour of chat, the same for the same arguments: users who return with a longer prompt, and a system prompt that
    all share. It resembles the shipped trace in size and in how much is reused, and is evidence of nothing."""
    dice = random.Random(seed)  # noqa: S311
    made: list[Request] = []
    next_id = 1
    while len(made) < requests:
        at_ms = dice.uniform(0, 3_300_000)
        prompt: list[int] = [0]
        while True:
            fresh = 1 + int(dice.lognormvariate(2.25, 0.95))
            prompt += range(next_id, next_id + fresh)
            next_id += fresh
            made.append(Request(at_ms, len(prompt) * BLOCK_TOKENS, 1 + int(dice.expovariate(1 / 340)), tuple(prompt)))
            at_ms += dice.expovariate(1 / 160_000)
            if dice.random() < 0.60 or len(prompt) > 250:
                break
    made = made[:requests]
    made.sort(key=lambda request: request.timestamp_ms)
    return made


def _open(source: str) -> BinaryIO:
    if source == "-":
        return sys.stdin.buffer
    if source in SHIPPED and not Path(source).exists():
        if not shipped(source):
            raise TraceError(
                f"the trace '{source}' is not part of this installation; give the path of a trace file, or '{SYNTHETIC}'"
            )
        packed = io.BytesIO((resources.files("cairnkv") / "data" / SHIPPED[source]).read_bytes())
        return cast("BinaryIO", lzma.open(packed))
    suffix = Path(source).suffix
    if suffix == ".gz":
        return cast("BinaryIO", gzip.open(source))
    if suffix == ".xz":
        return cast("BinaryIO", lzma.open(source))
    if suffix == ".zst":
        return _open_zstd(source)
    return Path(source).open("rb")


def _open_zstd(source: str) -> BinaryIO:
    try:
        from compression import zstd  # type: ignore[import-not-found, unused-ignore]  # Python 3.14
    except ImportError:
        raise TraceError(f"this Python cannot read {source}: unpack it first (zstd -d), or use Python 3.14") from None
    return cast("BinaryIO", zstd.open(source))


def _number(row: dict[str, Any], name: str, where: str) -> float:
    value = row.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e15:
        raise TraceError(f"{where}: '{name}' is {_shown(row, name)}; expected a number that is not negative")
    return value


def _shown(row: dict[str, Any], name: str) -> str:
    return f"{json.dumps(row[name]):.40}" if name in row else "missing"
