"""`cairn-dpu inventory`: what a machine has, on machines made of files, with interpreters that are made too; and in the testbed
on real devices (make test-devices)."""

from __future__ import annotations

import ipaddress
import json
import os
import re
import stat
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cairn_dpu import _native, cli
from cairn_dpu.inventory import machine, nvme, rdma, report

NAMESPACES = os.environ.get("CAIRN_TESTBED_NAMESPACES", "").split()
SPACE = {
    "path": "/dev/ng0n1", "block_path": "/dev/nvme0n1", "namespace": 1, "bytes": 7 << 40, "lba_bytes": 4096,
    "write_protected": False, "transfer_bytes_most": 2 << 20, "kernel_bytes_most": 1 << 20, "kernel_segments_most": 256,
    "write_cache": True, "write_cache_on": False, "deallocates": True, "places": True, "placement_ids": 8,
}  # fmt: skip
DEVICE = {
    "name": "mlx5_0", "firmware": "32.41.1000", "vendor_id": 0x15B3, "part_id": 41692, "memory_windows": ["2B"],
    "limits": {"max_qp": 131072, "max_mr": 16777216, "max_qp_rd_atom": 16, "max_qp_init_rd_atom": 16},
    "ports": [{"port": 1, "state": "active", "link_layer": "Ethernet", "mtu_bytes": 4096, "mtu_bytes_most": 4096,
               "message_bytes_most": 1 << 30,
               "gids": [{"index": 3, "address": "::ffff:10.0.0.1", "type": "RoCE v2", "network": "eth0"}]}],
}  # fmt: skip


def write(root: Path, name: str, text: str) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A machine with a card and a drive."""
    write(tmp_path, "sys/class/infiniband/mlx5_0/ports/1/rate", "400 Gb/sec (4X NDR)")
    for name, text in {
        "model": "DRIVE 7T",
        "serial": "S1",
        "firmware_rev": "1.0",
        "transport": "pcie",
        "state": "live",
    }.items():
        write(tmp_path, f"sys/class/nvme/nvme0/{name}", text)
    write(tmp_path, "sys/class/nvme/nvme0/device/current_link_speed", "32.0 GT/s PCIe")
    write(tmp_path, "sys/class/nvme/nvme0/device/current_link_width", "4")
    write(tmp_path, "sys/class/nvme/nvme0/ng0n1/dev", "241:0")
    return tmp_path


def interpreter(folder: Path, body: str) -> str:
    """A program that stands in for an interpreter with pyverbs."""
    path = folder / "python"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def shown(root: Path, found: dict[str, Any]) -> str:
    host = {"machine": "aarch64", "kernel": "6.8.0", "cores": 16, "page_bytes": 65536}
    return "\n".join(report.lines_of({"host": host, "nvme": [], **found}))


def test_a_device_is_told_with_the_kernels_rate(root: Path, tmp_path: Path) -> None:
    asked = [interpreter(tmp_path, f"echo '{json.dumps([DEVICE])}'")]
    found = rdma.take(root, asked)
    assert found["reason"] == ""
    assert found["devices"][0]["ports"][0]["rate"] == "400 Gb/sec (4X NDR)"
    text = shown(root, {"rdma": found})
    assert text.startswith("aarch64, Linux 6.8.0, 16 cores, 64 KiB pages\n")
    assert re.search(r"mlx5_0 +32.41.1000 +1 +active, Ethernet +400 Gb/sec \(4X NDR\) +4096 of 4096 +2B +131,072", text)
    assert re.search(r"mlx5_0 +1 +3 +RoCE v2 +eth0 +::ffff:10.0.0.1", text)


def test_the_next_interpreter_is_asked_when_one_has_no_pyverbs(root: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    asked = [interpreter(tmp_path / "other", "exit 3"), interpreter(tmp_path, f"echo '{json.dumps([DEVICE])}'")]
    assert rdma.take(root, asked)["devices"][0]["firmware"] == "32.41.1000"


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ("exit 3", "there is no pyverbs here, by which their limits are asked; install the distribution's package"),
        ("echo 'OSError: no such provider' >&2; exit 1", "pyverbs broke: OSError: no such provider"),
        ("kill -9 $$", "pyverbs broke: it ended with -9"),
        ("echo '[]'", "libibverbs does not list it: install ibverbs-providers"),
    ],
)
def test_a_device_that_cannot_be_asked_is_listed_with_the_reason(
    root: Path, tmp_path: Path, body: str, sentence: str
) -> None:
    found = rdma.take(root, [interpreter(tmp_path, body)])
    assert [device["name"] for device in found["devices"]] == ["mlx5_0"]
    assert sentence in found["devices"][0]["reason"]
    text = shown(root, {"rdma": found})
    assert text.count(sentence) == 1 and "mlx5_0: " in text


def test_pyverbs_is_not_wanted_where_there_is_no_device(tmp_path: Path) -> None:
    found = rdma.take(tmp_path, [interpreter(tmp_path, "exit 1")])
    assert found == {
        "devices": [],
        "reason": "the kernel has no RDMA device; expected one? modprobe mlx5_ib, then: rdma link",
    }


def test_no_interpreter_at_all(root: Path) -> None:
    assert "apt-get install python3-pyverbs" in rdma.take(root, [])["reason"]
    assert "cannot be run: No such file" in rdma.take(root, [str(root / "none")])["reason"]


def test_the_interpreters_are_those_that_could_have_it() -> None:
    assert set(rdma.interpreters()) <= {sys.executable, rdma.SYSTEM_PYTHON}


def test_a_namespace(root: Path) -> None:
    found = nvme.take(root, lambda path: json.dumps(SPACE | {"path": path}))
    assert found[0]["model"] == "DRIVE 7T" and found[0]["link_speed"] == "32.0 GT/s PCIe"
    assert found[0]["namespaces"] == [SPACE]
    text = shown(root, {"rdma": {"devices": [], "reason": "none"}, "nvme": found})
    row = r"/dev/ng0n1 +/dev/nvme0n1 +DRIVE 7T +7 TiB +4096 +1 MiB +off +8 handles +yes +32.0 GT/s PCIe x4"
    assert re.search(row, text), text


def test_namespaces_of_a_subsystem_belong_to_each_of_its_controllers(root: Path) -> None:
    write(root, "sys/class/nvme/nvme1/model", "DRIVE 7T")
    write(root, "sys/class/nvme-subsystem/nvme-subsys0/ng0n2/dev", "241:1")
    (root / "sys/class/nvme-subsystem/nvme-subsys0/nvme1").symlink_to("../../nvme/nvme1")
    found = nvme.take(root, lambda path: json.dumps({"path": path}))
    assert [[space["path"] for space in one["namespaces"]] for one in found] == [["/dev/ng0n1"], ["/dev/ng0n2"]]


def test_a_namespace_that_cannot_be_used_has_the_reason(root: Path) -> None:
    def refuse(path: str) -> str:
        raise _native.CairnError(f"{path} keeps metadata beside every logical block")

    found = nvme.take(root, refuse)
    assert found[0]["namespaces"] == [
        {"path": "/dev/ng0n1", "reason": "/dev/ng0n1 keeps metadata beside every logical block"}
    ]
    assert "keeps metadata" in shown(root, {"rdma": {"devices": [], "reason": "none"}, "nvme": found})


def test_a_machine_without_anything(tmp_path: Path) -> None:
    text = "\n".join(report.lines_of(machine.take(tmp_path)))
    assert "RDMA: the kernel has no RDMA device" in text
    assert "NVMe: the kernel has no controller" in text


def test_the_command() -> None:
    done = CliRunner().invoke(cli.app, ["inventory", "-o", "json"])
    assert done.exit_code == 0
    assert json.loads(done.stdout).keys() == {"host", "rdma", "nvme"}
    assert "cores" in CliRunner().invoke(cli.app, ["inventory"]).stdout
    assert CliRunner().invoke(cli.app, ["inventory", "-o", "yaml"]).exit_code == 2


@pytest.mark.skipif(not NAMESPACES, reason="there is no testbed: make test-devices")
def test_real_devices() -> None:
    found = json.loads(CliRunner().invoke(cli.app, ["inventory", "-o", "json"]).stdout)
    spaces = {space["path"]: space for one in found["nvme"] for space in one["namespaces"]}
    assert set(NAMESPACES) <= spaces.keys()
    for path in NAMESPACES:
        queue = Path("/sys/class/block", Path(spaces[path]["block_path"]).name)
        assert spaces[path]["lba_bytes"] == int((queue / "queue/logical_block_size").read_text())
        assert spaces[path]["bytes"] == int((queue / "size").read_text()) * 512
    assert found["rdma"]["reason"] == ""
    devices = found["rdma"]["devices"]
    assert all(device["limits"]["max_qp"] > 0 for device in devices)
    gids = [gid["address"] for device in devices for port in device["ports"] for gid in port["gids"]]
    wanted = ipaddress.IPv6Address(f"::ffff:{os.environ['CAIRN_TESTBED_ADDRESS']}")
    assert wanted in {ipaddress.IPv6Address(gid) for gid in gids}
