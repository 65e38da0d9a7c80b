"""What keeps RoCE from losing packets: as far as the kernel tells of it, and the commands to type where it does not."""

from collections.abc import Iterator

from cairnkv.findings import NOT_CHECKED, OK, WARN, Finding
from cairnkv.hardware import rdma
from cairnkv.hardware.machine import Machine

PRIORITIES = range(8)
TRAFFIC_CLASS = "/sys/kernel/config/rdma_cm/{device}/ports/{port}/default_roce_tos"


def examine(machine: Machine) -> Iterator[Finding]:
    """Congestion notification (ECN), flow control (PFC), and by what packets are sorted (DSCP), of every RoCE port."""
    for device in rdma.devices(machine):
        for port in rdma.ports_of(machine, device):
            if machine.text(f"{rdma.DEVICES}/{device}/ports/{port}/link_layer") == "Ethernet":
                yield from _port(machine, device, port)


def _port(machine: Machine, device: str, port: int) -> Iterator[Finding]:
    name, network = f"{device} port {port}", network_of(machine, device, port)
    if machine.resolve(f"{rdma.DEVICES}/{device}/device") is None:
        yield Finding(f"{name} flow control", NOT_CHECKED, "it is no network card, but software")
        return
    shown = network or "DEVICE"
    yield _congestion(machine, name, network)
    advice = (
        f"type: mlnx_qos -i {shown} (or: dcb pfc show dev {shown}; dcb app show dev {shown}); wanted: trust of dscp, PFC on "
        "the priority of RoCE and on no other"
    )
    yield Finding(
        f"{name} flow control", NOT_CHECKED, "the kernel does not tell PFC and trust of DSCP in a file", advice
    )
    tos = machine.number(TRAFFIC_CLASS.format(device=device, port=port))
    if tos:
        yield Finding(
            f"{name} dscp", OK, f"connections are marked with DSCP {tos >> 2} unless the service says otherwise"
        )
    else:
        advice = f"serve with --rdma-dscp 26, or for all: cma_roce_tos -d {device} -p {port} -t 106"
        yield Finding(
            f"{name} dscp", NOT_CHECKED, "no default for connections is set, or configfs is not mounted", advice
        )


def network_of(machine: Machine, device: str, port: int) -> str:
    """The network device that carries the port; empty: unknown."""
    gids = rdma.gids_of(machine, f"{rdma.DEVICES}/{device}/ports/{port}")
    return next((gid[3] for gid in gids if gid[3]), "")


def _congestion(machine: Machine, name: str, network: str) -> Finding:
    """The files are those of NVIDIA's own driver package; the kernel's own driver has none."""
    folder = f"/sys/class/net/{network}/ecn"
    roles = {"roce_np": "notified of", "roce_rp": "reacted to"}
    states = {
        role: [priority for priority in PRIORITIES if machine.number(f"{folder}/{role}/enable/{priority}")]
        for role in roles
        if network and machine.exists(f"{folder}/{role}/enable")
    }
    if not states:
        advice = (
            f"type: ethtool -S {network or 'DEVICE'} | grep -E 'ecn|cnp', before load and after; mark ECN on the switch"
        )
        return Finding(f"{name} ecn", NOT_CHECKED, "this driver does not tell it in a file", advice)
    off = [role for role, on in states.items() if not on]
    if off:
        paths = ", ".join(f"{folder}/{role}/enable/PRIORITY" for role in off)
        return Finding(f"{name} ecn", WARN, "congestion is not answered on any priority", f"write 1 into {paths}")
    shown = "; ".join(f"{roles[role]} on priorities {', '.join(map(str, on))}" for role, on in states.items())
    return Finding(f"{name} ecn", OK, f"congestion is {shown}")
