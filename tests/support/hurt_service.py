"""A real service that can be hurt: killed, suspended, started again on the same drive."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from cairnkv.testing import RunningService

# The address of an RDMA device, where there is one (tools/testbed/run says so).
RDMA_HOST = os.environ.get("CAIRN_TESTBED_ADDRESS")


class HurtService(RunningService):
    @property
    def drive(self) -> Path:
        return self.process.folder / "drive.cairn"

    @property
    def urls(self) -> dict[str, str]:
        return {"tcp": self.tcp_url, "shm": self.shm_url, "rdma": self.rdma_url}

    def suspend(self) -> None:
        """The process stands still, every thread of it: alive, connected, silent."""
        os.kill(self.process.pid, signal.SIGSTOP)
        for task in Path(f"/proc/{self.process.pid}/task").iterdir():
            while "State:\tT" not in (task / "status").read_text():
                pass

    def resume(self) -> None:
        os.kill(self.process.pid, signal.SIGCONT)
