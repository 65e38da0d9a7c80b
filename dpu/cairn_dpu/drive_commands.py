"""`cairn-dpu drives`: the drives of a running service, over its admin API."""

import json
import os
import sys
import time
from typing import Annotated, Any

import typer

from cairn_dpu import _native
from cairn_dpu.addresses import parse_admin
from cairn_dpu.admin_client import AdminClient
from cairn_dpu.commands import Debug, Output, check_output, guarded
from cairn_dpu.drive_spec import parse_drive
from cairn_dpu.drives import attachable
from cairn_dpu.errors import ConfigError, DeniedError, NotFoundError, ServiceError
from cairn_dpu.quantities import describe_size

PATH = "/api/v1/drives"
LOOK_EVERY_SECONDS = 0.5

app = typer.Typer(no_args_is_help=True, help="List, attach, drain, resume and detach the drives of a running service.")
Admin = Annotated[
    str,
    typer.Option(
        "--admin", metavar="HOST:PORT", envvar="CAIRN_DPU_ADMIN", help="Where the service's admin API answers."
    ),
]
Which = Annotated[str, typer.Argument(metavar="DRIVE", help="The drive's uuid, or its path.")]
HERE = "127.0.0.1:8600"


def _client(admin: str) -> AdminClient:
    try:
        address = parse_admin(admin)
    except ValueError as error:
        raise ConfigError(f"--admin: {error}") from None
    if address is None:
        raise ConfigError("--admin: the service's admin API is what this command talks to; it cannot be off")
    return AdminClient(address)


def _find(client: AdminClient, which: str) -> dict[str, Any]:
    path = os.path.abspath(which)
    for drive in client.all(PATH):
        if which == drive["id"] or path == drive["path"]:
            return drive
    raise NotFoundError(f"the service has no drive {which}; list them with 'cairn-dpu drives list'")


COLUMNS = ("id", "path", "state", "size", "held", "loaded", "scrubbed", "written/put")


def _row(drive: dict[str, Any]) -> tuple[str, ...]:
    wear = drive["write_amplification"]
    return (
        drive["id"],
        drive["path"],
        drive["state"],
        describe_size(drive["bytes"]),
        describe_size(drive["payload_bytes"]),
        f"{drive['loaded_share']:.0%}",
        f"{drive['scrub_share']:.0%}",
        "-" if wear is None else f"{wear:.2f}",
    )


def _show(drives: list[dict[str, Any]], output: str) -> None:
    """One line a drive, however wide: an id that is cut is of no use. Reasons stand below."""
    if output == "json":
        sys.stdout.write(json.dumps(drives, indent=2) + "\n")
        return
    rows = [COLUMNS, *(_row(drive) for drive in drives)]
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    for row in rows:
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        sys.stdout.write(line.rstrip() + "\n")
    for drive in drives:
        if drive["reason"]:
            sys.stdout.write(f"{drive['path']}: {drive['reason']}\n")


@app.command("list")
@guarded
def list_(*, admin: Admin = HERE, output: Output = "table", debug: Debug = False) -> None:
    """Tell the state of every drive: how much is loaded, scrubbed, worn, and why one has failed or is absent.

    Example:

        cairn-dpu drives list -o json
    """
    check_output(output)
    _show(_client(admin).all(PATH), output)


@app.command()
@guarded
def attach(
    path: Annotated[str, typer.Argument(metavar="PATH", help="A formatted drive or file, as the service sees it.")],
    *,
    admin: Admin = HERE,
    output: Output = "table",
    debug: Debug = False,
) -> None:
    """Take a formatted drive into the running service; also one that was absent, or failed and was detached.

    Example:

        cairn-dpu drives attach /dev/nvme3n1
    """
    check_output(output)
    spec = parse_drive(path)
    if spec.create_bytes is not None and not os.path.exists(os.path.abspath(path)):
        raise ConfigError(
            f"attach takes a drive that was formatted, and no size; first 'cairn-dpu format --drive {path} --yes', then"
            f" 'cairn-dpu drives attach {spec.path}'"
        )
    path = os.path.abspath(path)
    try:
        attached = _client(admin).ask("POST", PATH, {"path": path})
    except NotFoundError:
        _look_here(path)
        raise
    _show([attached], output)


def _look_here(path: str) -> None:
    """The service tells no stranger what lies where not everybody may look. Whoever may look here learns it from this
    process: raises what is wrong with the path, where that can be seen."""
    try:
        blank = not _native.is_formatted(attachable(path))
    except DeniedError:
        return
    if blank:
        raise NotFoundError(f"{path} holds no Cairn store; first 'cairn-dpu format --drive {path} --yes'")


@app.command()
@guarded
def drain(
    drive: Which,
    *,
    wait: Annotated[bool, typer.Option("--wait", help="Return when the drive is drained.")] = False,
    admin: Admin = HERE,
    output: Output = "table",
    debug: Debug = False,
) -> None:
    """Move what a drive holds to the others, so that it can be detached.

    Example:

        cairn-dpu drives drain /dev/nvme3n1 --wait
    """
    check_output(output)
    client = _client(admin)
    found = client.ask("POST", f"{PATH}/{_find(client, drive)['id']}/drain")
    while wait and found["state"] == "draining":
        time.sleep(LOOK_EVERY_SECONDS)
        found = client.ask("GET", f"{PATH}/{found['id']}")
    _show([found], output)
    if wait and found["state"] != "drained":
        raise ServiceError(f"{found['path']} is {found['state']} and not drained; {found['reason']}")


@app.command()
@guarded
def resume(drive: Which, *, admin: Admin = HERE, output: Output = "table", debug: Debug = False) -> None:
    """Try a drive again that takes no more blocks, that failed, or that is absent, when the cause is gone.

    Nothing that it holds is touched. The service tries by itself as well, where writes failed: after a second, then less and
    less often, and in the end once a minute.

    Example:

        cairn-dpu drives resume /dev/nvme3n1
    """
    check_output(output)
    client = _client(admin)
    _show([client.ask("POST", f"{PATH}/{_find(client, drive)['id']}/resume")], output)


@app.command()
@guarded
def detach(
    drive: Which,
    *,
    lose_what_is_left: Annotated[
        bool, typer.Option("--lose-what-is-left", help="Also when it is neither drained, failed nor empty.")
    ] = False,
    admin: Admin = HERE,
    debug: Debug = False,
) -> None:
    """Let a drive go, so that it can be unplugged. What is still on it is lost to the service. An absent drive is no
    longer looked for.

    Example:

        cairn-dpu drives detach /dev/nvme3n1
    """
    client = _client(admin)
    found = _find(client, drive)
    client.ask("DELETE", f"{PATH}/{found['id']}?lose_what_is_left={str(lose_what_is_left).lower()}")
    sys.stdout.write(f"{found['path']} ({found['id']}) is no drive of the service any more\n")
