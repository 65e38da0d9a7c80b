"""The tables, plain and as Markdown."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from cairn_scale import model
from cairn_scale.inputs import PROCESSOR, Input, Inputs

Table = tuple[Sequence[str], list[Sequence[str]]]  # heads, rows
Shape = Callable[[str, Sequence[str], list[Sequence[str]]], Iterator[str]]  # plain or markdown


def size(count: int) -> str:
    return f"{count >> 20} MiB" if count >= 1 << 20 else f"{count >> 10} KiB"


def number(value: float) -> str:
    """Three digits, no exponent; what is so large bounds nothing."""
    if value > 1000:
        return "> 1,000"
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _value(one: Input) -> str:
    return f"{one.value:,.10g} {one.unit}".strip()


def inputs(cards: Mapping[str, Inputs]) -> Table:
    """One row for what is the same of all cards, else one for each."""
    rows: list[Sequence[str]] = []
    of_cards = {name: dict(card.rows()) for name, card in cards.items()}
    for name in next(iter(of_cards.values())):
        each = {card: found[name] for card, found in of_cards.items()}
        if len(set(each.values())) == 1:
            each = {"all" if len(cards) > 1 else next(iter(cards)): next(iter(each.values()))}
        rows += [(f"`{name}`", card, _value(one), one.origin, one.why) for card, one in each.items()]
    return ("input", "card", "value", "from", "why"), rows


def parts() -> Table:
    """What was measured of a core, and how."""
    return ("input", "value", "by"), [(f"`{name}`", _value(one), one.why) for name, one in PROCESSOR.items()]


def demand(cards: Mapping[str, Inputs], blocks: Sequence[int]) -> Table:
    rows = [
        (name, operation.name, *(f"{model.cores_per_gb_s(card, operation, block):.3f}" for block in blocks))
        for name, card in cards.items()
        for operation in model.OPERATIONS
    ]
    return ("card", "of", *(size(block) for block in blocks)), list(rows)


def bounds(cards: Mapping[str, Inputs], operation: model.Operation, block: int) -> Table:
    found = {name: model.bounds_gb_s(card, operation, block) for name, card in cards.items()}
    parts = list(next(iter(found.values())))
    rows = []
    for name, by_part in found.items():
        best, most = model.bound_of(by_part, one_reactor=False)
        today, now = model.bound_of(by_part, one_reactor=True)
        rows.append(
            (name, *(number(by_part[part]) for part in parts), f"{number(most)}, {best}", f"{number(now)}, {today}")
        )
    return ("card", *parts, "could be", "today"), list(rows)


def index(cards: Mapping[str, Inputs], blocks: Sequence[int]) -> Table:
    rows = [
        (name, *(f"{number(model.index_gb_per_tb(card, block))} GB" for block in blocks))
        for name, card in cards.items()
    ]
    return ("DRAM for 1 TB of blocks", *(size(block) for block in blocks)), list(rows)


def plain(title: str, heads: Sequence[str], rows: list[Sequence[str]]) -> Iterator[str]:
    lines = [[cell.replace("`", "") for cell in line] for line in (heads, *rows)]
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
    yield title
    for line in lines:
        yield "  " + "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()


def markdown(title: str, heads: Sequence[str], rows: list[Sequence[str]]) -> Iterator[str]:
    yield f"**{title}**"
    yield ""
    yield f"| {' | '.join(heads)} |"
    yield "|" + "---|" * len(heads)
    for row in rows:
        yield f"| {' | '.join(row)} |"
