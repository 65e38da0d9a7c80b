"""NVMe namespaces: whether Cairn could use them by pass-through, and the links of their drives."""

import os
import re
from collections.abc import Iterator

from cairnkv.findings import NOT_CHECKED, OK, WARN, Finding
from cairnkv.hardware import pcie
from cairnkv.hardware.machine import Machine
from cairnkv.hardware.processor import PASSTHROUGH_LEAST, kernel_release

CONTROLLERS = "/sys/class/nvme"
GENERIC = "/sys/class/nvme-generic"


def examine(machine: Machine) -> Iterator[Finding]:
    """Every controller's link, and every namespace's character device. Nothing is read from a drive."""
    controllers = [name for name in machine.names(CONTROLLERS) if re.fullmatch(r"nvme\d+", name)]
    if not controllers:
        text = "the kernel has none; a client needs none, a service may use files"
        yield Finding(
            "nvme drives", NOT_CHECKED, text, "expected some? type: lspci | grep -i 'non-volatile'; nvme list"
        )
        return
    yield Finding(
        "nvme drives", OK, f"{len(controllers)}: {', '.join(_describe(machine, name) for name in controllers)}"
    )
    for name in controllers:
        folder = machine.resolve(f"{CONTROLLERS}/{name}/device")
        if machine.text(f"{CONTROLLERS}/{name}/transport") == "pcie" and folder:
            yield pcie.check_link(machine, name, folder)
        else:
            transport = machine.text(f"{CONTROLLERS}/{name}/transport") or "unknown"
            yield Finding(f"{name} pcie", NOT_CHECKED, f"its transport is {transport}")
    yield _pass_through(machine)


def _describe(machine: Machine, name: str) -> str:
    return f"{name} {machine.text(f'{CONTROLLERS}/{name}/model') or ''}".strip()


def _pass_through(machine: Machine) -> Finding:
    names = machine.names(GENERIC)
    if not names:
        release = kernel_release(machine)
        old = release is not None and release < PASSTHROUGH_LEAST
        advice = "use Linux 5.19 or newer" if old else "type: ls -l /dev/ng*; format the namespaces without metadata"
        return Finding("nvme pass-through", WARN, "the namespaces have no character device (/dev/ng*)", advice)
    refused = [name for name in names if not os.access(machine.path(f"/dev/{name}"), os.R_OK | os.W_OK)]
    if not refused:
        return Finding("nvme pass-through", OK, ", ".join(f"/dev/{name}" for name in names))
    shown = ", ".join(f"/dev/{name}" for name in refused)
    advice = "run the service as root or in the devices' group; in a container pass them in (--device)"
    return Finding("nvme pass-through", WARN, f"this user may not open {shown}", advice)
