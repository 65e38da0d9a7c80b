"""How near a GPU and an RDMA device are: under one bridge bytes go straight, else over the processor's root complex."""

from collections.abc import Iterator, Sequence

from cairnkv.findings import OK, WARN, Finding
from cairnkv.hardware import pcie
from cairnkv.hardware.machine import Machine

ONE_BRIDGE, ONE_ROOT, APART = 2, 1, 0
WORDS = {
    ONE_BRIDGE: "under one bridge with",
    ONE_ROOT: "under one root complex with, and no nearer to,",
    APART: "under another root complex than",
}


def nearness(one: str, other: str) -> int:
    """Of two PCI devices by their folders, such as /sys/devices/pci0000:00/0000:00:01.0/0000:03:00.0."""
    shared = 0
    for left, right in zip(_bridges(one), _bridges(other), strict=False):
        if left != right:
            break
        shared += 1
    return min(shared, ONE_BRIDGE)


def _bridges(folder: str) -> list[str]:
    """The root complex, then the bridges on the way down; not the device itself."""
    words = folder.strip("/").split("/")
    starts = [at for at, word in enumerate(words) if word.startswith("pci")]
    return words[starts[0] : -1] if starts else []


def examine(machine: Machine, gpus: Sequence[str], cards: dict[str, str]) -> Iterator[Finding]:
    """cards: the PCI folder of every RDMA device, by its name. One line for each GPU: the nearest of them."""
    for gpu in gpus:
        folder = machine.resolve(f"{pcie.DEVICES}/{gpu}")
        if folder is None or not cards:
            continue
        name, most = max(((name, nearness(folder, card)) for name, card in cards.items()), key=lambda one: one[1])
        text = f"{WORDS[most]} {name}"
        if most == ONE_BRIDGE:
            yield Finding(f"gpu {gpu} neighbour", OK, text)
            continue
        advice = "put both under one PCIe switch for GPU memory; where that cannot be, blocks by way of the host's memory may be quicker"
        yield Finding(f"gpu {gpu} neighbour", WARN, text, advice)
