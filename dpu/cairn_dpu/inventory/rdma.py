"""RDMA devices, asked through pyverbs, the distribution's binding of libibverbs."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from cairn_dpu.inventory import pyverbs_probe

SYSTEM_PYTHON = "/usr/bin/python3"
DEVICES = "sys/class/infiniband"
SECONDS_MOST = 30
INSTALL = "install the distribution's package: apt-get install python3-pyverbs"


def interpreters() -> list[str]:
    """Those that could have pyverbs, the likelier first. It is no package of an index, and a virtual environment does not see
    what the distribution installed for its own interpreter."""
    own = [sys.executable] if importlib.util.find_spec("pyverbs") else []
    return [*own, *([SYSTEM_PYTHON] if Path(SYSTEM_PYTHON).exists() else [])]


def take(root: Path, asked: list[str] | None = None) -> dict[str, Any]:
    """`devices`, each with what it said or the reason why nothing; `reason`: why the devices were not asked, else empty.
    asked: the interpreters; None: interpreters()."""
    folder = root / DEVICES
    names = sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []
    if not names:
        return {
            "devices": [],
            "reason": "the kernel has no RDMA device; expected one? modprobe mlx5_ib, then: rdma link",
        }
    said, reason = _ask(interpreters() if asked is None else asked)
    devices = [
        said.get(name, {"name": name, "reason": reason or "libibverbs does not list it: install ibverbs-providers"})
        for name in names
    ]
    for device in devices:
        for port in device.get("ports", []):
            port["rate"] = _rate(folder / device["name"] / "ports" / str(port["port"]) / "rate")
    return {"devices": devices, "reason": reason}


def _rate(file: Path) -> str:
    """Such as 400 Gb/sec (4X NDR): the kernel works it out of speed and width better than we would."""
    try:
        return file.read_text().strip()
    except OSError:  # a port that has just gone away has none
        return ""


def _ask(candidates: list[str]) -> tuple[dict[str, dict[str, Any]], str]:
    """What the first interpreter with pyverbs says of each device, and why nothing was said. A process of its own, so that a
    device's driver that breaks there does not end this one."""
    for interpreter in candidates:
        command = [interpreter, "-I", str(Path(pyverbs_probe.__file__).resolve())]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS_MOST, check=False)
        except subprocess.TimeoutExpired:
            return {}, f"pyverbs did not answer within {SECONDS_MOST} s: does ibv_devinfo?"
        except OSError as error:
            return {}, f"{interpreter} cannot be run: {error.strerror}"
        if done.returncode == pyverbs_probe.NO_PYVERBS:
            continue
        if done.returncode != 0:
            last = (done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"])[-1]
            return {}, f"pyverbs broke: {last}; does ibv_devinfo work?"
        return {device["name"]: device for device in json.loads(done.stdout)}, ""
    return {}, f"there is no pyverbs here, by which their limits are asked; {INSTALL}"
