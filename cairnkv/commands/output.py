"""Printing results: tables for people, one JSON object for scripts. Everything here goes to stdout."""

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table


def print_json(value: Any) -> None:
    """One indented JSON document."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def print_lines(lines: Iterable[str]) -> None:
    """Plain lines."""
    sys.stdout.writelines(f"{line}\n" for line in lines)


def print_pairs(rows: Iterable[tuple[str, str]], title: str = "") -> None:
    """Names and values, in two columns."""
    console = Console(soft_wrap=True)
    if title:
        console.print(f"[bold]{escape(title)}[/bold]")
    pairs = list(rows)
    width = max((len(name) for name, _ in pairs), default=0)
    for name, value in pairs:
        console.print(f"  [dim]{escape(name.ljust(width))}[/dim]  {escape(value)}", highlight=False)


def print_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table; columns after the first are numbers, to the right."""
    table = Table(box=None, pad_edge=False)
    for at, head in enumerate(heads):
        table.add_column(head, justify="left" if at == 0 else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))
    Console().print(table)
