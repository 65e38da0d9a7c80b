"""PCI Express: at what speed and width a device is linked, and what its bridges do to traffic between devices."""

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from cairnkv.findings import NOT_CHECKED, OK, WARN, Finding
from cairnkv.hardware.machine import Machine

DEVICES = "/sys/bus/pci/devices"
BRIDGE_CLASS = 0x0604
FIRST_EXTENDED = 0x100  # of the configuration space; only root may read that far
ACS, ATS = 0x000D, 0x000F
ACS_CONTROL_AT = 6
ATS_CONTROL_AT = 6
# Request redirect, completion redirect, egress control: with them traffic between two devices goes over the root complex.
ACS_REDIRECTS = 0b0010_1100
ATS_ENABLED = 1 << 15


@dataclass(frozen=True, slots=True)
class Link:
    """A device's link: gigatransfers a second and lanes, as they are and as they could be."""

    speed: float
    width: int
    speed_most: float
    width_most: int


def device_of(machine: Machine, folder: str) -> str | None:
    """The PCI device behind a folder of /sys/devices: itself; of a sub-function the device that it is part of; of a virtual
    function the real one, which has the link. None: there is none."""
    words = folder.split("/")
    for end in range(len(words), 2, -1):
        found = "/".join(words[:end])
        if machine.exists(f"{found}/vendor"):
            return machine.resolve(f"{found}/physfn") or found
    return None


def link_of(machine: Machine, folder: str) -> Link | None:
    """folder: a PCI device's. None where the kernel tells nothing: a virtual device, or one that is no PCI device."""
    speed, width = _speed(machine.text(f"{folder}/current_link_speed")), machine.number(f"{folder}/current_link_width")
    speed_most = _speed(machine.text(f"{folder}/max_link_speed"))
    width_most = machine.number(f"{folder}/max_link_width")
    if not speed or not width or not speed_most or not width_most:
        return None
    return Link(speed, width, speed_most, width_most)


def _speed(text: str | None) -> float:
    found = re.match(r"([\d.]+) GT/s", text or "")
    return float(found.group(1)) if found else 0.0


def check_link(machine: Machine, name: str, folder: str) -> Finding:
    """Whether the device at `folder` has all the link that it could have."""
    device = device_of(machine, folder)
    link = link_of(machine, device) if device else None
    if link is None:
        return Finding(
            f"{name} pcie", NOT_CHECKED, "no PCI Express link is told of it", "type: lspci -vv | grep LnkSta"
        )
    shown = f"{link.speed:g} GT/s x{link.width}"
    if (link.speed, link.width) == (link.speed_most, link.width_most):
        return Finding(f"{name} pcie", OK, shown)
    advice = "look at slot, riser, bifurcation and BIOS; an idle GPU also clocks down, so look again under load"
    most = f"{link.speed_most:g} GT/s x{link.width_most}"
    return Finding(f"{name} pcie", WARN, f"{shown}; the device could have {most}", advice)


def capability_at(config: bytes, wanted: int) -> int | None:
    """Where an extended capability begins in a configuration space; None: it is not there, or the space is cut short."""
    at, seen = FIRST_EXTENDED, set()
    while at >= FIRST_EXTENDED and at + 4 <= len(config) and at not in seen:
        seen.add(at)
        (header,) = struct.unpack_from("<I", config, at)
        if header & 0xFFFF == wanted:
            return at
        at = header >> 20
    return None


def word_of(config: bytes, capability: int, offset: int) -> int | None:
    """A register of 16 bits of an extended capability."""
    at = capability_at(config, capability)
    if at is None or at + offset + 2 > len(config):
        return None
    return int(struct.unpack_from("<H", config, at + offset)[0])


def examine_fabric(machine: Machine, has_peers: bool) -> Iterator[Finding]:
    """ACS of the bridges and ATS of the devices. has_peers: there are a GPU and a network card that should meet."""
    configs = {name: machine.data(f"{DEVICES}/{name}/config") or b"" for name in machine.names(DEVICES)}
    if not configs:
        yield Finding("pcie acs", NOT_CHECKED, "there is no PCI bus")
        return
    if all(len(config) <= FIRST_EXTENDED for config in configs.values()):
        advice = "as root type: lspci -vvv | grep -E 'ACSCtl|ATSCtl'"
        yield Finding("pcie acs", NOT_CHECKED, "the extended configuration space cannot be read", advice)
        return
    bridges = {name for name in configs if (machine.number(f"{DEVICES}/{name}/class") or 0) >> 8 == BRIDGE_CLASS}
    redirecting = [
        name for name in configs
        if name in bridges and (word_of(configs[name], ACS, ACS_CONTROL_AT) or 0) & ACS_REDIRECTS
    ]  # fmt: skip
    if not redirecting:
        shown = f"none of {len(bridges)} bridges sends" if bridges else "there is no bridge that sends"
        yield Finding("pcie acs", OK, f"{shown} traffic between devices over the root")
    else:
        shown = ", ".join(redirecting[:4]) + (" …" if len(redirecting) > 4 else "")
        text = f"{len(redirecting)} of {len(bridges)} bridges redirect traffic between devices ({shown})"
        advice = "for GPU memory: switch ACS off in the BIOS, or setpci -s BRIDGE ECAP_ACS+6.w=0; not on a machine with guests"
        yield Finding("pcie acs", WARN if has_peers else OK, text, advice if has_peers else "")
    able = [name for name, config in configs.items() if capability_at(config, ATS) is not None]
    enabled = [name for name in able if (word_of(configs[name], ATS, ATS_CONTROL_AT) or 0) & ATS_ENABLED]
    yield Finding("pcie ats", OK, f"{len(able)} devices can cache translations, {len(enabled)} do")
