"""`cairn doctor`: what is wrong, and what to do about it."""

import os
from dataclasses import asdict

import typer
from rich.console import Console
from rich.markup import escape

from cairnkv import doctor as engine
from cairnkv.commands.options import Deadline, ExitCode, Output, OutputOption, Server, Tenant, guarded, open_client
from cairnkv.commands.output import print_json

COLOURS = {engine.OK: "green", engine.WARN: "yellow", engine.FAIL: "red"}


@guarded
def doctor(
    *, server: Server = None, tenant: Tenant = None, deadline: Deadline = None, output: OutputOption = Output.table
) -> None:
    """Examine this machine and the service: each line says ok, warn or fail, and what to do. Exit code 1 when one fails.

    Examples:

        cairn doctor

        cairn doctor --server tcp://127.0.0.1:9600
    """
    named = bool(server or os.environ.get("CAIRN_SERVERS"))
    findings = []
    console = Console(soft_wrap=True)
    for finding in engine.examine((lambda: open_client(server, tenant, deadline)) if named else None):
        findings.append(finding)
        if output is Output.table:
            advice = f" — {finding.advice}" if finding.advice else ""
            colour = COLOURS[finding.level]
            line = f"[{colour}]{finding.level:<5}[/{colour}] {finding.name}: {escape(finding.text + advice)}"
            console.print(line, highlight=False)
    if output is Output.json:
        print_json([asdict(finding) for finding in findings])
    if any(finding.level == engine.FAIL for finding in findings):
        raise typer.Exit(ExitCode.FAILURE)
