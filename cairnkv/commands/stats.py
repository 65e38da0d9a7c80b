"""`cairn stats`: the service's own numbers."""

from typing import Any

from cairnkv.commands.options import Deadline, Output, OutputOption, Server, Tenant, guarded, open_client
from cairnkv.commands.output import print_json, print_lines, print_pairs, print_table
from cairnkv.quantities import show_size

DRIVE_HEADS = ("drive", "state", "size", "segments", "loaded", "errors")


@guarded
def stats(
    *, server: Server = None, tenant: Tenant = None, deadline: Deadline = None, output: OutputOption = Output.table
) -> None:
    """Show your tenant's own numbers, and what the service and its drives are; docs/metrics.md explains each of -o json. The
    numbers of all tenants are the operator's: GET /api/v1/stats on the admin port.

    Examples:

        cairn stats

        cairn stats -o json | jq .store.drives
    """
    with open_client(server, tenant, deadline) as client:
        found = client.stats()
    if output is Output.json:
        print_json(found)
        return
    print_pairs(_service_rows(found), "service")
    print_pairs(_store_rows(found["store"]), "\nstore")
    operations = [(name, row) for name, row in found.get("operations", {}).items() if row["requests"]]
    if operations:
        print_lines([""])
        print_table(("operation", "items", "requests", "max µs"), map(_operation_row, operations))
    if found["store"]["drives"]:
        print_lines([""])
        print_table(DRIVE_HEADS, map(_drive_row, found["store"]["drives"]))


def _service_rows(found: dict[str, Any]) -> list[tuple[str, str]]:
    return [
        ("version", f"{found['version']}, server {found['server_id']}"),
        ("up", f"{found['uptime_seconds']:.0f} s{', draining' if found['draining'] else ''}"),
        ("listens on", ", ".join(found["listeners"])),
        ("sessions", f"{found['sessions']} open, {found['sessions_opened']} ever"),
        ("requests", f"{found['requests']:,}, {found['requests_in_flight']} in flight, {found['timeouts']} timed out"),
        ("payload", f"{show_size(found['received_bytes'])} received, {show_size(found['sent_bytes'])} sent"),
    ]


def _store_rows(store: dict[str, Any]) -> list[tuple[str, str]]:
    hit_ratio = store["hits"] / store["gets"] if store["gets"] else 0.0
    return [
        ("blocks", f"{store['blocks']:,} with {show_size(store['payload_bytes'])}"),
        ("puts", f"{store['puts']:,} stored, {store['put_exists']:,} were there already"),
        ("gets", f"{store['gets']:,}, hit ratio {hit_ratio:.3f} ({store['hits_memory']:,} from memory)"),
        (
            "refused",
            f"{store['refused_quota']:,} for the quota, {store['refused_admission']:,} by the admission policy",
        ),
        ("cache", f"{show_size(store['cache_bytes'])} of a slab of {show_size(store['slab_bytes'])}"),
        ("last start", f"{store['recovered_blocks']:,} blocks found in {store['recovery_seconds']:.2f} s"),
    ]


def _operation_row(item: tuple[str, dict[str, Any]]) -> tuple[str, ...]:
    name, row = item
    numbers = (row["items"], row["requests"], row["latency_us"]["max"])
    return (name, *(f"{number:,.0f}" for number in numbers))


def _drive_row(drive: dict[str, Any]) -> tuple[str, ...]:
    errors = drive["read_errors"] + drive["write_errors"] + drive["checksum_errors"]
    return (
        drive["path"],
        drive["state"],
        show_size(drive["bytes"]),
        f"{drive['segments']:,}",
        f"{drive['loaded_share']:.0%}",
        str(errors),
    )
