"""Replays traces of requests against eviction policies: what each finds, and what it writes to the drive for that.

    python tools/policy_sim.py                                        the tables of docs/decisions/0005-eviction.md
    python tools/policy_sim.py --part sizes --trace conversation      without the sweep, one trace
    python tools/policy_sim.py --requests 1000 -o json                for scripts

A request names its blocks in order. The leading ones that are held are delivered. Of the others, those that are held all the
same are answered `exists`, and the missing ones are put. Blocks are all of one size, as in the traces.

  prefix hits           blocks delivered / block references
  block hits            blocks delivered or answered `exists` / block references
  writes per reference  blocks written to the drive (put, or written again) / block references
  write amplification   blocks written to the drive / blocks put; what headers and summaries cost is not in it

"segments" is our store; its percent and hits are `reinsert_percent` and `reinsert_hits_least`. "2nd touch" is the admission
dial: a block is taken when it is offered for the second time. All others give up single blocks. FIFO and the queues of S3-FIFO
can be logs, so what S3-FIFO moves is written again. LRU and SIEVE need a drive on which every block can be overwritten
where it lies: their write amplification is 1 because they are given one.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from cairn_policies import Fifo, Lru, Policy, S3Fifo, SegmentFifo, Sieve
from cairnkv.traces import SYNTHETIC, Request, TraceError, TraceFacts, facts, read_trace, select

ENDLESS = sys.maxsize
SEGMENTS = "segments"
SINGLE_BLOCKS: dict[str, Callable[[int], Policy]] = {"FIFO": Fifo, "LRU": Lru, "S3-FIFO": S3Fifo, "SIEVE": Sieve}

# --- replaying -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Choice:
    """A policy with its settings. Those but the last concern segments alone. gather_blocks: None is a segment's worth."""

    base: str
    reinsert_percent: int = 0
    hits_least: int = 1
    segment_blocks: int = 64
    gather_blocks: int | None = None
    second_touch: bool = False

    @property
    def name(self) -> str:
        hits = f", {self.hits_least} hit{'s' if self.hits_least > 1 else ''}" if self.reinsert_percent else ""
        segments = f", {self.reinsert_percent} %{hits}" if self.base == SEGMENTS else ""
        return f"{self.base}{segments}{', 2nd touch' if self.second_touch else ''}"

    def make(self, size_blocks: int) -> Policy:
        if self.base == SEGMENTS:
            return SegmentFifo(
                size_blocks, self.segment_blocks, self.reinsert_percent, self.hits_least, self.gather_blocks
            )
        return SINGLE_BLOCKS[self.base](size_blocks)


CHOICES = (
    Choice("FIFO"),
    Choice(SEGMENTS),
    Choice(SEGMENTS, 2, 1),
    Choice(SEGMENTS, 4, 2),
    Choice(SEGMENTS, 4, 3),
    Choice("LRU"),
    Choice("S3-FIFO"),
    Choice("SIEVE"),
    Choice(SEGMENTS, 2, 1, second_touch=True),
    Choice("LRU", second_touch=True),
)
SWEEP_SIZE_PERCENT = 20.0
SWEEP_REINSERT_PERCENT = (0, 1, 2, 3, 4, 5, 10, 25, 100)
SWEEP_SEGMENT_BLOCKS = (8, 64, 512)
SWEEP_HITS_LEAST = (1, 2, 3)


@dataclass(frozen=True, slots=True)
class Counts:
    """What became of the references of a trace."""

    references: int
    delivered_blocks: int
    existing_blocks: int
    put_blocks: int
    rewritten_blocks: int

    @property
    def ratios(self) -> dict[str, float]:
        written = self.put_blocks + self.rewritten_blocks
        return {
            "prefix_hit_ratio": self.delivered_blocks / max(self.references, 1),
            "block_hit_ratio": (self.delivered_blocks + self.existing_blocks) / max(self.references, 1),
            "writes_per_reference": written / max(self.references, 1),
            "write_amplification": written / self.put_blocks if self.put_blocks else 1.0,
        }


def replay(requests: Iterable[Request], policy: Policy, *, second_touch: bool = False) -> Counts:
    references = delivered = existing = put = 0
    offered: set[int] = set()
    for request in requests:
        blocks = request.blocks
        leading = next((at for at, block in enumerate(blocks) if block not in policy), len(blocks))
        for block in blocks[:leading]:
            policy.use(block)
        for block in blocks[leading:]:
            if block in policy:
                policy.exists(block)
                existing += 1
            elif second_touch and block not in offered:
                offered.add(block)
            else:
                policy.put(block)
                put += 1
        references += len(blocks)
        delivered += leading
    return Counts(references, delivered, existing, put, policy.rewritten_blocks)


@dataclass(frozen=True, slots=True)
class Result:
    """One policy on one trace at one size. size_percent: of the trace's different blocks; None: endless."""

    trace: str
    part: str
    choice: Choice
    size_percent: float | None
    size_blocks: int
    counts: Counts

    def as_json(self) -> dict[str, object]:
        return {
            "trace": self.trace,
            "part": self.part,
            "policy": self.choice.name,
            "size_percent": self.size_percent,
            "size_blocks": None if self.size_percent is None else self.size_blocks,
            **(dataclasses.asdict(self.choice) if self.choice.base == SEGMENTS else {"base": self.choice.base}),
            "second_touch": self.choice.second_touch,
            **dataclasses.asdict(self.counts),
            **self.counts.ratios,
        }


@dataclass(frozen=True, slots=True)
class Trace:
    name: str
    requests: Sequence[Request]
    facts: TraceFacts

    def measure(self, part: str, choice: Choice, size_percent: float | None) -> Result:
        size = ENDLESS if size_percent is None else max(1, int(self.facts.unique * size_percent / 100))
        counts = replay(self.requests, choice.make(size), second_touch=choice.second_touch)
        return Result(self.name, part, choice, size_percent, size, counts)


def measure_sizes(
    trace: Trace, sizes_percent: Sequence[float | None], segment_blocks: int, gather_blocks: int | None
) -> Iterator[Result]:
    for choice in CHOICES:
        for size_percent in sizes_percent:
            sized = dataclasses.replace(choice, segment_blocks=segment_blocks, gather_blocks=gather_blocks)
            yield trace.measure("sizes", sized, size_percent)


def measure_sweep(trace: Trace, gather_blocks: int | None) -> Iterator[Result]:
    for segment_blocks in SWEEP_SEGMENT_BLOCKS:
        for hits_least in SWEEP_HITS_LEAST:
            for reinsert_percent in SWEEP_REINSERT_PERCENT:
                choice = Choice(SEGMENTS, reinsert_percent, hits_least, segment_blocks, gather_blocks)
                yield trace.measure("sweep", choice, SWEEP_SIZE_PERCENT)


# --- showing ---------------------------------------------------------------------------------------------

FIGURES = {
    "prefix_hit_ratio": "prefix hits",
    "block_hit_ratio": "block hits",
    "writes_per_reference": "writes per reference",
    "write_amplification": "write amplification",
}


def pivot(corner: str, cells: Iterable[tuple[str, str, float]]) -> str:
    """A table in Markdown from (row, column, value), in the order in which they first come."""
    rows: dict[str, dict[str, str]] = {}
    for row, column, value in cells:
        rows.setdefault(row, {})[column] = f"{value:.4f}"
    heads = list(dict.fromkeys(column for row in rows.values() for column in row))
    lines = [[corner, *heads], ["---", *("---:" for _ in heads)]]
    lines += [[name, *(row.get(head, "") for head in heads)] for name, row in rows.items()]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def size_head(result: Result) -> str:
    return "endless" if result.size_percent is None else f"{result.size_percent:g} %"


def tables(trace: Trace, results: Sequence[Result]) -> Iterator[str]:
    sized = [one for one in results if one.part == "sizes"]
    for figure, title in FIGURES.items() if sized else ():
        cells = [(one.choice.name, size_head(one), one.counts.ratios[figure]) for one in sized]
        yield f"**{trace.name}, {title}**\n\n{pivot('policy', cells)}\n"
    swept = [one for one in results if one.part == "sweep"]
    for figure in ("prefix_hit_ratio", "write_amplification") if swept else ():
        cells = [
            (
                f"{one.choice.segment_blocks} blocks, hits ≥ {one.choice.hits_least}",
                f"{one.choice.reinsert_percent} %",
                one.counts.ratios[figure],
            )
            for one in swept
        ]
        title = f"{trace.name}, segments at {SWEEP_SIZE_PERCENT:g} %, {FIGURES[figure]} by `reinsert_percent`"
        yield f"**{title}**\n\n{pivot('segment', cells)}\n"


def facts_line(trace: Trace) -> str:
    known = trace.facts
    return f"{trace.name}: {known.requests:,} requests, {known.references:,} references, {known.unique:,} different blocks\n\n"


# --- the command -----------------------------------------------------------------------------------------


def sizes(text: str) -> tuple[float | None, ...]:
    try:
        found = tuple(None if word == "inf" else float(word) for word in text.split(","))
    except ValueError:
        found = (0.0,)
    if not all(size is None or 0 < size <= 100 for size in found):
        raise argparse.ArgumentTypeError(
            f"{text!r}: expected percents above 0 and up to 100, or inf, with commas between"
        )
    return found


def whole(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number")
    return int(text)


def positive(text: str) -> int:
    if whole(text) == 0:
        raise argparse.ArgumentTypeError("0: expected 1 or more")
    return int(text)


def parse_arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--trace",
        action="append",
        help=f"a trace file, `-`, 'conversation' or '{SYNTHETIC}'; may be repeated (default: the two that have a name)",
    )
    parser.add_argument("--start", type=whole, default=0, help="requests to leave out at the beginning")
    parser.add_argument("--requests", type=positive, help="at most so many requests (default: all)")
    parser.add_argument(
        "--sizes",
        type=sizes,
        default="1,5,10,20,50,inf",
        help="sizes in percent of the trace's different blocks, or inf (default: %(default)s)",
    )
    parser.add_argument(
        "--segment-blocks",
        type=positive,
        default=64,
        help="blocks in a segment, but for the sweep (default: %(default)s); fewer where 8 would not fit",
    )
    parser.add_argument(
        "--gather-blocks", type=positive, help="how much of the budget for reinsertion may gather (default: a segment)"
    )
    parser.add_argument("--part", choices=("all", "sizes", "sweep"), default="all", help="what is measured")
    parser.add_argument("-o", "--output", choices=("table", "json"), default="table")
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> int:
    arguments = parse_arguments(words)
    everything: list[dict[str, object]] = []
    for name in arguments.trace or ["conversation", SYNTHETIC]:
        try:
            requests = select(read_trace(name), arguments.start, arguments.requests)
        except TraceError as error:
            sys.stderr.write(f"policy_sim: {error}\n")
            return 2
        trace = Trace(name, requests, facts(requests))
        results: list[Result] = []
        if arguments.part != "sweep":
            results += measure_sizes(trace, arguments.sizes, arguments.segment_blocks, arguments.gather_blocks)
        if arguments.part != "sizes":
            results += measure_sweep(trace, arguments.gather_blocks)
        everything += [one.as_json() for one in results]
        if arguments.output == "table":
            sys.stdout.write(facts_line(trace))
            sys.stdout.writelines(tables(trace, results))
    if arguments.output == "json":
        sys.stdout.write(json.dumps({"results": everything}, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
