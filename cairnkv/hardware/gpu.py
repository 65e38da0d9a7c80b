"""GPUs: whether a network card may read and write their memory."""

from collections.abc import Callable, Iterator

from cairnkv.findings import NOT_CHECKED, OK, WARN, Finding
from cairnkv.hardware import pcie
from cairnkv.hardware.machine import Machine
from cairnkv.hardware.processor import kernel_release

NVIDIA = 0x10DE
DISPLAY_CLASSES = (0x0300, 0x0302)  # with a screen, and without
DMA_BUF_LEAST = (5, 12)  # registration of dma-buf memory by RDMA
DRIVER = "/proc/driver/nvidia/version"

AskGpus = Callable[[], list[tuple[bool, bool]] | str]


def gpus(machine: Machine) -> list[str]:
    """PCI addresses of NVIDIA's GPUs."""
    return [
        name
        for name in machine.names(pcie.DEVICES)
        if machine.number(f"{pcie.DEVICES}/{name}/vendor") == NVIDIA
        and (machine.number(f"{pcie.DEVICES}/{name}/class") or 0) >> 8 in DISPLAY_CLASSES
    ]


def examine(machine: Machine, ask: AskGpus) -> Iterator[Finding]:
    """ask: as cuda.ask_gpus; it is called only where there is a GPU."""
    found = gpus(machine)
    if not found:
        text = "there is none of NVIDIA; memory of the host is all that a client needs"
        yield Finding("gpu", NOT_CHECKED, text, "expected one? type: lspci | grep -i nvidia")
        return
    yield Finding("gpu", OK, f"{len(found)}: {', '.join(found)}")
    for name in found:
        yield pcie.check_link(machine, f"gpu {name}", machine.resolve(f"{pcie.DEVICES}/{name}") or "")
    driver = machine.text(DRIVER)
    if driver is None:
        yield Finding("gpu driver", WARN, "NVIDIA's kernel driver is not loaded", "install it, or: modprobe nvidia")
        return
    is_open = "Open Kernel Module" in driver
    peermem = machine.exists("/sys/module/nvidia_peermem")
    yield Finding("gpu driver", OK, driver.splitlines()[0].removeprefix("NVRM version:").strip())
    yield _direct(machine, ask(), is_open, peermem)


def _direct(machine: Machine, said: list[tuple[bool, bool]] | str, is_open: bool, peermem: bool) -> Finding:
    """By dma-buf, which needs nothing besides an open driver and a kernel that is new enough, or by nvidia-peermem."""
    name, release = "gpu memory for rdma", kernel_release(machine)
    new_enough = release is not None and release >= DMA_BUF_LEAST
    if isinstance(said, str):
        advice = "install the driver's user part (libcuda1), or in a container run with --gpus all"
        return Finding(name, NOT_CHECKED, f"libcuda cannot be asked: {said}", advice)
    if said and all(dma_buf for _, dma_buf in said) and new_enough:
        return Finding(name, OK, f"by dma-buf, on all {len(said)} GPUs")
    if peermem:
        return Finding(name, OK, "by nvidia-peermem; dma-buf would be the newer way")
    reasons = [
        reason
        for holds, reason in (
            (new_enough, "the kernel is older than 5.12"),
            (is_open, "the driver is not the open kernel module"),
            (bool(said) and all(dma_buf for _, dma_buf in said), "the driver offers dma-buf not for all GPUs"),
        )
        if not holds
    ]
    advice = "install the open kernel module (nvidia-open), or: modprobe nvidia-peermem; else blocks go over the host's memory"
    return Finding(name, WARN, f"neither by dma-buf ({', '.join(reasons)}) nor by nvidia-peermem", advice)
