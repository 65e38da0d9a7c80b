"""What `inspect` and `check` show: progress on stderr, the report on stdout. Apart from cli.py, so that `serve` does not
wait for rich to load."""

import json
import sys
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.table import Table

from cairn_dpu import _native
from cairn_dpu.quantities import describe_size

WIDEST = 100_000


class OwnConsole(Console):
    """Tells of a reader that has gone as everything else that prints does."""

    def on_broken_pipe(self) -> None:
        """Instead of ending the process with an exit code that says nothing."""
        raise BrokenPipeError


def check_with_progress(path: str) -> str:
    """The report of check_drive as JSON, with a progress bar where stderr is a terminal."""
    columns = (TextColumn("checking"), BarColumn(), DownloadColumn(True), TransferSpeedColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("checking", total=None)

        def advance(done_bytes: int, total_bytes: int) -> bool:
            progress.update(task, completed=done_bytes, total=total_bytes)
            return True

        return _native.check_drive(path, advance)


def print_report(report: dict[str, Any], output: str) -> None:
    """Prints what inspect or check found, on stdout: `json`, or tables for people."""
    if output == "json":
        sys.stdout.write(json.dumps(report, indent=2) + "\n")
        return
    console = OwnConsole()
    if not console.is_terminal:
        console = OwnConsole(width=WIDEST)  # nothing is cut or folded for a script
    table = Table(show_header=False, box=None, pad_edge=False)
    for key, value in report.items():
        if not isinstance(value, list | dict):
            shown = (
                f"{value} ({describe_size(value)})" if key.endswith("bytes") and isinstance(value, int) else str(value)
            )
            table.add_row(key, shown)
    console.print(table)
    for key, value in report.items():
        if isinstance(value, dict):
            console.print(f"\n{key}: " + ", ".join(f"{name} {inner}" for name, inner in value.items()))
        elif isinstance(value, list) and value:
            _print_list(console, key, value)


def _print_list(console: Console, title: str, rows: list[Any]) -> None:
    console.print(f"\n{title}")
    if not all(isinstance(row, dict) for row in rows):
        for row in rows:
            console.print(f"  {row}", markup=False)
        return
    table = Table(box=None)
    for name in rows[0]:
        table.add_column(str(name))
    for row in rows:
        table.add_row(*(str(row.get(name, "")) for name in rows[0]))
    console.print(table)
