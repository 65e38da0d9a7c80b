"""Printing results: tables for people, one JSON object for scripts. Everything here goes to stdout."""

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cairnkv.commands.options import ExitCode, Output, fail, worst
from cairnkv.results import ItemResult
from cairnkv.status import Status

WIDEST = 100_000


class OwnConsole(Console):
    """Tells of a reader that has gone as everything else that prints does."""

    def on_broken_pipe(self) -> None:
        """Instead of ending the process with an exit code that says nothing."""
        raise BrokenPipeError


def print_json(value: Any) -> None:
    """One indented JSON document."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def print_lines(lines: Iterable[str]) -> None:
    """Plain lines."""
    sys.stdout.writelines(f"{line}\n" for line in lines)


def print_pairs(rows: Iterable[tuple[str, str]], title: str = "") -> None:
    """Names and values, in two columns."""
    console = OwnConsole(soft_wrap=True)
    if title:
        console.print(f"[bold]{escape(title)}[/bold]")
    pairs = list(rows)
    width = max((len(name) for name, _ in pairs), default=0)
    for name, value in pairs:
        console.print(f"  [dim]{escape(name.ljust(width))}[/dim]  {escape(value)}", highlight=False)


def print_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table; columns after the first are numbers, to the right. Nothing is cut: where the terminal is too narrow, each row
    is a list of its own."""
    rows = list(rows)
    table = Table(box=None, pad_edge=False)
    for at, head in enumerate(heads):
        table.add_column(head, justify="left" if at == 0 else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))
    console = OwnConsole()
    wanted = console.measure(table, options=console.options.update(width=WIDEST)).maximum
    if not console.is_terminal:
        OwnConsole(width=max(wanted, 1), soft_wrap=True).print(
            table
        )  # a script wants whole cells, however long the line
    elif wanted <= console.width:
        console.print(table)
    else:
        for row in rows:
            print_pairs(zip(heads[1:], row[1:], strict=True), row[0])


def tell_items(keys: list[str], results: list[ItemResult], words: dict[Status, str], name: str, output: Output) -> None:
    """What became of each key, and the exit code that goes with it. words: what a status is called, for those that are no
    failure; name: what `ok` means, in JSON."""
    if output is Output.json:
        rows: list[dict[str, Any]] = [
            {"key": key, name: bool(result), "status": result.status.name}
            for key, result in zip(keys, results, strict=True)
        ]
        print_json(rows)
    else:
        print_lines(
            f"{key}  {words.get(result.status, result.status.name)}" for key, result in zip(keys, results, strict=True)
        )
    failed = [result.status for result in results if result.status not in words]
    if failed:
        fail(failed[0].sentence, worst(failed))
    code = worst([result.status for result in results])
    if code is not ExitCode.OK:
        raise typer.Exit(code)
