"""Figures that native programs count: of the store alone, or of more clients than Python could play without measuring itself."""

from __future__ import annotations

import json
import statistics
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from cairn_bench.figures import Figure, Figures
from cairn_bench.services import format_drive, serving
from cairnkv.traces import Request, facts, read_trace

BUILT = Path(__file__).parents[2] / "build" / "native"
MIB = 1 << 20
BLOCKS_LEAST = 10_000_000
GROUP_BLOCKS = 8
TRACE = "conversation"
TRACE_PERCENT = 20
TRACE_BLOCK_BYTES = 1 * MIB
LOOKUP_SESSIONS = 100


def build_programs(names: Sequence[str]) -> None:
    """Compiles what changed of them; what the compiler says goes to stderr. Raises SystemExit where it fails."""
    if names and subprocess.run(["cmake", "--build", str(BUILT), "--target", *names], stdout=2, check=False).returncode:
        raise SystemExit(f"cannot build {', '.join(names)}; the compiler's words are above")


def run_program(name: str, words: Sequence[str], lines: Iterable[str] = (), *, built: Path = BUILT) -> dict[str, Any]:
    """What a program of native/testing prints. It was built before anything was measured, as Group.programs says."""
    path = built / name
    if not path.exists():
        raise SystemExit(f"{path} is not there: cmake --build {built} --target {name}")
    done = subprocess.run([str(path), *words], input="\n".join(lines), stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{name} ended with exit status {done.returncode}")
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def bench_index(folder: Path, drives: Sequence[Path], rounds: int) -> Figures:
    """Counting bytes gives the same number each time: one round."""
    del folder, rounds
    for name, group_blocks in (
        ("index_bytes_per_block", 0),
        (f"index_bytes_per_block_groups_of_{GROUP_BLOCKS}", GROUP_BLOCKS),
    ):
        sparse = drives[0].with_name("sparse")
        words = [str(sparse), "--tb", "0.75", "--block-kib", "64", "--runs", "1", "--group-blocks", str(group_blocks)]
        try:
            counted = run_program("cairn-recovery-bench", words)
        finally:
            sparse.unlink(missing_ok=True)
        if counted["blocks"] < BLOCKS_LEAST:
            raise SystemExit(f"only {counted['blocks']} blocks were counted")
        details = {"at_the_end": round(counted["allocated_bytes_per_block"], 1), "blocks": counted["blocks"]}
        yield name, Figure(round(counted["allocated_bytes_per_block_most"], 1), details)


def bench_wear(folder: Path, drives: Sequence[Path], rounds: int) -> Figures:
    """The trace decides: one round."""
    del folder, drives, rounds
    requests = read_trace(TRACE)
    counted = run_program("cairn-wear-bench", wear_words(requests), (" ".join(map(str, r.blocks)) for r in requests))
    details: dict[str, float | int | str] = {
        "when_full": round(counted["write_amplification_when_full"], 4),
        "prefix_hit_ratio": round(counted["delivered"] / counted["references"], 4),
        "put_gb": round(counted["put_bytes"] / 1e9, 1),
        "moved_gb": round(counted["moved_bytes"] / 1e9, 1),
    }
    yield "write_amplification", Figure(round(counted["write_amplification"], 4), details)


def wear_words(requests: Sequence[Request]) -> list[str]:
    drive_bytes = facts(requests).unique * TRACE_BLOCK_BYTES * TRACE_PERCENT // 100
    return ["--drive-bytes", str(drive_bytes), "--block-kib", str(TRACE_BLOCK_BYTES >> 10)]


def bench_lookup(folder: Path, drives: Sequence[Path], rounds: int) -> Figures:
    format_drive(drives[0])
    with serving(folder, drives[:1], "256MiB") as service:
        runs = [
            run_program("cairn-lookup-bench", [service.urls[0], "--sessions", str(LOOKUP_SESSIONS)])
            for _ in range(rounds)
        ]
    middle = {name: round(statistics.median(run[name] for run in runs), 1) for name in ("p50_us", "p99_us", "most_us")}
    details = {
        "p50_us": middle["p50_us"],
        "most_us": middle["most_us"],
        "sessions": LOOKUP_SESSIONS,
        "keys_a_call": runs[0]["keys"],
        "calls_per_second": round(statistics.median(run["calls_per_second"] for run in runs)),
    }
    yield "lookup_us_p99", Figure(middle["p99_us"], details)
