"""The guest's own system: Debian's packages, unpacked and not configured, so that no program of the guest's processor runs here.

Of what the packages' own scripts would have done, the guest needs: the list of modules (depmod does that for any processor),
compiled Python (the same for all processors), and a few files in /etc. Its C library finds libraries without a cache.
"""

from __future__ import annotations

import gzip
import os
import shutil
import subprocess
import sys
from pathlib import Path

from cairn_qemu import cpio
from cairn_qemu.architectures import Architecture
from cairn_qemu.building import BUILD, HERE, run, step, stop

SUITE = "bookworm"
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
SOURCES = ("/etc/apt/sources.list", "/etc/apt/sources.list.d/debian.sources")


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
        words = [SUITE, kernel, *PACKAGES, *sources()]
        own = Path(__file__)
        step(
            f"the base image ({self.architecture.debian})",
            self.folder / "base.stamp",
            [*words, own],
            lambda: self._make_image(kernel),
        )
        first = [HERE.parent / "initramfs-init.sh", HERE / "cpio.py", own, self.folder / "base.stamp"]
        step("its initramfs", self.folder / "initramfs.stamp", first, self._make_initramfs)

    @property
    def release(self) -> str:
        """Of the kernel, as its folder of modules is called."""
        found = [path.name for path in (self.root / "lib" / "modules").iterdir()]
        if len(found) != 1:
            stop(f"{self.root} should have one kernel, and has: {', '.join(found) or 'none'}; remove {self.folder}")
        return found[0]

    def _make_image(self, kernel: str) -> None:
        self.log.unlink(missing_ok=True)
        shutil.rmtree(self.root, ignore_errors=True)
        self.root.mkdir(parents=True)
        archive = self.folder / "root.tar"
        run(
            self.log,
            *("mmdebstrap", "--variant=extract", f"--architectures={self.architecture.debian}"),
            *(f"--include={','.join((kernel, *PACKAGES))}", "--format=tar"),
            # An empty suite: what the lists of this machine say. Without them the tool's own knowledge of the suite is used.
            "" if sources() else SUITE,
            archive,
            *sources(),
        )
        run(self.log, "tar", "-xf", archive, "-C", self.root, "--no-same-owner", "--exclude=./dev/*")
        archive.unlink()
        for folder in FOLDERS:
            (self.root / folder).mkdir(parents=True, exist_ok=True)
        for name, content in FILES.items():
            (self.root / name).write_text(content)
        run(self.log, "depmod", "-b", self.root, self.release)
        compile_python(self.log, self.root / "usr" / "lib" / "python3.11", "/usr/lib/python3.11")
        shutil.copyfile(self.root / "boot" / f"vmlinuz-{self.release}", self.kernel)
        make_erofs(self.log, self.image, self.root)

    def _make_initramfs(self) -> None:
        modules = self._modules(FIRST_MODULES)
        content = cpio.archive(
            {
                "init": (HERE.parent / "initramfs-init.sh").read_bytes(),
                "bin/busybox": (self.root / "bin" / "busybox").read_bytes(),
            },
            {f"modules/{module.name}": module.read_bytes() for module in modules}
            | {"modules.order": "".join(f"{module.name}\n" for module in modules).encode()},
        )
        self.initramfs.write_bytes(gzip.compress(content, 6, mtime=0))

    def _modules(self, names: tuple[str, ...]) -> list[Path]:
        """Those, and before each what it needs."""
        found: dict[Path, None] = {}
        for name in names:
            done = subprocess.run(
                ["modprobe", "-d", str(self.root), "-S", self.release, "--show-depends", name],
                capture_output=True,
                text=True,
                check=False,
                env={**os.environ, "LC_ALL": "C"},
            )
            if done.returncode != 0:
                stop(f"the kernel {self.release} has no module {name}: {done.stderr.strip()}")
            for line in done.stdout.splitlines():
                word, *rest = line.split()
                if word == "insmod":  # the other word is `builtin`
                    found[Path(rest[0])] = None
        return list(found)


def sources() -> list[str]:
    """The package lists of this machine, where it has the same system, so that its mirror is used; CAIRN_QEMU_SOURCES names others."""
    named = os.environ.get("CAIRN_QEMU_SOURCES")
    if named:
        if not Path(named).is_file():
            stop(f"CAIRN_QEMU_SOURCES is {named}, which is no file; name one in the form of {SOURCES[0]}")
        return [named]
    release = Path("/etc/os-release")
    if not release.exists() or f"VERSION_CODENAME={SUITE}" not in release.read_text():
        return []
    return [path for path in SOURCES if Path(path).is_file() and Path(path).read_text().strip()]


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
