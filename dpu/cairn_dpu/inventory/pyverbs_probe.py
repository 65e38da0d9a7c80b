"""A program of its own: prints as JSON what pyverbs says of the RDMA devices.

Run by whichever interpreter has pyverbs (rdma.py), so it imports nothing of ours. Exit status 3: there is no pyverbs.
"""

import importlib
import json
import socket
import sys
from typing import Any

NO_PYVERBS = 3
# Of pyverbs' names for the limits, those that say how much Cairn can do there; by the names that libibverbs gives them.
LIMITS = (
    "max_qp", "max_qp_wr", "max_sge", "max_srq", "max_srq_wr", "max_cq", "max_cqe", "max_mr", "max_mr_size", "max_mw", "max_pd",
    "max_qp_rd_atom", "max_qp_init_rd_atom",
)  # fmt: skip
WINDOW_TYPES = {1 << 23: "2A", 1 << 24: "2B"}
STATES = {0: "unknown", 1: "down", 2: "initialising", 3: "armed", 4: "active", 5: "deferred"}
LAYERS = {0: "unspecified", 1: "InfiniBand", 2: "Ethernet"}
GID_TYPES = {0: "InfiniBand", 1: "RoCE v1", 2: "RoCE v2"}


def mtu_bytes(code: int) -> int:
    """Of enum ibv_mtu: 1 is 256 bytes, 5 is 4096."""
    return 128 << code if code > 0 else 0


def text_of(value: Any) -> str:
    """Pyverbs gives some strings as bytes."""
    return value.decode() if isinstance(value, bytes) else str(value)


def gids_of(context: Any, ports: int) -> dict[int, list[dict[str, Any]]]:
    """The addresses in use, by port."""
    found: dict[int, list[dict[str, Any]]] = {port: [] for port in range(1, ports + 1)}
    entries = sum(context.query_port(port).gid_tbl_len for port in found)
    for entry in context.query_gid_table(entries):
        network = socket.if_indextoname(entry.ndev_ifindex) if entry.ndev_ifindex else ""
        kind = GID_TYPES.get(entry.gid_type, str(entry.gid_type))
        address = text_of(entry.gid_str() if callable(entry.gid_str) else entry.gid_str)
        found[entry.port_num].append({"index": entry.gid_index, "address": address, "type": kind, "network": network})
    return found


def port_of(context: Any, number: int, gids: list[dict[str, Any]]) -> dict[str, Any]:
    """State, link layer, message and packet sizes, and addresses of one port."""
    said = context.query_port(number)
    return {
        "port": number,
        "state": STATES.get(said.state, str(said.state)),
        "link_layer": LAYERS.get(said.link_layer, str(said.link_layer)),
        "mtu_bytes": mtu_bytes(said.active_mtu),
        "mtu_bytes_most": mtu_bytes(said.max_mtu),
        "message_bytes_most": said.max_msg_sz,
        "gids": gids,
    }


def device_of(module: Any, name: str) -> dict[str, Any]:
    """All of one device."""
    with module.Context(name=name) as context:
        said = context.query_device()
        gids = gids_of(context, said.phys_port_cnt)
        return {
            "name": name,
            "firmware": text_of(said.fw_version).strip("\0 "),
            "vendor_id": said.vendor_id,
            "part_id": said.vendor_part_id,
            "memory_windows": [kind for flag, kind in WINDOW_TYPES.items() if said.device_cap_flags & flag],
            "limits": {limit: getattr(said, limit) for limit in LIMITS},
            "ports": [port_of(context, port, gids[port]) for port in gids],
        }


def main() -> int:
    """Every device; one that does not answer has the reason instead."""
    try:
        module: Any = importlib.import_module("pyverbs.device")
    except ModuleNotFoundError:
        return NO_PYVERBS
    devices = []
    for name in sorted(text_of(device.name) for device in module.get_device_list()):
        try:
            devices.append(device_of(module, name))
        except module.PyverbsError as error:
            devices.append({"name": name, "reason": str(error)})
    sys.stdout.write(json.dumps(devices))
    return 0


if __name__ == "__main__":
    sys.exit(main())
