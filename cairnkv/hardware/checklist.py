"""The checklist: which parts are looked at, in the order in which one needs the other."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from cairnkv.findings import Finding
from cairnkv.hardware import cuda, gpu, iommu, memory, network, nvme, pcie, processor, qos, rdma, topology, verbs
from cairnkv.hardware.machine import Machine

AREAS = ("processor and kernel", "memory", "rdma", "nvme", "gpu", "pcie")


@dataclass(frozen=True)
class Libraries:
    """What is asked of libraries, programs and this process rather than of files. A test puts its own answers here."""

    missing: Callable[[], list[str]] = verbs.missing_libraries
    limits: rdma.AskLimits = verbs.limits_of_devices
    qos: network.AskQos = qos.ask
    gpus: gpu.AskGpus = cuda.ask_gpus
    locked_most: Callable[[], int | None] = memory.locked_bytes_most


def examine(machine: Machine | None = None, libraries: Libraries | None = None) -> Iterator[tuple[str, Finding]]:
    """Every finding with its area, as it is made. None: this machine, its own libraries."""
    machine, libraries = machine or Machine(), libraries or Libraries()
    has_rdma = bool(rdma.devices(machine))
    parts = (
        processor.examine(machine),
        memory.examine(machine, libraries.locked_most(), has_rdma),
        _rdma(machine, libraries),
        nvme.examine(machine),
        _gpu(machine, libraries),
        _pcie(machine, has_rdma),
    )
    for area, findings in zip(AREAS, parts, strict=True):
        for finding in findings:
            yield area, finding


def _rdma(machine: Machine, libraries: Libraries) -> Iterator[Finding]:
    yield from rdma.examine(machine, libraries.missing(), libraries.limits)
    yield from network.examine(machine, libraries.qos)


def _gpu(machine: Machine, libraries: Libraries) -> Iterator[Finding]:
    yield from gpu.examine(machine, libraries.gpus)
    yield from topology.examine(machine, gpu.gpus(machine), rdma.cards(machine))


def _pcie(machine: Machine, has_rdma: bool) -> Iterator[Finding]:
    yield iommu.examine(machine)
    yield from pcie.examine_fabric(machine, has_rdma and bool(gpu.gpus(machine)))
