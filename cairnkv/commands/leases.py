"""`cairn lease | release`: keeping blocks from eviction for a while."""

from typing import Annotated

import typer

from cairnkv.commands.options import (
    Deadline,
    KeysArgument,
    LayoutOption,
    Output,
    OutputOption,
    Server,
    Tenant,
    guarded,
    open_client,
)
from cairnkv.commands.output import tell_items
from cairnkv.quantities import parse_duration
from cairnkv.status import Status

HOLDER = "cairn lease"  # the name that leases of the command belong to


@guarded
def lease(
    keys: KeysArgument,
    *,
    duration: Annotated[
        str, typer.Option("--for", metavar="TIME", help="How long: 500ms, 30s, 5m, at most 1h.")
    ] = "1m",
    layout: LayoutOption = 0,
    server: Server = None,
    tenant: Tenant = None,
    deadline: Deadline = None,
    output: OutputOption = Output.table,
) -> None:
    """Keep blocks from eviction for a while. The lease goes on when the command has ended, and ends by itself; meanwhile
    cairn rm KEY answers 'leased' (exit code 5). Exit code 3 when a key holds no block.

    Example:

        cairn lease system-prompt tools --for 10m
    """
    duration_ms = parse_duration(duration)
    with open_client(server, tenant, deadline, HOLDER) as client:
        results = client.lease(keys, duration_ms=duration_ms, layout=layout)
    tell_items(keys, results, {Status.ok: "leased", Status.not_found: "not found"}, "leased", output)


@guarded
def release(
    keys: KeysArgument,
    *,
    layout: LayoutOption = 0,
    server: Server = None,
    tenant: Tenant = None,
    deadline: Deadline = None,
    output: OutputOption = Output.table,
) -> None:
    """End leases that cairn lease took, whoever typed it. What a program leased stands until that program releases it or it
    ends by itself. Exit code 3 when there was none.

    Example:

        cairn release system-prompt
    """
    with open_client(server, tenant, deadline, HOLDER) as client:
        results = client.release(keys, layout=layout)
    tell_items(keys, results, {Status.ok: "released", Status.not_found: "no lease"}, "released", output)
