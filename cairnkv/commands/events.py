"""`cairn events`: what became of the tenant's blocks."""

import json
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from cairnkv.client import Client
from cairnkv.commands.options import Deadline, Output, OutputOption, Server, Tenant, guarded, open_client, say
from cairnkv.events import Event, EventKind, Missed


@guarded
def events(
    *,
    after: Annotated[
        int | None,
        typer.Option(
            "--after",
            metavar="N",
            min=0,
            show_default=False,
            help="Begin behind this number. Default: 0 (all that are kept), with --follow from now on.",
        ),
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until interrupted, over restarts too.")] = False,
    server: Server = None,
    tenant: Tenant = None,
    deadline: Deadline = None,
    output: OutputOption = Output.table,
) -> None:
    """Tell what was stored, evicted, expired and deleted in the tenant's keyspace, oldest first. The service keeps the newest
    4,096 events. With -o json each line is an object; {"missed": N} stands where N events were lost (null: the service
    was started again, and nobody knows).

    Examples:

        cairn events

        cairn events --follow -o json | jq -r 'select(.kind == "evicted").key'
    """
    show = _show_json if output is Output.json else _show
    with open_client(server, tenant, deadline) as client:
        for told in client.events(after=after) if follow else _kept(client, after or 0):
            show(told)
            if follow:
                sys.stdout.flush()


def _kept(client: Client, after: int) -> Iterator[Event | Missed]:
    """What there is now."""
    newest = client.watch().raise_for_status().newest
    while after < newest:
        answer = client.watch(after=after).raise_for_status()
        if answer.missed:
            yield Missed(answer.missed)
        yield from answer.items
        after = answer.next_after or newest


def _show(told: Event | Missed) -> None:
    if isinstance(told, Missed):
        say("the service was started again" if told.count is None else f"{told.count} events are kept no longer")
        return
    when = datetime.fromtimestamp(told.unix_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
    rest = [f"{name}={value}" for name, value in _named(told).items() if value]
    sys.stdout.write("  ".join([str(told.number), when, f"{_kind(told):<8}", *rest]) + "\n")


def _show_json(told: Event | Missed) -> None:
    if isinstance(told, Missed):
        line: dict[str, Any] = {"missed": told.count}
    else:
        line = {"number": told.number, "unix_ms": told.unix_ms, "kind": _kind(told), **_named(told)}
    sys.stdout.write(json.dumps(line) + "\n")


def _kind(event: Event) -> str:
    return event.kind.name if isinstance(event.kind, EventKind) else str(event.kind)


def _named(event: Event) -> dict[str, Any]:
    return {
        "key": event.key.hex() if any(event.key) else None,
        "layout": event.layout,
        "group": event.group.hex() if any(event.group) else None,
        "scope": event.scope,
        "sequence": event.sequence,
    }
