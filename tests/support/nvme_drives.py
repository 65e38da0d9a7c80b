"""The NVMe namespaces of the testbed, for tests that run a service on them: they lose what they hold."""

from __future__ import annotations

import contextlib
import os
import stat
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from cairnkv.process import ServiceProcess, socket_for

NAMESPACES = os.environ.get("CAIRN_TESTBED_NAMESPACES", "").split()


def block_device(namespace: str) -> str:
    return namespace.replace("/dev/ng", "/dev/nvme")


def command(*words: str) -> subprocess.CompletedProcess[str]:
    """`cairn-dpu` with these words."""
    return subprocess.run([sys.executable, "-m", "cairn_dpu", *words], capture_output=True, text=True, check=False)


def formatted(namespace: str) -> str:
    """The namespace, as an empty store."""
    done = command("format", "--drive", namespace, "--yes", "--overwrite")
    assert done.returncode == 0, done.stderr
    return namespace


@contextlib.contextmanager
def serving(folder: Path, drives: Sequence[str], rdma_host: str | None = None) -> Iterator[ServiceProcess]:
    """A service until the block ends, and then kill -9. It listens in the folder and, with a host, there over RDMA."""
    settings = [word for path in drives[1:] for word in ("--drive", path)]
    listen = [f"shm://{socket_for(folder)[0]}"]
    if rdma_host is not None:
        listen.append(f"rdma://{rdma_host}:0")
        settings.append("--allow-remote-without-credentials")
    service = ServiceProcess(folder, drive=drives[0], listen=listen, settings=settings)
    service.start()
    try:
        yield service
    finally:
        service.kill()


def controller_of(namespace: str) -> Path | None:
    """Its controller in sysfs; None where that is not the testbed's own, which only may be hurt."""
    controller = Path("/sys/class/nvme-generic", Path(namespace).name).resolve().parent
    return controller if (controller / "transport").read_text() == "loop\n" else None


@contextlib.contextmanager
def removable(controller: Path, namespace: str) -> Iterator[Path]:
    """`delete_controller` of it may be written to; it is there again afterwards."""
    subsystem = (controller / "subsysnqn").read_text().strip()
    yield controller / "delete_controller"
    if not Path(namespace).exists():
        Path("/dev/nvme-fabrics").write_text(f"transport=loop,nqn={subsystem}")
    while not Path(namespace).exists():
        os.sched_yield()


@contextlib.contextmanager
def forgetful(controller: Path) -> Iterator[None]:
    """Until the block ends, whatever is read from its drive that was there before is zeros, without an error."""
    subsystem = (controller / "subsysnqn").read_text().strip()
    target = Path("/sys/kernel/config/nvmet/subsystems", subsystem, "namespaces/1/device_path")
    loop = Path(target.read_text().strip()).name
    backing = Path("/sys/block", loop, "loop/backing_file").read_text().strip()
    size = os.stat(backing).st_size
    os.truncate(backing, 0)
    try:
        yield
    finally:
        os.truncate(backing, size)


class ShallowDrive:
    """A namespace of its own, of which the memory behind it is less than it says: a file with holes on a small file system."""

    NAME, LOOP = "cairn-shallow", 40
    BYTES, ROOM_BYTES = 512 << 20, 192 << 20

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._parts = contextlib.ExitStack()
        with contextlib.ExitStack() as on_failure:
            on_failure.callback(self.close)
            self._do("mount", "-t", "tmpfs", "-o", f"size={self.ROOM_BYTES}", "shallow", str(folder))
            self._parts.callback(self._do, "umount", str(folder))
            backing = folder / "drive"
            backing.touch()
            os.truncate(backing, self.BYTES)
            device = f"/dev/loop{self.LOOP}"
            if not Path(device).exists():
                os.mknod(device, stat.S_IFBLK | 0o600, os.makedev(7, self.LOOP))
            self._do("losetup", device, str(backing))
            self._parts.callback(self._do, "losetup", "-d", device)
            self._offer(device)
            self.namespace = self._connect()
            on_failure.pop_all()

    @staticmethod
    def _do(*words: str) -> None:
        subprocess.run(words, check=True)

    def _offer(self, device: str) -> None:
        """To the hosts that the kernel's target serves, which is this one."""
        target = Path("/sys/kernel/config/nvmet")
        subsystem = target / "subsystems" / self.NAME
        namespace, port = subsystem / "namespaces" / "1", target / "ports" / "1" / "subsystems" / self.NAME
        subsystem.mkdir()
        self._parts.callback(subsystem.rmdir)
        (subsystem / "attr_allow_any_host").write_text("1")
        namespace.mkdir()
        self._parts.callback(namespace.rmdir)
        (namespace / "device_path").write_text(device)
        (namespace / "enable").write_text("1")
        port.symlink_to(subsystem)
        self._parts.callback(port.unlink)

    def _connect(self) -> str:
        Path("/dev/nvme-fabrics").write_text(f"transport=loop,nqn={self.NAME}")
        controllers = Path("/sys/class/nvme").iterdir()
        controller = next(one for one in controllers if (one / "subsysnqn").read_text().strip() == self.NAME)
        self._parts.callback((controller / "delete_controller").write_text, "1")
        namespace = Path("/dev", controller.name.replace("nvme", "ng") + "n1")
        while not namespace.exists():
            os.sched_yield()
        return str(namespace)

    @contextlib.contextmanager
    def full(self) -> Iterator[None]:
        """Until the block ends, what was never written cannot be written: the drive reports an error."""
        filler = self.folder / "filler"
        room = os.statvfs(self.folder)
        with filler.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, room.f_bavail * room.f_bsize)
        try:
            yield
        finally:
            filler.unlink()

    def close(self) -> None:
        self._parts.close()
