"""Shows where a replay is: a bar on a terminal, a line every few seconds elsewhere. On stderr."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from cairnkv.replay import Progress as State

LINE_SECONDS = 5.0


@contextlib.contextmanager
def showing_progress(name: str, console: Console | None = None) -> Iterator[Callable[[State], None]]:
    """Gives the function to call with each new state."""
    console = console or Console(stderr=True)
    if not console.is_terminal:
        yield _Lines(name)
        return
    columns = (
        SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[facts]}"),
        TimeElapsedColumn(),
    )  # fmt: skip
    with Progress(*columns, console=console, transient=True) as bars:
        task = bars.add_task(name, total=None, facts="")

        def show(state: State) -> None:
            bars.update(
                task, total=state.requests, completed=state.requests_done, description=state.phase, facts=_facts(state)
            )

        yield show


class _Lines:
    """Sparse plain lines: at most one every LINE_SECONDS, and one for each new phase."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._phase = ""
        self._next = 0.0

    def __call__(self, state: State) -> None:
        now = time.monotonic()
        if state.phase == self._phase and now < self._next:
            return
        self._phase, self._next = state.phase, now + LINE_SECONDS
        sys.stderr.write(
            f"{self._name}: {state.phase}, {state.requests_done}/{state.requests} requests, {_facts(state)}\n"
        )
        sys.stderr.flush()


def _facts(state: State) -> str:
    speed = state.moved_bytes / state.seconds / 1e9 if state.seconds > 0 else 0.0
    return f"hit ratio {state.hit_ratio:.3f}, {speed:.2f} GB/s"
