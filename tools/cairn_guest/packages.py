"""Debian's packages, unpacked and not configured, so that no program of the guest's processor runs here; and of their kernel's modules
the first root that it boots from."""

from __future__ import annotations

import gzip
import os
import subprocess
from collections.abc import Iterable
from pathlib import Path

from cairn_guest import cpio
from cairn_guest.building import BuildError, NoProgramError, run

SUITE = "bookworm"
SOURCES = ("/etc/apt/sources.list", "/etc/apt/sources.list.d/debian.sources")
OWN = Path(__file__).resolve().parent  # an input of whatever is made by this code


def sources() -> list[str]:
    """The package lists of this machine, where it has the same system, so that its mirror is used; CAIRN_QEMU_SOURCES names others."""
    named = os.environ.get("CAIRN_QEMU_SOURCES")
    if named:
        if not Path(named).is_file():
            raise BuildError(f"CAIRN_QEMU_SOURCES is {named}, which is no file; name one in the form of {SOURCES[0]}")
        return [named]
    release = Path("/etc/os-release")
    if not release.exists() or f"VERSION_CODENAME={SUITE}" not in release.read_text():
        return []
    return [path for path in SOURCES if Path(path).is_file() and Path(path).read_text().strip()]


def unpack(log: Path, root: Path, architecture: str, packages: Iterable[str]) -> None:
    """Those and what they need, of that processor (as Debian calls it), into the empty folder `root`."""
    archive = root.with_suffix(".tar")
    run(
        log,
        *("mmdebstrap", "--variant=extract", f"--architectures={architecture}"),
        *(f"--include={','.join(packages)}", "--format=tar"),
        # An empty suite: what the lists of this machine say. Without them the tool's own knowledge of the suite is used.
        "" if sources() else SUITE,
        archive,
        *sources(),
    )
    run(log, "tar", "-xf", archive, "-C", root, "--no-same-owner", "--exclude=./dev/*")
    archive.unlink()
    run(log, "depmod", "-b", root, release_of(root))


def release_of(root: Path) -> str:
    """Of the kernel, as its folder of modules is called."""
    found = [path.name for path in (root / "lib" / "modules").iterdir()]
    if len(found) != 1:
        raise BuildError(f"{root} should have one kernel, and has: {', '.join(found) or 'none'}; remove {root.parent}")
    return found[0]


def modules_of(root: Path, names: Iterable[str]) -> list[Path]:
    """Those, and before each what it needs."""
    found: dict[Path, None] = {}
    release = release_of(root)
    for name in names:
        words = ["modprobe", "-d", str(root), "-S", release, "--show-depends", name]
        try:
            done = subprocess.run(words, capture_output=True, text=True, check=False, env={**os.environ, "LC_ALL": "C"})
        except FileNotFoundError:
            raise NoProgramError(f"there is no {words[0]}") from None
        if done.returncode != 0:
            raise BuildError(f"the kernel {release} has no module {name}: {done.stderr.strip()}")
        for line in done.stdout.splitlines():
            word, *rest = line.split()
            if word == "insmod":  # the other word is `builtin`
                found[Path(rest[0])] = None
    return list(found)


def initramfs(root: Path, init: Path, names: Iterable[str]) -> bytes:
    """The script `init`, busybox to run it, and the modules of those names with what they need, in the order of /modules.order."""
    modules = modules_of(root, names)
    content = cpio.archive(
        {"init": init.read_bytes(), "bin/busybox": (root / "bin" / "busybox").read_bytes()},
        {f"modules/{module.name}": module.read_bytes() for module in modules}
        | {"modules.order": "".join(f"{module.name}\n" for module in modules).encode()},
    )
    return gzip.compress(content, 6, mtime=0)
