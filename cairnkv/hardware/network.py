"""What keeps RoCE from losing packets: as far as the kernel tells of it, and the commands to type where it does not."""

from collections.abc import Callable, Iterator

from cairnkv.findings import NOT_CHECKED, OK, WARN, Finding
from cairnkv.hardware import qos, rdma
from cairnkv.hardware.machine import Machine

PRIORITIES = range(8)
TRAFFIC_CLASS = "/sys/kernel/config/rdma_cm/{device}/ports/{port}/default_roce_tos"

AskQos = Callable[[str], qos.Qos | str]


def examine(machine: Machine, ask: AskQos) -> Iterator[Finding]:
    """Congestion notification (ECN), flow control (PFC), and by what packets are sorted (DSCP), of every RoCE port. ask: as
    qos.ask; it is called only for network cards."""
    for device in rdma.devices(machine):
        for port in rdma.ports_of(machine, device):
            if machine.text(f"{rdma.DEVICES}/{device}/ports/{port}/link_layer") == "Ethernet":
                yield from _port(machine, device, port, ask)


def _port(machine: Machine, device: str, port: int, ask: AskQos) -> Iterator[Finding]:
    name, network = f"{device} port {port}", network_of(machine, device, port)
    if machine.resolve(f"{rdma.DEVICES}/{device}/device") is None:
        yield Finding(f"{name} flow control", NOT_CHECKED, "it is no network card, but software")
        return
    yield _congestion(machine, name, network)
    yield _flow_control(name, network, ask(network) if network else "its network device is unknown")
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


def _flow_control(name: str, network: str, said: qos.Qos | str) -> Finding:
    shown, name = network or "DEVICE", f"{name} flow control"
    if isinstance(said, str):
        advice = (
            f"type: mlnx_qos -i {shown} (or: dcb pfc show dev {shown}; dcb app show dev {shown}); wanted: trust of dscp, PFC "
            "on the priority of RoCE and on no other"
        )
        return Finding(name, NOT_CHECKED, said, advice)
    paused = ", ".join(map(str, said.paused))
    if said.trust != "dscp":
        text = f"packets are sorted by {said.trust}, which the marks of RoCE over a routed network are not"
        return Finding(name, WARN, text, f"mlnx_qos -i {shown} --trust dscp")
    if not said.paused:
        text = "sorted by dscp; no priority has PFC: lost packets are sent again, unless ECN is quick enough"
        return Finding(name, WARN, text, f"mlnx_qos -i {shown} --pfc 0,0,0,1,0,0,0,0, and the same on the switch")
    if len(said.paused) > 1:
        text = f"sorted by dscp; PFC on priorities {paused}: what pauses one class may pause others"
        return Finding(name, WARN, text, f"mlnx_qos -i {shown} --pfc 0,0,0,1,0,0,0,0: on the priority of RoCE alone")
    return Finding(name, OK, f"sorted by dscp; PFC on priority {paused}")


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
