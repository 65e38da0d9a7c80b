"""`cairn doctor`: what is wrong, and what to do about it."""

import os
import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import Annotated

import typer
from rich.markup import escape

from cairnkv import doctor as engine
from cairnkv.commands.options import Deadline, ExitCode, Output, OutputOption, Server, Tenant, guarded, open_client
from cairnkv.commands.output import OwnConsole, print_json
from cairnkv.errors import ConnectError, UsageError
from cairnkv.findings import FAIL, LEVELS, NOT_CHECKED, OK, WARN, Finding

RETRY_SECONDS = 0.1
COLOURS = {OK: "green", WARN: "yellow", FAIL: "red", NOT_CHECKED: "cyan"}


@guarded
def doctor(
    *,
    hardware: Annotated[
        bool,
        typer.Option("--hardware", help="The checklist of this machine's parts instead: no service is asked."),
    ] = False,
    wait: Annotated[
        float,
        typer.Option(
            "--wait",
            metavar="SECONDS",
            min=0,
            show_default=False,
            help="First wait until the service answers, for at most so long. A script that has just started one calls this.",
        ),
    ] = 0,
    server: Server = None,
    tenant: Tenant = None,
    deadline: Deadline = None,
    output: OutputOption = Output.table,
) -> None:
    """Examine this machine and the service: each line says ok, warn or fail, and what to do. Exit code 1 when one fails.

    With --hardware: what must be right before RDMA devices, NVMe drives and GPUs are used, each line with what was found and
    what to do. not-checked: the part is not here, or cannot be asked; the line says what to type. Exit code 1 when a line says
    fail, 0 when none does. Some lines need root.

    Examples:

        cairn doctor

        cairn doctor --server tcp://127.0.0.1:9600

        cairn-dpu serve --drive /var/tmp/cairn-drive:2GiB & cairn doctor --server tcp://127.0.0.1:9600 --wait 30

        sudo cairn doctor --hardware
    """
    if hardware:
        if server or tenant or deadline or wait:
            raise UsageError(
                "--hardware looks at this machine and asks no service: leave --server, --tenant, --deadline and --wait out"
            )
        findings = _tell_hardware(output)
    else:
        if wait:
            _wait(server, tenant, deadline, wait)
        findings = _tell(server, tenant, deadline, output)
    if any(finding.level == FAIL for finding in findings):
        raise typer.Exit(ExitCode.FAILURE)


def _wait(server: str | None, tenant: str | None, deadline: int | None, seconds: float) -> None:
    """Until a connection comes up, or the time is over: what the service lacks then is for the examination to say."""
    until = time.monotonic() + seconds
    while True:
        try:
            return open_client(server, tenant, deadline).close()
        except ConnectError:
            if time.monotonic() >= until:
                return None
            time.sleep(RETRY_SECONDS)


def _tell(server: str | None, tenant: str | None, deadline: int | None, output: Output) -> list[Finding]:
    named = bool(server or os.environ.get("CAIRN_SERVERS"))
    findings = []
    console = OwnConsole(soft_wrap=True)
    for finding in engine.examine((lambda: open_client(server, tenant, deadline)) if named else None):
        findings.append(finding)
        if output is Output.table:
            console.print(_line(finding, 5), highlight=False)
    if output is Output.json:
        print_json([asdict(finding) for finding in findings])
    return findings


def _line(finding: Finding, width: int) -> str:
    colour, advice = COLOURS[finding.level], f" — {finding.advice}" if finding.advice else ""
    return f"[{colour}]{finding.level:<{width}}[/{colour}] {finding.name}: {escape(finding.text + advice)}"


def _tell_hardware(output: Output) -> list[Finding]:
    from cairnkv.hardware import checklist

    found = list(checklist.examine())
    if output is Output.json:
        print_json([{"area": area, **asdict(finding)} for area, finding in found])
    else:
        console = OwnConsole(soft_wrap=True)
        for line in _lines_of_hardware(found):
            console.print(line, highlight=False)
    return [finding for _, finding in found]


def _lines_of_hardware(found: list[tuple[str, Finding]]) -> Iterator[str]:
    """Areas with their findings; advice stands below, so that the eye runs down the columns."""
    level_width = max(len(level) for level in LEVELS)
    name_width = max(len(finding.name) for _, finding in found)
    area = ""
    for here, finding in found:
        if here != area:
            yield f"{'' if not area else chr(10)}[bold]{here}[/bold]"
            area = here
        colour = COLOURS[finding.level]
        yield f"  [{colour}]{finding.level:<{level_width}}[/{colour}]  {finding.name:<{name_width}}  {escape(finding.text)}"
        if finding.advice:
            yield f"  {'':<{level_width}}  {'':<{name_width}}  → {escape(finding.advice)}"
    counts = {level: sum(finding.level == level for _, finding in found) for level in LEVELS}
    yield "\n" + ", ".join(f"{count} {level}" for level, count in counts.items())
