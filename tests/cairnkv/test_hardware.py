"""The checklist of hardware, on machines that are made of files, each with one thing wrong; and on this one."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from made_machine import BRIDGE, DRIVE, FOLDERS, GPU, NIC, PORT, ROOT_COMPLEX, MadeMachine, configuration, levels
from typer.testing import CliRunner

from cairnkv import cli
from cairnkv.findings import FAIL, LEVELS, NOT_CHECKED, OK, WARN, Finding
from cairnkv.hardware import checklist, pcie, qos, topology, verbs
from cairnkv.hardware.machine import Machine
from cairnkv.hardware.qos import Qos

Break = Callable[[MadeMachine], object]


@pytest.fixture
def machine(tmp_path: Path) -> MadeMachine:
    return MadeMachine(tmp_path)


def test_a_machine_on_which_all_is_well(machine: MadeMachine) -> None:
    found = machine.findings()
    assert levels(found, FAIL, WARN) == []
    assert levels(found, NOT_CHECKED) == []
    assert found["mlx5_0 pcie"].text == found["nvme0 pcie"].text == found[f"gpu {GPU} pcie"].text == "32 GT/s x16"
    assert "0a00:0001 on eth0" in found["mlx5_0 port 1 addresses"].text
    assert found["gpu memory for rdma"].text == "by dma-buf, on all 1 GPUs"


def test_a_machine_of_which_nothing_is_known(tmp_path: Path) -> None:
    """No file at all: nothing fails, nothing is claimed to be well that was not looked at, and every line says so."""
    libraries = checklist.Libraries(
        missing=lambda: ["libibverbs.so.1: cannot open shared object file"],
        limits=lambda _: pytest.fail("a device is asked without a library"),
        gpus=lambda: pytest.fail("a GPU is asked where there is none"),
        locked_most=lambda: 8 << 20,
    )
    found = [finding for _, finding in checklist.examine(Machine(tmp_path), libraries)]
    assert [finding.name for finding in found if finding.level in (FAIL, WARN)] == ["locked memory"]
    unknown = {finding.name for finding in found if finding.level == NOT_CHECKED}
    assert {
        "kernel",
        "crc32c",
        "clock source",
        "cpu governor",
        "rdma libraries",
        "rdma devices",
        "nvme drives",
    } <= unknown
    assert {"gpu", "pcie acs", "huge pages"} <= unknown


BROKEN: list[tuple[str, Break, str, str, str]] = [
    # name, how, level, words of what was found, words of what to do
    ("kernel", lambda m: m.write("proc/sys/kernel/osrelease", "5.15.0"), WARN, "no NVMe pass-through", "5.19"),
    ("kernel", lambda m: m.write("proc/sys/kernel/osrelease", "6.1.0"), WARN, "CAP_SYS_ADMIN", "6.2"),
    ("kernel", lambda m: m.remove("proc/sys/kernel/osrelease"), NOT_CHECKED, "cannot be read", "uname -r"),
    ("io_uring setting", lambda m: m.write("proc/sys/kernel/io_uring_disabled", "2"), WARN, "everybody", "sysctl"),
    ("io_uring setting", lambda m: m.write("proc/sys/kernel/io_uring_disabled", "1"), WARN, "all but root", "sysctl"),
    ("crc32c", lambda m: m.write("proc/cpuinfo", "Features\t: fp asimd"), WARN, "no instructions", "crc32 and pmull"),
    ("clock source", lambda m: m.write("sys/devices/system/clocksource/clocksource0/current_clocksource", "hpet"),
     WARN, "hpet is slow", "available_clocksource"),
    ("cpu governor", lambda m: m.write("sys/devices/system/cpu/cpu1/cpufreq/scaling_governor", "powersave"),
     WARN, "powersave on 1 of 2", "cpupower"),
    ("locked memory", lambda m: m.answers(locked_most=lambda: 64 << 10), FAIL, "64 KiB", "ulimit -l unlimited"),
    ("huge pages", lambda m: (m.write("sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages", "0"),
                              m.write("sys/kernel/mm/transparent_hugepage/enabled", "always madvise [never]")),
     WARN, "transparent ones are never", "vm.nr_hugepages"),
    ("rdma libraries", lambda m: m.answers(missing=lambda: ["librdmacm.so.1: not found"]), FAIL, "librdmacm", "apt-get"),
    ("rdma files", lambda m: m.remove("dev/infiniband/rdma_cm"), FAIL, "no /dev/infiniband/rdma_cm", "--device"),
    ("rdma files", lambda m: m.remove("dev/infiniband"), FAIL, "and no /dev/infiniband/uverbs*", "modprobe"),
    (f"gpu {GPU} neighbour", lambda m: m.point("sys/class/infiniband/mlx5_0/device", FOLDERS[DRIVE]),
     WARN, "under one root complex with, and no nearer to, mlx5_0", "PCIe switch"),
    ("mlx5_0 limits", lambda m: m.answers(limits=lambda _: {"mlx5_0": "it cannot be opened: Permission denied"}),
     NOT_CHECKED, "Permission denied", "ibv_devinfo -v -d mlx5_0"),
    ("mlx5_0 limits", lambda m: m.limits(max_qp=64), WARN, "64 queue pairs", "few queue pairs"),
    ("mlx5_0 limits", lambda m: m.limits(max_qp_rd_atom=1), WARN, "1 reads answered", "few reads at once"),
    ("mlx5_0 memory windows", lambda m: m.limits(windows=False), WARN, "none of type 2", "docs/security.md"),
    ("mlx5_0 port 1 link", lambda m: m.write(f"{PORT}/state", "1: DOWN"), FAIL, "DOWN", "cable"),
    ("mlx5_0 port 1 mtu", lambda m: m.limits(mtus={1: (1024, 4096)}), WARN, "1024 bytes; 4096", "mtu 4200"),
    ("mlx5_0 port 1 mtu", lambda m: m.limits(mtus={1: (2048, 2048)}), WARN, "no larger than 2048", "another device"),
    ("mlx5_0 port 1 addresses", lambda m: m.write(f"{PORT}/gid_attrs/types/3", "IB/RoCE v1"), FAIL, "none", "cma_roce_mode"),
    ("mlx5_0 port 1 addresses", lambda m: m.write(f"{PORT}/gids/3", "fe80:0000:0000:0000:0000:00ff:fe00:0001"),
     WARN, "link-local", "ip address add"),
    ("mlx5_0 port 1 ecn", lambda m: m.write("sys/class/net/eth0/ecn/roce_rp/enable/3", "0"), WARN, "not answered", "roce_rp"),
    ("mlx5_0 port 1 ecn", lambda m: m.remove("sys/class/net/eth0/ecn"), NOT_CHECKED, "does not tell", "ethtool -S eth0"),
    ("mlx5_0 port 1 flow control", lambda m: m.answers(qos=lambda _: "mlnx_qos is not installed"),
     NOT_CHECKED, "not installed", "type: mlnx_qos -i eth0"),
    ("mlx5_0 port 1 flow control", lambda m: m.answers(qos=lambda _: Qos("pcp", (3,))), WARN, "by pcp", "--trust dscp"),
    ("mlx5_0 port 1 flow control", lambda m: m.answers(qos=lambda _: Qos("dscp", ())), WARN, "no priority", "--pfc"),
    ("mlx5_0 port 1 flow control", lambda m: m.answers(qos=lambda _: Qos("dscp", (0, 3))), WARN, "0, 3", "alone"),
    ("mlx5_0 port 1 dscp", lambda m: m.remove("sys/kernel/config"), NOT_CHECKED, "no default", "--rdma-dscp"),
    ("mlx5_0 pcie", lambda m: m.link(NIC, 16.0, 8), WARN, "16 GT/s x8; the device could have 32 GT/s x16", "slot"),
    ("nvme0 pcie", lambda m: m.link(DRIVE, 32.0, 2, width_most=4), WARN, "32 GT/s x2; the device could have", "slot"),
    ("nvme pass-through", lambda m: m.remove("sys/class/nvme-generic"), WARN, "no character device", "ls -l /dev/ng*"),
    ("nvme pass-through", lambda m: m.remove("dev/ng0n1"), WARN, "may not open /dev/ng0n1", "root"),
    ("gpu driver", lambda m: m.remove("proc/driver/nvidia/version"), WARN, "not loaded", "modprobe nvidia"),
    ("gpu memory for rdma", lambda m: m.answers(gpus=lambda: "libcuda.so.1: not found"), NOT_CHECKED, "not found", "--gpus"),
    ("gpu memory for rdma", lambda m: (m.remove("sys/module/nvidia_peermem"), m.answers(gpus=lambda: [(True, False)])),
     WARN, "dma-buf not for all GPUs", "nvidia-peermem"),
    ("iommu", lambda m: m.write("sys/kernel/iommu_groups/1/type", "DMA"), WARN, "translating", "iommu=pt"),
    ("pcie acs", lambda m: m.configure(BRIDGE, configuration((0x0001, 0), (0x000D, 0x1D))), WARN, "1 of 1 bridges", "setpci"),
    ("pcie acs", lambda m: [m.configure(part, bytes(256)) for part in (NIC, DRIVE, GPU, BRIDGE)],
     NOT_CHECKED, "cannot be read", "lspci -vvv"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "broken", "level", "found", "advice"), BROKEN)
def test_one_thing_is_wrong(
    machine: MadeMachine, name: str, broken: Break, level: str, found: str, advice: str
) -> None:
    before = machine.findings()
    broken(machine)
    finding = machine.findings()[name]
    assert (before[name].level, finding.level) == (OK, level)
    assert found in finding.text
    assert advice in finding.advice


def test_a_warning_always_says_what_to_do(machine: MadeMachine) -> None:
    for _, broken, *_ in BROKEN:
        broken(machine)
    serious = [finding for finding in machine.findings().values() if finding.level in (WARN, FAIL)]
    assert len(serious) > 10
    assert not [finding.name for finding in serious if not finding.advice]


def test_a_sub_function_and_a_virtual_function_have_the_link_of_their_device(machine: MadeMachine) -> None:
    """The ports of a DPU are mostly these, and none of them has a link of its own."""
    machine.write(f"{FOLDERS[NIC]}/mlx5_core.sf.4/sfnum", "4")
    machine.point("sys/class/infiniband/mlx5_0/device", f"{FOLDERS[NIC]}/mlx5_core.sf.4")
    found = machine.findings()
    assert (found["mlx5_0 pcie"].text, found[f"gpu {GPU} neighbour"].level) == ("32 GT/s x16", OK)
    machine.write(f"{ROOT_COMPLEX}/0000:03:00.2/vendor", "0x15b3")
    machine.write(f"{ROOT_COMPLEX}/0000:03:00.2/current_link_speed", "Unknown")
    machine.point(f"{ROOT_COMPLEX}/0000:03:00.2/physfn", FOLDERS[NIC])
    machine.point("sys/class/infiniband/mlx5_0/device", f"{ROOT_COMPLEX}/0000:03:00.2")
    assert machine.findings()["mlx5_0 pcie"].text == "32 GT/s x16"


def test_devices_of_two_root_complexes_are_apart() -> None:
    here, there = f"/{FOLDERS[GPU]}", "/sys/devices/pci0000:80/0000:80:01.0/0000:83:00.0"
    assert topology.nearness(here, there) == topology.APART
    assert topology.nearness(here, f"/{FOLDERS[DRIVE]}") == topology.ONE_ROOT
    assert topology.nearness(here, f"/{FOLDERS[NIC]}") == topology.ONE_BRIDGE
    assert topology.nearness("/sys/devices/virtual/block", here) == topology.APART


PRINTED = """DCBX mode: OS controlled
Priority trust state: dscp
dscp2prio mapping:
\tprio:0 dscp:07,06,05,04,03,02,01,00,
Cable len: 7
PFC configuration:
\tpriority    0   1   2   3   4   5   6   7
\tenabled     0   0   0   1   0   0   0   0
\tbuffer      0   0   0   1   0   0   0   0
tc: 0 ratelimit: unlimited, tsa: vendor
"""


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (f"cat <<'.'\n{PRINTED}.", Qos("dscp", (3,))),
        ("echo hello", "mlnx_qos prints something else than is known of it"),
        ("echo 'Netlink error: no such device' >&2; exit 1", "mlnx_qos fails: Netlink error: no such device"),
        ("exit 7", "mlnx_qos fails: exit status 7"),
    ],
)
def test_what_mlnx_qos_prints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, said: Qos | str) -> None:
    """Of the program itself none was at hand: what it prints is from NVIDIA's documents."""
    (tmp_path / "mlnx_qos").write_text(f"#!/bin/sh\n{body}\n")
    (tmp_path / "mlnx_qos").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert qos.ask("eth0") == said
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    assert qos.ask("eth0") == "mlnx_qos is not installed"


def test_redirecting_bridges_matter_only_between_a_gpu_and_a_card(machine: MadeMachine) -> None:
    machine.configure(BRIDGE, configuration((0x000D, 0x1D)))
    machine.remove(f"sys/bus/pci/devices/{GPU}")
    assert machine.findings()["pcie acs"] == Finding(
        "pcie acs", OK, f"1 of 1 bridges redirect traffic between devices ({BRIDGE})"
    )


def test_an_arm_processor(machine: MadeMachine) -> None:
    machine.write("proc/cpuinfo", "processor\t: 0\nFeatures\t: fp asimd aes pmull sha1 crc32 atomics\n")
    assert machine.findings()["crc32c"] == Finding("crc32c", OK, "in hardware (crc32, pmull)")


def test_a_configuration_space_that_goes_in_a_circle() -> None:
    space = bytearray(configuration((0x0001, 0)))
    space[0x102:0x104] = (0x100 << 4 | 1).to_bytes(2, "little")  # the first capability names itself as the next
    assert pcie.capability_at(bytes(space), 0x000D) is None
    assert pcie.capability_at(b"", 0x000D) is None
    assert pcie.word_of(configuration((0x0001, 0), (0x000F, 0x8000)), 0x000F, 6) == 0x8000


def test_names_are_ordered_as_a_person_counts(tmp_path: Path) -> None:
    for name in ("nvme10", "nvme2", "nvme0"):
        (tmp_path / name).touch()
    assert Machine(tmp_path).names("/") == ["nvme0", "nvme2", "nvme10"]


def test_the_command_on_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it has: it ends with 1 exactly when a line says fail, and both forms tell the same."""
    monkeypatch.setenv("COLUMNS", "400")
    done = CliRunner().invoke(cli.app, ["doctor", "--hardware", "-o", "json"])
    found = json.loads(done.stdout)
    assert {row["level"] for row in found} <= set(LEVELS)
    assert list(dict.fromkeys(row["area"] for row in found)) == list(checklist.AREAS)
    assert done.exit_code == int(any(row["level"] == FAIL for row in found))
    shown = CliRunner().invoke(cli.app, ["doctor", "--hardware"]).stdout
    assert all(row["text"] in shown and row["advice"] in shown for row in found)


def test_a_failure_is_exit_code_1(machine: MadeMachine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.write(f"{PORT}/state", "1: DOWN")
    found = list(checklist.examine(Machine(machine.root), machine.libraries))
    monkeypatch.setattr(checklist, "examine", lambda: iter(found))
    done = CliRunner().invoke(cli.app, ["doctor", "--hardware"])
    assert done.exit_code == 1
    assert "fail         mlx5_0 port 1 link" in done.stdout


def test_no_service_is_asked_besides() -> None:
    done = CliRunner().invoke(cli.app, ["doctor", "--hardware", "--server", "tcp://127.0.0.1:1"])
    assert done.exit_code == 2
    assert "leave --server" in done.stderr


@pytest.mark.skipif("CAIRN_TESTBED_ADDRESS" not in os.environ, reason="there is no RDMA device: make test-devices")
def test_a_real_device_says_its_limits() -> None:
    """What our own structures read out of the library is what the library's own tool prints."""
    import re
    import subprocess

    device = os.listdir("/sys/class/infiniband")[0]
    told = subprocess.run(["ibv_devinfo", "-v", "-d", device], capture_output=True, text=True, check=True).stdout
    said = verbs.limits_of_devices({device: [1]})[device]
    assert isinstance(said, verbs.Limits)
    for field in ("max_qp", "max_mr", "max_mw", "max_qp_rd_atom", "max_qp_init_rd_atom"):
        shown = re.search(rf"^\s*{field}:\s+(\d+)$", told, re.MULTILINE)
        assert shown is not None and getattr(said, field) == int(shown.group(1)), field
    assert said.windows == ("MEM_WINDOW_TYPE_2" in told)
    active, most = (re.search(rf"{word}_mtu:\s+(\d+)", told) for word in ("active", "max"))
    assert active is not None and most is not None
    assert said.mtus == {1: (int(active.group(1)), int(most.group(1)))}
