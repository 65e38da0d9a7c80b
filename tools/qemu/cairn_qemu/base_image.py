"""The guest's own system: Debian's packages, unpacked and not configured, so that no program of the guest's processor runs here.

Of what the packages' own scripts would have done, the guest needs: the list of modules (depmod does that for any processor),
compiled Python (the same for all processors), and a few files in /etc. Its C library finds libraries without a cache.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from cairn_guest import packages
from cairn_guest.building import run, step
from cairn_qemu.architectures import Architecture
from cairn_qemu.building import BUILD, HERE

PYTHON = (3, 11)  # of that suite
PACKAGES = (
    *("busybox-static", "iproute2", "kmod", "python3"),
    *("libibverbs1", "ibverbs-providers", "librdmacm1", "libisal2", "liburing2"),
    # To compile against, on this machine.
    *("libc6-dev", "libpython3.11-dev", "libibverbs-dev", "librdmacm-dev", "libisal-dev", "liburing-dev"),
)
FIRST_MODULES = ("virtio_pci", "virtio_blk", "crc32c_generic", "erofs")
FOLDERS = ("proc", "sys", "dev", "run", "tmp", "root", "opt/cairn")
FILES = {
    "etc/passwd": "root:x:0:0:root:/tmp:/bin/sh\n",
    "etc/group": "root:x:0:\n",
    "etc/hosts": "127.0.0.1 localhost\n10.77.0.1 guest\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
}


class BaseImage:
    """Its parts are there once `make` was called."""

    def __init__(self, architecture: Architecture) -> None:
        self.architecture = architecture
        self.folder = BUILD / architecture.debian
        self.root = self.folder / "root"
        self.image = self.folder / "base.erofs"
        self.kernel = self.folder / "vmlinuz"
        self.initramfs = self.folder / "initramfs.gz"
        self.log = self.folder / "base.log"

    def make(self) -> None:
        kernel = f"linux-image-{self.architecture.debian}"
        words = [packages.SUITE, kernel, *PACKAGES, *packages.sources()]
        own = Path(__file__)
        step(
            f"the base image ({self.architecture.debian})",
            self.folder / "base.stamp",
            [*words, own, packages.OWN],
            lambda: self._make_image(kernel),
        )
        first = [HERE.parent / "initramfs-init.sh", own, self.folder / "base.stamp"]
        step("its initramfs", self.folder / "initramfs.stamp", first, self._make_initramfs)

    def _make_image(self, kernel: str) -> None:
        self.log.unlink(missing_ok=True)
        shutil.rmtree(self.root, ignore_errors=True)
        self.root.mkdir(parents=True)
        packages.unpack(self.log, self.root, self.architecture.debian, (kernel, *PACKAGES))
        for folder in FOLDERS:
            (self.root / folder).mkdir(parents=True, exist_ok=True)
        for name, content in FILES.items():
            (self.root / name).write_text(content)
        compile_python(self.log, self.root / "usr" / "lib" / "python3.11", "/usr/lib/python3.11")
        shutil.copyfile(self.root / "boot" / f"vmlinuz-{packages.release_of(self.root)}", self.kernel)
        make_erofs(self.log, self.image, self.root)

    def _make_initramfs(self) -> None:
        init = HERE.parent / "initramfs-init.sh"
        self.initramfs.write_bytes(packages.initramfs(self.root, init, FIRST_MODULES))


def compile_python(log: Path, folder: Path, name: str) -> None:
    """What the guest would otherwise do at every start, and much more slowly. Only the same version of Python can."""
    if sys.version_info[:2] == PYTHON:
        words = [
            "-m",
            "compileall",
            "-q",
            "-j",
            "0",
            "--invalidation-mode",
            "unchecked-hash",
            "-x",
            "lib2to3/tests|test/bad",
        ]
        run(log, sys.executable, *words, "-s", folder, "-p", name, folder)


def make_erofs(log: Path, image: Path, folder: Path) -> None:
    image.unlink(missing_ok=True)
    run(log, "mkfs.erofs", "-T", "0", "--all-root", "--quiet", image, folder)
