"""RDMA devices: the libraries, each device's limits, each port's link and addresses."""

import os
import re
from collections.abc import Callable, Iterator

from cairnkv.findings import FAIL, NOT_CHECKED, OK, WARN, Finding
from cairnkv.hardware import pcie
from cairnkv.hardware.machine import Machine
from cairnkv.hardware.verbs import Limits

DEVICES = "/sys/class/infiniband"
FILES = "/dev/infiniband"
PACKAGES = "apt-get install libibverbs1 librdmacm1 ibverbs-providers"
MTU_BYTES_WANTED = 4096
ETHERNET_MTU_WANTED = 4200  # 4096 bytes and the headers of RoCE
QUEUE_PAIRS_LEAST = 1024
REGIONS_LEAST = 1024
READS_WANTED = 16  # that one queue pair may have on their way: what the service uses at most (transport/rdma_device.cc)
NO_ADDRESS = "0000:0000:0000:0000:0000:0000:0000:0000"

AskLimits = Callable[[dict[str, list[int]]], dict[str, Limits | str]]


def devices(machine: Machine) -> list[str]:
    """Names of the RDMA devices that the kernel has."""
    return machine.names(DEVICES)


def ports_of(machine: Machine, device: str) -> list[int]:
    """The numbers of its ports, from 1."""
    return [int(name) for name in machine.names(f"{DEVICES}/{device}/ports") if name.isdigit()]


def cards(machine: Machine) -> dict[str, str]:
    """The folder of the PCI device of every RDMA device that is one, by its name."""
    folders = {name: machine.resolve(f"{DEVICES}/{name}/device") for name in devices(machine)}
    found = {name: pcie.device_of(machine, folder) for name, folder in folders.items() if folder}
    return {name: folder for name, folder in found.items() if folder}


def examine(machine: Machine, missing: list[str], ask: AskLimits) -> Iterator[Finding]:
    """missing: as of verbs.missing_libraries(). ask: as verbs.limits_of_devices; it is called only where nothing is missing."""
    names = devices(machine)
    yield _libraries(missing, bool(names))
    if not names:
        advice = "expected one? type: lspci -nn | grep -i -E 'infiniband|ethernet'; modprobe mlx5_ib; rdma link"
        yield Finding("rdma devices", NOT_CHECKED, "the kernel has no RDMA device", advice)
        return
    yield Finding("rdma devices", OK, ", ".join(names))
    yield _files(machine)
    said = {} if missing else ask({name: ports_of(machine, name) for name in names})
    for name in names:
        limits = said.get(name, "the libraries that it would be asked with are missing")
        yield from _device(machine, name, limits)
        for port in ports_of(machine, name):
            yield from _port(machine, name, port, limits)


def _libraries(missing: list[str], wanted: bool) -> Finding:
    if not missing:
        return Finding("rdma libraries", OK, "libibverbs and librdmacm can be loaded")
    level = FAIL if wanted else NOT_CHECKED
    return Finding("rdma libraries", level, "; ".join(missing), PACKAGES)


def _files(machine: Machine) -> Finding:
    """By which a program reaches the devices. A container has them only when it is given them."""
    names = machine.names(FILES)
    missing = [
        what
        for what, there in (
            ("rdma_cm", "rdma_cm" in names),
            ("uverbs*", any(name.startswith("uverbs") for name in names)),
        )
        if not there
    ]
    if missing:
        advice = "modprobe ib_uverbs rdma_ucm; a container needs --device /dev/infiniband"
        return Finding(
            "rdma files", FAIL, f"there is no {' and no '.join(f'{FILES}/{name}' for name in missing)}", advice
        )
    wanted = [name for name in names if name == "rdma_cm" or name.startswith("uverbs")]
    refused = [name for name in wanted if not os.access(machine.path(f"{FILES}/{name}"), os.R_OK | os.W_OK)]
    if refused:
        advice = "run as a user of their group, or: a rule of udev with MODE=0666, as the distributions have it"
        return Finding(
            "rdma files", FAIL, f"this user may not open {', '.join(f'{FILES}/{name}' for name in refused)}", advice
        )
    return Finding("rdma files", OK, ", ".join(f"{FILES}/{name}" for name in wanted))


def _device(machine: Machine, name: str, limits: Limits | str) -> Iterator[Finding]:
    folder = machine.resolve(f"{DEVICES}/{name}/device")
    if folder is None:
        yield Finding(f"{name} pcie", NOT_CHECKED, "it is no PCI device, but software")
    else:
        yield pcie.check_link(machine, name, folder)
    if isinstance(limits, str):
        yield Finding(f"{name} limits", NOT_CHECKED, limits, f"type: ibv_devinfo -v -d {name}")
        return
    yield _limits(name, limits)
    if limits.windows and limits.max_mw:
        yield Finding(f"{name} memory windows", OK, f"type 2, at most {limits.max_mw:,}")
    else:
        advice = (
            "a client's registered memory is then open to its service for as long as it is registered: docs/security.md"
        )
        yield Finding(f"{name} memory windows", WARN, "none of type 2", advice)


def _limits(name: str, limits: Limits) -> Finding:
    shown = (
        f"{limits.max_qp:,} queue pairs, {limits.max_mr:,} regions, "
        f"{limits.max_qp_rd_atom} reads answered and {limits.max_qp_init_rd_atom} begun at once by a queue pair"
    )
    short = [
        what
        for what, has, wanted in (
            ("queue pairs", limits.max_qp, QUEUE_PAIRS_LEAST),
            ("regions", limits.max_mr, REGIONS_LEAST),
            ("reads at once", min(limits.max_qp_rd_atom, limits.max_qp_init_rd_atom), READS_WANTED),
        )
        if has < wanted
    ]
    if not short:
        return Finding(f"{name} limits", OK, shown)
    advice = (
        f"few {', few '.join(short)}: {QUEUE_PAIRS_LEAST} clients, {REGIONS_LEAST} regions and {READS_WANTED} reads are what "
        "Cairn is made for; look at the firmware's settings (mlxconfig -d DEVICE query)"
    )
    return Finding(f"{name} limits", WARN, shown, advice)


def _port(machine: Machine, device: str, port: int, limits: Limits | str) -> Iterator[Finding]:
    folder, name = f"{DEVICES}/{device}/ports/{port}", f"{device} port {port}"
    layer = machine.text(f"{folder}/link_layer") or "unknown link layer"
    state = machine.text(f"{folder}/state") or "unknown"
    rate = machine.text(f"{folder}/rate") or "rate unknown"
    if state.endswith("ACTIVE"):
        yield Finding(f"{name} link", OK, f"active, {rate}, {layer}")
    else:
        advice = f"look at cable, transceiver and switch; ip link set DEVICE up; type: rdma link show {device}/{port}"
        yield Finding(f"{name} link", FAIL, f"{state}, {rate}, {layer}", advice)
        return
    if not isinstance(limits, str) and port in limits.mtus:
        yield _mtu(name, *limits.mtus[port])
    else:
        yield Finding(f"{name} mtu", NOT_CHECKED, "the device was not asked", f"type: ibv_devinfo -d {device}")
    if layer == "Ethernet":
        yield _addresses(machine, folder, name)


def _mtu(name: str, active: int, most: int) -> Finding:
    if active >= MTU_BYTES_WANTED:
        return Finding(f"{name} mtu", OK, f"{active} bytes")
    if most < MTU_BYTES_WANTED:
        return Finding(
            f"{name} mtu", WARN, f"{active} bytes, and the device has no larger than {most}", "use another device"
        )
    advice = (
        f"ip link set DEVICE mtu {ETHERNET_MTU_WANTED} (or 9000) here, on the other hosts and the switch; on InfiniBand it is "
        "the subnet manager's to set"
    )
    return Finding(f"{name} mtu", WARN, f"{active} bytes; {most} would cost fewer packets", advice)


def gids_of(machine: Machine, folder: str) -> list[tuple[int, str, str, str]]:
    """(index, address, kind, network device) of a port's addresses. Entries that nobody uses are left out."""
    found = []
    for name in machine.names(f"{folder}/gids"):
        address = machine.text(f"{folder}/gids/{name}")
        kind = machine.text(f"{folder}/gid_attrs/types/{name}")  # reading an unused entry's fails
        if name.isdigit() and address and address != NO_ADDRESS and kind:
            found.append((int(name), address, kind, machine.text(f"{folder}/gid_attrs/ndevs/{name}") or ""))
    return found


def _addresses(machine: Machine, folder: str, name: str) -> Finding:
    second = [gid for gid in gids_of(machine, folder) if re.search(r"RoCE v2", gid[2])]
    # ::ffff:a.b.c.d is how an IPv4 address stands in a GID; fe80:: is link-local, and reaches no other subnet.
    routable = [gid for gid in second if not gid[1].startswith("fe80:")]
    if routable:
        index, address, _, device = routable[0]
        return Finding(
            f"{name} addresses", OK, f"{len(routable)} of RoCE v2, such as index {index}: {address} on {device}"
        )
    if second:
        advice = "give its network device an IP address: ip address add ADDRESS/24 dev DEVICE"
        return Finding(f"{name} addresses", WARN, "of RoCE v2 only link-local ones", advice)
    advice = "set its mode to RoCE v2 (cma_roce_mode -d DEVICE -p PORT -m 2) and give its network device an IP address"
    return Finding(f"{name} addresses", FAIL, "none of RoCE v2", advice)
