"""What the benchmark programs share: groups of figures, chosen by word, told as they come, and one JSON object at the end."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cairn_bench.figures import Figures
from cairn_bench.programs import build_programs

TICK_SECONDS = 30
FAILED = 1
INTERRUPTED = 130


@dataclass(frozen=True)
class Group:
    """measure: given a folder with a short path for sockets, the drives, and how many rounds; yields each figure when it has it. programs:
    what it runs of build/native, which is built before anything is measured."""

    measure: Callable[[Path, Sequence[Path], int], Figures]
    drives: int = 1
    programs: tuple[str, ...] = ()


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


@contextlib.contextmanager
def ticking(name: str) -> Iterator[None]:
    """A line now and then while the block runs: a person sees that it does."""
    began, ended = time.monotonic(), threading.Event()

    def tick() -> None:
        while not ended.wait(TICK_SECONDS):
            say(f"  … {name} {time.monotonic() - began:.0f} s")

    thread = threading.Thread(target=tick, name="tick", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def measure(
    groups: Mapping[str, Group], chosen: Sequence[str], drives: Sequence[Path], rounds: int
) -> tuple[dict[str, float], list[str], bool]:
    """(the values of all figures that were measured, a sentence for each group that failed, whether it was interrupted). A group that fails
    costs what it had not measured yet, and no other group anything."""
    values: dict[str, float] = {}
    failed: list[str] = []
    with tempfile.TemporaryDirectory(prefix="cb-") as short:
        for number, name in enumerate(chosen, 1):
            group, began = groups[name], time.monotonic()
            say(f"[{number}/{len(chosen)}] {name}")
            try:
                with ticking(name):
                    for figure, found in group.measure(Path(short), drives[: group.drives], rounds):
                        say(f"  {figure:40} {found.value:<10} {json.dumps(found.details)}")
                        values[figure] = found.value
            except KeyboardInterrupt:
                failed.append(f"{name}: interrupted")
                return values, failed, True
            except (Exception, SystemExit) as error:
                failed.append(f"{name}: {error if isinstance(error, SystemExit) else repr(error)}")
                say(f"  FAILED: {failed[-1]}")
            say(f"  {name}: {time.monotonic() - began:.0f} s")
    return values, failed, False


def run_groups(
    description: str,
    groups: Mapping[str, Group],
    make_drives: Callable[[argparse.Namespace, int], Sequence[Path]],
    add_options: Callable[[argparse.ArgumentParser], None] | None = None,
    *,
    may_build: bool = True,
) -> int:
    """A whole program; its exit status. make_drives is given its options, and how many drives the chosen groups need at most. may_build: not
    where somebody built the programs before, with --build-only."""

    def words_of(text: str) -> list[str]:
        unknown = set(text.split(",")) - groups.keys()
        if unknown:
            raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown))}: expected some of {', '.join(groups)}")
        return [name for name in groups if name in text.split(",")]

    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", type=words_of, default=list(groups), help="which groups to run, with commas between")
    parser.add_argument("--build-only", action="store_true", help="compile what the groups run, and measure nothing")
    if add_options is not None:
        add_options(parser)
    options = parser.parse_args()
    if may_build or options.build_only:
        build_programs(sorted({program for name in options.only for program in groups[name].programs}))
    if options.build_only:
        return 0
    say("preparing drives")
    drives = make_drives(options, max(groups[name].drives for name in options.only))
    values, failed, interrupted = measure(groups, options.only, drives, options.rounds)
    for sentence in failed:
        say(f"FAILED: {sentence}")
    print(json.dumps(values), flush=True)
    return INTERRUPTED if interrupted else FAILED if failed else 0
