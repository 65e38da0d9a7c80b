"""`cairn replay`: a trace of real requests against a service."""

from typing import Annotated

import typer

from cairnkv import replay as engine
from cairnkv.commands.options import (
    Deadline,
    ExitCode,
    Output,
    OutputOption,
    Server,
    Tenant,
    fail,
    guarded,
    open_client,
    say,
)
from cairnkv.commands.output import print_json, print_pairs
from cairnkv.commands.progress import showing_progress
from cairnkv.errors import UsageError
from cairnkv.memory import BLOCK_BYTES_MOST
from cairnkv.quantities import parse_size
from cairnkv.tally import report_rows
from cairnkv.traces import read_trace, select


@guarded
def replay(
    trace: Annotated[
        str,
        typer.Argument(
            metavar="TRACE", help="A JSONL file (also .gz, .xz), - for standard input, 'conversation', or 'synthetic'."
        ),
    ],
    *,
    block_size: Annotated[
        str, typer.Option("--block-size", metavar="SIZE", help="Size that every block is given.")
    ] = "64KiB",
    clients: Annotated[
        int, typer.Option("--clients", metavar="N", min=1, help="Clients, each on a thread of its own.")
    ] = 2,
    start: Annotated[
        int, typer.Option("--start", metavar="N", min=0, help="Begin with this request, counted from 0.")
    ] = 0,
    count: Annotated[
        int | None, typer.Option("--count", metavar="N", min=1, show_default=False, help="At most so many requests.")
    ] = None,
    duration: Annotated[
        float | None,
        typer.Option(
            "--duration", metavar="SECONDS", min=0, show_default=False, help="At most so much of the trace's own time."
        ),
    ] = None,
    speed: Annotated[
        float,
        typer.Option(
            "--speed", metavar="X", min=0, help="0: as fast as possible; 1: in the trace's time; 10: ten times as fast."
        ),
    ] = 0,
    relaxed: Annotated[
        bool, typer.Option("--relaxed", help="Do not wait until blocks are safe from power loss.")
    ] = False,
    key_prefix: Annotated[
        str,
        typer.Option(
            "--key-prefix",
            metavar="TEXT",
            show_default=False,
            help="Name of the run: blocks of an earlier run with it are found again. Default: a fresh one.",
        ),
    ] = "",
    server: Server = None,
    tenant: Tenant = None,
    deadline: Deadline = None,
    output: OutputOption = Output.table,
) -> None:
    """Replay a trace: look up each request's longest cached prefix, get it, put the rest; check every byte.

    Exit code 1 when bytes were wrong or an acknowledged block is gone. docs/replay.md explains every number.

    Examples:

        cairn replay synthetic --count 500 --server local:/var/tmp/cairn

        cairn replay my-trace.jsonl.gz --speed 10 --duration 600 -o json
    """
    size = parse_size(block_size)
    if not 1 <= size <= BLOCK_BYTES_MOST:
        raise UsageError(f"--block-size: a block has 1 B to {BLOCK_BYTES_MOST >> 20} MiB, not {block_size}")
    requests = select(read_trace(trace), start, count, duration)
    options = engine.Options(
        block_bytes=size,
        clients=clients,
        speed=speed,
        durability="relaxed" if relaxed else "durable",
        deadline_ms=deadline or 30_000,
        key_prefix=key_prefix,
    )
    with showing_progress("replay") as show:
        run = engine.Replay(
            requests, lambda _: open_client(server, tenant, deadline), options, trace=trace, on_progress=show
        )
        report = run.run()
    if output is Output.json:
        print_json(report.as_dict())
    else:
        print_pairs(report_rows(report))
    if report.interrupted:
        say("interrupted: the report covers what was replayed until then")
    if not report.good:
        fail("a promise was broken: wrong bytes, or acknowledged blocks are gone; please report this", ExitCode.FAILURE)
    if report.interrupted:
        raise typer.Exit(ExitCode.INTERRUPTED)
