"""`cairn bench`: how fast is this service from here?"""

from typing import Annotated

import typer

from cairnkv import bench as engine
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
from cairnkv.commands.output import print_json, print_table
from cairnkv.errors import UsageError
from cairnkv.memory import BLOCK_BYTES_MOST
from cairnkv.quantities import parse_size, show_size

HEADS = ("phase", "GB/s", "items/s", "seconds", "p50 ms", "p90 ms", "p99 ms", "max ms", "failed", "wrong")


@guarded
def bench(
    *,
    block_size: Annotated[str, typer.Option("--block-size", metavar="SIZE", help="Size of a block.")] = "1MiB",
    count: Annotated[int, typer.Option("--count", metavar="N", min=1, help="How many blocks.")] = 1024,
    depth: Annotated[int, typer.Option("--depth", metavar="N", min=1, help="Blocks in one call.")] = 8,
    threads: Annotated[
        int, typer.Option("--threads", metavar="N", min=1, help="Clients, each on a thread of its own.")
    ] = 1,
    verify: Annotated[bool, typer.Option(help="Check every byte that comes back.")] = True,
    relaxed: Annotated[
        bool, typer.Option("--relaxed", help="Do not wait until blocks are safe from power loss.")
    ] = False,
    server: Server = None,
    tenant: Tenant = None,
    deadline: Deadline = None,
    output: OutputOption = Output.table,
) -> None:
    """Put fresh blocks, look for them, get them back; print GB/s and the latency of calls.

    The blocks stay in the store until they are evicted. A file-backed drive should be larger than the memory that could
    cache it, or the numbers are the cache's.

    Examples:

        cairn bench

        cairn bench --block-size 64KiB --count 20000 --depth 32 --threads 2
    """
    size = parse_size(block_size)
    if not 1 <= size <= BLOCK_BYTES_MOST:
        raise UsageError(f"--block-size: a block has 1 B to {BLOCK_BYTES_MOST >> 20} MiB, not {block_size}")
    options = engine.Options(size, count, depth, threads, verify, "relaxed" if relaxed else "durable")
    say(f"{count} blocks of {show_size(size)}, {depth} in a call, {threads} thread(s), {options.durability}")
    phases = engine.run(lambda _: open_client(server, tenant, deadline), options, lambda phase: say(f"{phase} …"))
    if output is Output.json:
        print_json(
            {
                "block_bytes": size,
                "count": count,
                "depth": depth,
                "threads": threads,
                "phases": [phase.as_dict() for phase in phases],
            }
        )
    else:
        print_table(HEADS, map(_row, phases))
    if any(phase.wrong_blocks for phase in phases):
        fail("blocks came back with other bytes than were put: please report this", ExitCode.FAILURE)
    failed = {name for phase in phases for name in phase.failed}
    if failed:
        fail(f"some items did not succeed: {', '.join(sorted(failed))}", ExitCode.FAILURE)


def _row(phase: engine.Phase) -> tuple[str, ...]:
    latency = phase.call_latency
    numbers = (phase.seconds, latency.p50_ms, latency.p90_ms, latency.p99_ms, latency.max_ms)
    speed = f"{phase.gb_per_s:.2f}" if phase.name != "exists" else "-"
    shown = tuple(f"{number:.2f}" for number in numbers)
    return (
        phase.name,
        speed,
        f"{phase.items_per_s:,.0f}",
        *shown,
        str(sum(phase.failed.values())),
        str(phase.wrong_blocks),
    )
