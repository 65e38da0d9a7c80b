"""The inventory for people: one table of devices, one of addresses, one of namespaces, and in sentences what is missing."""

import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from cairn_dpu.quantities import describe_size

PORT_HEADS = ("device", "firmware", "port", "state", "rate", "mtu", "windows", "queue pairs", "regions", "reads")
GID_HEADS = ("device", "port", "index", "type", "network", "address")
NAMESPACE_HEADS = (
    "namespace",
    "block device",
    "model",
    "size",
    "LBA",
    "one command",
    "write cache",
    "FDP",
    "deallocate",
    "link",
)


def show(inventory: dict[str, Any]) -> None:
    """Prints it on stdout."""
    sys.stdout.writelines(f"{line}\n" for line in lines_of(inventory))


def lines_of(inventory: dict[str, Any]) -> Iterator[str]:
    """The tables, and a sentence for everything that is not in them."""
    rdma, controllers = inventory["rdma"], inventory["nvme"]
    host = inventory["host"]
    yield f"{host['machine']}, Linux {host['kernel']}, {host['cores']} cores, {host['page_bytes'] >> 10} KiB pages"
    yield ""
    yield from _table(PORT_HEADS, _port_rows(rdma["devices"]))
    addresses = list(_table(GID_HEADS, _gid_rows(rdma["devices"])))
    yield from ["", *addresses] if addresses else []
    yield from _sentences(rdma)
    yield ""
    rows = [_namespace_row(one, space) for one in controllers for space in one["namespaces"] if "reason" not in space]
    yield from _table(NAMESPACE_HEADS, rows)
    refused = [space for one in controllers for space in one["namespaces"] if "reason" in space]
    yield from (space["reason"] for space in refused)
    empty = [one["name"] for one in controllers if not one["namespaces"]]
    yield from (
        f"{name} has no namespace with a character device (/dev/ng*): Linux 5.13 or newer makes them" for name in empty
    )
    if not controllers:
        yield "NVMe: the kernel has no controller; expected some? lspci | grep -i 'non-volatile'"


def _sentences(rdma: dict[str, Any]) -> Iterator[str]:
    if rdma["reason"]:
        yield f"RDMA: {rdma['reason']}"
    for device in rdma["devices"]:
        if "reason" in device and device["reason"] != rdma["reason"]:
            yield f"{device['name']}: {device['reason']}"
        elif "reason" in device:
            yield f"{device['name']}: not asked"


def _port_rows(devices: Iterable[dict[str, Any]]) -> Iterator[Sequence[str]]:
    for device in devices:
        for port in device.get("ports", []):
            limits = device["limits"]
            yield (
                device["name"],
                device["firmware"],
                str(port["port"]),
                f"{port['state']}, {port['link_layer']}",
                port["rate"],
                f"{port['mtu_bytes']} of {port['mtu_bytes_most']}",
                " ".join(device["memory_windows"]) or "none",
                f"{limits['max_qp']:,}",
                f"{limits['max_mr']:,}",
                f"{limits['max_qp_rd_atom']}/{limits['max_qp_init_rd_atom']}",
            )


def _gid_rows(devices: Iterable[dict[str, Any]]) -> Iterator[Sequence[str]]:
    for device in devices:
        for port in device.get("ports", []):
            for gid in port["gids"]:
                place = (device["name"], str(port["port"]), str(gid["index"]))
                yield (*place, gid["type"], gid["network"], gid["address"])


def _namespace_row(controller: dict[str, Any], space: dict[str, Any]) -> Sequence[str]:
    limits = [limit for limit in (space["transfer_bytes_most"], space["kernel_bytes_most"]) if limit]
    cache = "none" if not space["write_cache"] else ("on" if space["write_cache_on"] else "off")
    placement = f"{space['placement_ids']} handles" if space["placement_ids"] else ("off" if space["places"] else "no")
    link = (
        f"{controller['link_speed']} x{controller['link_width']}"
        if controller["link_speed"]
        else controller["transport"]
    )
    return (
        space["path"],
        space["block_path"] or "-",
        controller["model"],
        describe_size(space["bytes"]) + (", write protected" if space["write_protected"] else ""),
        str(space["lba_bytes"]),
        describe_size(min(limits)) if limits else "any length",
        cache,
        placement,
        "yes" if space["deallocates"] else "no",
        link,
    )


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """One line a row, however wide: an address that is cut is of no use. Nothing where there is no row."""
    lines = list(rows)
    if not lines:
        return
    widths = [max(len(cell) for cell in column) for column in zip(heads, *lines, strict=True)]
    for line in (heads, *lines):
        yield "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
