"""NVMe controllers and their namespaces: the kernel's files, and the namespaces' own answers."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cairn_dpu import _native

CONTROLLERS = "sys/class/nvme"
SUBSYSTEMS = "sys/class/nvme-subsystem"
FACTS = {"model": "model", "serial": "serial", "firmware": "firmware_rev", "transport": "transport", "state": "state"}
LINK = {"link_speed": "current_link_speed", "link_width": "current_link_width",
        "link_speed_most": "max_link_speed", "link_width_most": "max_link_width"}  # fmt: skip


def take(root: Path, describe: Callable[[str], str] = _native.describe_nvme) -> list[dict[str, Any]]:
    """Every controller with its namespaces. A namespace that cannot be asked, or not be used, has the `reason` instead."""
    folder = root / CONTROLLERS
    names = [entry.name for entry in _folders(folder) if re.fullmatch(r"nvme\d+", entry.name)]
    return [_controller(root, folder / name, describe) for name in sorted(names, key=lambda name: int(name[4:]))]


def _controller(root: Path, folder: Path, describe: Callable[[str], str]) -> dict[str, Any]:
    found: dict[str, Any] = {"name": folder.name}
    found |= {name: _line(folder / file) for name, file in FACTS.items()}
    found |= {name: _line(folder / "device" / file) for name, file in LINK.items()}
    # Where a drive may have several controllers, its namespaces lie beside these, in their subsystem.
    folders = [folder, *(subsystem for subsystem in _folders(root / SUBSYSTEMS) if (subsystem / folder.name).exists())]
    generic = sorted(
        {entry.name for one in folders for entry in _folders(one) if re.fullmatch(r"ng\d+n\d+", entry.name)}
    )
    found["namespaces"] = [_namespace(f"/dev/{name}", describe) for name in generic]
    return found


def _namespace(path: str, describe: Callable[[str], str]) -> dict[str, Any]:
    try:
        described: dict[str, Any] = json.loads(describe(path))
    except _native.CairnError as error:
        return {"path": path, "reason": str(error)}
    return described


def _folders(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []


def _line(file: Path) -> str:
    """Empty where the kernel has no such file: a controller that is no PCI device has no link."""
    try:
        return file.read_text().strip()
    except OSError:
        return ""
