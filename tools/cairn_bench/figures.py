"""What a measurement comes to: medians of rounds, ratios pair by pair, percentiles by nearest rank."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Figure:
    """value: what the last line says. details: what a reader of the progress wants to see beside it."""

    value: float
    details: dict[str, float | int | str] = field(default_factory=dict)


# Of a group: each by its name as soon as it is measured, so that what comes behind it cannot take it away.
Figures = Iterator[tuple[str, Figure]]
Pair = tuple[float, float]  # ours, theirs


def ratio_of(pairs: Sequence[Pair], places: int = 3) -> Figure:
    """Of rates in bytes a second: the median of the ratios pair by pair, beside each side's median and the spread."""
    ratios = sorted(ours / theirs for ours, theirs in pairs)
    return Figure(
        round(statistics.median(ratios), places),
        {
            "ours_gb_s": round(statistics.median(ours for ours, _ in pairs) / 1e9, 3),
            "theirs_gb_s": round(statistics.median(theirs for _, theirs in pairs) / 1e9, 3),
            "least": round(ratios[0], places),
            "most": round(ratios[-1], places),
        },
    )


def alternate(rounds: int, ours: Callable[[], float], theirs: Callable[[], float]) -> list[Pair]:
    """Pairs of both sides, of which every other round begins with the other side: what drifts meets both alike."""
    pairs: list[Pair] = []
    for number in range(rounds):
        if number % 2 == 0:
            first = ours()
            pairs.append((first, theirs()))
        else:
            first = theirs()
            pairs.append((ours(), first))
    return pairs


def quantile(values: Sequence[float], share: float) -> float:
    """By nearest rank: the smallest value that at least `share` of all do not exceed."""
    ordered = sorted(values)
    return ordered[max(math.ceil(share * len(ordered)), 1) - 1]
