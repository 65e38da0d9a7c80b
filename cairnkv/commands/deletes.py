"""`cairn rm`: blocks, one by one or everything of a name."""

from typing import Annotated

import typer

from cairnkv.client import Client
from cairnkv.commands.options import (
    Deadline,
    LayoutOption,
    Output,
    OutputOption,
    Server,
    Tenant,
    exit_code,
    fail,
    guarded,
    open_client,
)
from cairnkv.commands.output import print_json, print_lines, tell_items
from cairnkv.config import setting
from cairnkv.errors import UsageError
from cairnkv.results import ItemResult
from cairnkv.status import Status

WORDS = {Status.ok: "deleted", Status.not_found: "not found"}


@guarded
def rm(
    keys: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY…]", show_default=False, help="One key or more.")
    ] = None,
    *,
    group: Annotated[
        str | None, typer.Option("--group", metavar="NAME", show_default=False, help="All blocks of this group.")
    ] = None,
    scope: Annotated[
        str | None, typer.Option("--scope", metavar="LABEL", show_default=False, help="All blocks with this label.")
    ] = None,
    layout_all: Annotated[
        bool, typer.Option("--layout-all", help="All blocks of the layout that --layout names. Needs --yes.")
    ] = False,
    tenant_all: Annotated[bool, typer.Option("--tenant-all", help="Every block of the tenant. Needs --yes.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="You mean it.")] = False,
    layout: LayoutOption = 0,
    server: Server = None,
    tenant: Tenant = None,
    deadline: Deadline = None,
    output: OutputOption = Output.table,
) -> None:
    """Delete blocks, for good: the keys given, or everything of one name. Exit code 3 when a key held none, 5 when
    one is leased. Names are deleted whether leased or not, and it is no error if there was nothing.

    Examples:

        cairn rm hello noise

        cairn rm --group chunk

        cairn rm --scope trial

        cairn rm --layout-all --layout 7 --yes

        cairn rm --tenant-all --tenant test --yes
    """
    asked = [bool(keys), group is not None, scope is not None, layout_all, tenant_all]
    if sum(asked) != 1:
        raise UsageError("name what to delete, one of: KEY…, --group, --scope, --layout-all, --tenant-all")
    if (layout_all or tenant_all) and not yes:
        what = f"every block of layout {layout}" if layout_all else "every block of the tenant"
        raise UsageError(f"this deletes {what} of '{setting('tenant', tenant)}': add --yes if that is meant")
    with open_client(server, tenant, deadline) as client:
        if keys:
            tell_items(keys, client.delete(keys, layout=layout), WORDS, "deleted", output)
            return
        told, result = _delete_named(client, group, scope, layout, layout_all)
    if output is Output.json:
        print_json({"deleted": bool(result), "what": told, "status": result.status.name})
    elif result:
        print_lines([f"{told}  deleted"])
    if not result:
        fail(f"{told}: {result.status.sentence}", exit_code(result.status))


def _delete_named(
    client: Client, group: str | None, scope: str | None, layout: int, layout_all: bool
) -> tuple[str, ItemResult]:
    """What was deleted, in words, and how it went."""
    if group is not None:
        return f"group {group}", client.delete_group(group, layout=layout)
    if scope is not None:
        return f"scope {scope}", client.delete_scope(scope)
    if layout_all:
        return f"layout {layout}", client.delete_layout(layout)
    return f"tenant {client.tenant}", client.delete_tenant(client.tenant)
