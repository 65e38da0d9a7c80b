"""The whole inventory: what is taken of which part."""

import os
import platform
from pathlib import Path
from typing import Any

from cairn_dpu.inventory import nvme, rdma


def take(root: Path = Path("/")) -> dict[str, Any]:
    """`host`, `rdma` and `nvme`, as `cairn-dpu inventory -o json` prints them. root: where sys/ lies."""
    host = {
        "machine": platform.machine(),
        "kernel": platform.release(),
        "cores": os.cpu_count(),
        "page_bytes": os.sysconf("SC_PAGESIZE"),
    }
    return {"host": host, "rdma": rdma.take(root), "nvme": nvme.take(root)}
