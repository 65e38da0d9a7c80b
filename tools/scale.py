"""What one card could move, and what bounds it: arithmetic over named inputs, measured, taken from data sheets, or guessed.

    tools/scale.py                                           # the tables, for each card that is known
    tools/scale.py --card bluefield-3 --block 64KiB          # one card, blocks of one size
    tools/scale.py --card bluefield-3 --set link_gbit=200 --set crc_gb_s=6.5
    build/native/cairn-parts-bench >parts.json               # on the card itself; then the guesses about its cores are none any more
    tools/scale.py --card bluefield-3 --parts parts.json
    tools/scale.py --inputs                                  # every input: value, where it is from
    tools/scale.py --markdown                                # the tables of docs/performance.md

Nothing here is a measurement of a card. docs/performance.md says how to read it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from cairn_scale import model, tables
from cairn_scale.inputs import CARDS, Inputs, InputsError, with_parts

UNITS = {"KiB": 1 << 10, "MiB": 1 << 20}
TYPICAL = 2 << 20
BLOCKS = (64 << 10, 256 << 10, TYPICAL, 16 << 20)


def block_of(text: str) -> int:
    number, unit = text[:-3], text[-3:]
    if not number.isdigit() or unit not in UNITS or not 0 < int(number) * UNITS[unit] <= 64 << 20:
        raise argparse.ArgumentTypeError(f"'{text}' is no block: write 64KiB, 2MiB; 64MiB is the largest")
    return int(number) * UNITS[unit]


def change_of(text: str) -> tuple[str, float]:
    name, _, value = text.partition("=")
    try:
        return name, float(value)
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}': write NAME=NUMBER; --inputs lists the names") from None


def changed(card: str, changes: Sequence[tuple[str, float]], parts: Mapping[str, float] | None) -> Inputs:
    inputs = CARDS[card]
    if parts is not None:
        inputs = with_parts(inputs, parts)
    for name, value in changes:
        inputs = inputs.changed(name, value, "given with --set")
    return inputs


def report(cards: Mapping[str, Inputs], blocks: Sequence[int], table: tables.Shape) -> Iterator[str]:
    """What comes of the inputs, with blank lines between the tables."""
    block = blocks[0] if len(blocks) == 1 else TYPICAL
    yield from table("Cores that 1 GB/s keeps busy, by the size of blocks", *tables.demand(cards, blocks))
    for operation in model.OPERATIONS:
        yield ""
        title = f"GB/s of {operation.name}, blocks of {tables.size(block)}: what each part could move, and the least of them"
        yield from table(title, *tables.bounds(cards, operation, block))
    yield ""
    yield from table("DRAM for the index of 1 TB, by the size of blocks", *tables.index(cards, blocks))


def document() -> Iterator[str]:
    """All of it, for docs/performance.md."""
    yield from tables.markdown("What was measured of a core", *tables.parts())
    yield ""
    yield from tables.markdown("What is taken of the cards", *tables.inputs(CARDS))
    yield ""
    yield from report(CARDS, BLOCKS, tables.markdown)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--card", choices=list(CARDS), help="only this one")
    parser.add_argument("--block", type=block_of, help="only blocks of this size")
    parser.add_argument(
        "--set", type=change_of, action="append", default=[], metavar="NAME=NUMBER", help="an input of your own"
    )
    parser.add_argument("--parts", type=Path, metavar="FILE", help="what cairn-parts-bench printed, on the card")
    shape = parser.add_mutually_exclusive_group()
    shape.add_argument("--inputs", action="store_true", help="list the inputs instead")
    shape.add_argument("--markdown", action="store_true", help="what docs/performance.md has; no other option counts")
    options = parser.parse_args()
    try:
        parts = json.loads(options.parts.read_text()) if options.parts else None
        names = [options.card] if options.card else list(CARDS)
        cards = {name: changed(name, options.set, parts) for name in names}
    except (OSError, ValueError, InputsError) as error:
        sys.stderr.write(f"scale.py: {error}\n")
        return 2
    if options.markdown:
        lines = document()
    elif options.inputs:
        lines = tables.plain("inputs", *tables.inputs(cards))
    else:
        lines = report(cards, (options.block,) if options.block else BLOCKS, tables.plain)
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
