"""What the benchmark programs share: groups of figures, chosen by word, told as they come, and one JSON object at the end."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cairn_bench.figures import Figures


@dataclass(frozen=True)
class Group:
    """measure: given a folder with a short path for sockets, the drives, and how many rounds."""

    measure: Callable[[Path, Sequence[Path], int], Figures]
    drives: int = 1


def run_groups(
    description: str,
    groups: Mapping[str, Group],
    make_drives: Callable[[argparse.Namespace, int], Sequence[Path]],
    add_options: Callable[[argparse.ArgumentParser], None] | None = None,
) -> None:
    """A whole program. make_drives is given its options, and how many drives the chosen groups need at most."""

    def words_of(text: str) -> list[str]:
        unknown = set(text.split(",")) - groups.keys()
        if unknown:
            raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown))}: expected some of {', '.join(groups)}")
        return [name for name in groups if name in text.split(",")]

    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", type=words_of, default=list(groups), help="which groups to run, with commas between")
    if add_options is not None:
        add_options(parser)
    options = parser.parse_args()
    figures: Figures = {}
    drives = make_drives(options, max(groups[name].drives for name in options.only))
    with tempfile.TemporaryDirectory(prefix="cb-") as short:
        for name in options.only:
            began = time.monotonic()
            measured = groups[name].measure(Path(short), drives[: groups[name].drives], options.rounds)
            print(f"{name}: {time.monotonic() - began:.0f} s", file=sys.stderr)
            for figure, found in measured.items():
                print(f"  {figure:40} {found.value:<10} {json.dumps(found.details)}", file=sys.stderr)
            figures.update(measured)
    print(json.dumps({name: figure.value for name, figure in figures.items()}))
