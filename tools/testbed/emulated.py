"""The testbed's other machine: QEMU emulates it, so it has several processors and a whole address space, and Debian's own kernel runs in it.

It sees this machine's root file system over virtio-9p. What its command writes to stdout and stderr comes through two serial ports of
virtio, because a port is no terminal, which would change bytes, and the kernel's console has a line of its own.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

from cairn_guest import packages
from cairn_guest.building import ROOT, step
from testbed.machine import Machine

HERE = Path(__file__).resolve().parent
BUILD = ROOT / "build" / "testbed" / "emulated"
INIT = HERE / "emulated-init.sh"
KERNEL = BUILD / "vmlinuz"
INITRAMFS = BUILD / "initramfs.gz"
EMULATOR = "qemu-system-x86_64"
ARCHITECTURE = "amd64"  # as Debian calls it
PACKAGES = ("linux-image-amd64", "busybox-static")
MODULES = (
    *("virtio_pci", "9pnet_virtio", "9p", "virtio_console"),
    *("dummy", "crc32_generic", "rdma_rxe", "rdma_ucm", "ib_uverbs"),
    *("configfs", "nvme", "crc32c_generic", "ext4"),
)
# What it needs besides the testbed's own, as tools/setup.sh's group `emulated` names it.
NEEDED = {
    EMULATOR: "qemu-system-x86",
    "setpriv": "util-linux",
    "mmdebstrap": "mmdebstrap",
    "modprobe": "kmod",
    "depmod": "kmod",
}
BOOT_SECONDS_MOST = 240.0  # on a busy machine
PROCESSORS = 2


def make() -> None:
    """The kernel and its first root, unless they were made before."""
    words: list[str | Path] = [packages.SUITE, ARCHITECTURE, *PACKAGES, *MODULES, *packages.sources()]
    inputs = [*words, Path(__file__).resolve(), INIT, packages.OWN]
    step("the emulated machine's kernel", BUILD / "stamp", inputs, _make)


def _make() -> None:
    """Of what is unpacked only these two files stay; the rest is half a gigabyte."""
    root = BUILD / "root"
    shutil.rmtree(BUILD, ignore_errors=True)
    root.mkdir(parents=True)
    packages.unpack(BUILD.with_suffix(".log"), root, ARCHITECTURE, PACKAGES)
    shutil.copyfile(root / "boot" / f"vmlinuz-{packages.release_of(root)}", KERNEL)
    INITRAMFS.write_bytes(packages.initramfs(root, INIT, MODULES))
    shutil.rmtree(root)


def machine_for(arguments: argparse.Namespace, folder: Path) -> Machine:
    """Two serial ports are a socket each; the ends that are not QEMU's are ours to read."""
    (out, its_out), (error, its_error) = socket.socketpair(), socket.socketpair()
    ports = {"stdout": its_out.detach(), "stderr": its_error.detach()}
    end = end_of_stream(folder)
    return Machine(
        words_for(arguments, folder, ports),
        descriptors=tuple(ports.values()),
        out=received(out, end),
        error=received(error, end),
        boot_seconds_most=BOOT_SECONDS_MOST,
    )


def words_for(arguments: argparse.Namespace, folder: Path, ports: dict[str, int]) -> list[str]:
    """The command that is the machine. ports: the descriptor of a socket for each serial port, by its name."""
    settings = {
        "testbed_emulated": 1,
        "testbed_folder": folder,
        "testbed_rdma": arguments.rdma,
        "testbed_nvme": arguments.nvme,
        "testbed_nvme_mb": arguments.nvme_mb,
    }
    append = " ".join(f"{name}={value}" for name, value in settings.items())
    # QEMU must not outlive this program, however that ends.
    words = ["setpriv", "--pdeathsig", "KILL", EMULATOR, "-nodefaults", "-no-user-config", "-no-reboot"]
    words += ["-display", "none", "-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", "max"]
    words += ["-smp", str(arguments.processors), "-m", str(arguments.mem)]
    words += ["-kernel", str(KERNEL), "-initrd", str(INITRAMFS)]
    # A kernel that panics, or whose first process ends, starts again at once, which ends QEMU.
    words += ["-append", f"console=ttyS0 panic=-1 quiet loglevel=4 {append}"]
    words += ["-virtfs", "local,path=/,security_model=none,mount_tag=host,multidevs=remap"]
    # Appended to, because QEMU's own errors go there as well.
    words += ["-chardev", f"file,id=console,path={folder}/console,append=on", "-serial", "chardev:console"]
    for number in range(arguments.nvme):
        (folder / f"nvme{number}").touch()
        os.truncate(folder / f"nvme{number}", arguments.nvme_mb << 20)
        words += ["-blockdev", f"driver=file,node-name=nvme{number},filename={folder}/nvme{number},discard=unmap"]
        # As in the other one: the first has logical blocks of 512 bytes, the second of 4,096, and so on in turn.
        blocks = f"logical_block_size={(512, 4096)[number % 2]},physical_block_size=4096"
        words += ["-device", f"nvme,serial=cairn{number},drive=nvme{number},{blocks}"]
    words += ["-device", "virtio-serial-pci"]
    for name, port in ports.items():
        words += ["-chardev", f"socket,id={name},fd={port}", "-device", f"virtserialport,chardev={name},name={name}"]
    return words


def end_of_stream(folder: Path) -> bytes:
    """What guest.sh writes behind everything else; nothing else ends like that."""
    return b"\0" + os.fsencode(folder.name)


def received(port: socket.socket, end: bytes) -> Iterator[bytes]:
    """What comes, until the machine is gone. It answers the end of the stream, because the machine must not be switched off while
    something is still on its way through QEMU. What may be the beginning of that end waits for the rest of it."""
    kept = b""
    with port, contextlib.suppress(ConnectionError):  # it was killed, and had not read the answer
        while part := port.recv(1 << 16):
            kept += part
            if kept.endswith(end):
                yield kept.removesuffix(end)
                kept = b""
                port.sendall(b"\n")
                continue
            nul = kept.rfind(end[:1])
            whole = nul if nul >= 0 and end.startswith(kept[nul:]) else len(kept)
            yield kept[:whole]
            kept = kept[whole:]
    yield kept
