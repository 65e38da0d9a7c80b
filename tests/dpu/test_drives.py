"""What lies at a drive's path, and the rule that nothing that holds data is written without an order."""

import json
import os
import stat
from pathlib import Path

import pytest

from cairn_dpu import _native
from cairn_dpu.drive_spec import DriveSpec
from cairn_dpu.drives import CREATION_SUFFIX, create, format_drive, in_use_by, prepare
from cairn_dpu.errors import ConfigError, ConflictError, DeniedError, NotFoundError
from cairn_dpu.quantities import Bytes

SIZE = Bytes(64 * 1024**2)


def spec(path: Path, size: Bytes | None = SIZE) -> DriveSpec:
    return DriveSpec(str(path), size)


def do_prepare(path: Path, size: Bytes | None = SIZE, auto_format: bool = True, read_only: bool = False) -> str:
    return prepare(spec(path, size), auto_format=auto_format, read_only=read_only)


def test_a_missing_file_is_created_once(tmp_path: Path) -> None:
    drive = tmp_path / "drive"
    assert "created" in do_prepare(drive)
    assert _native.is_formatted(str(drive))
    uuid = json.loads(_native.inspect_drive(str(drive)))["uuid"]
    assert do_prepare(drive) == ""
    assert json.loads(_native.inspect_drive(str(drive)))["uuid"] == uuid
    assert os.listdir(tmp_path) == ["drive"]


def test_a_crash_while_creating_leaves_nothing_to_guess(tmp_path: Path) -> None:
    drive = tmp_path / "drive"
    (tmp_path / f"drive{CREATION_SUFFIX}").write_bytes(b"half a store")
    assert "created" in do_prepare(drive)
    assert os.listdir(tmp_path) == ["drive"]


def test_a_creation_that_fails_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(_native.CairnError):
        create(DriveSpec(str(tmp_path / "drive"), Bytes(4096)))
    assert os.listdir(tmp_path) == []


def test_an_existing_size_is_kept(tmp_path: Path) -> None:
    drive = tmp_path / "drive"
    do_prepare(drive)
    assert "keeps that size" in do_prepare(drive, Bytes(SIZE * 2))
    assert drive.stat().st_size == SIZE


def test_serve_formats_nothing_that_exists(tmp_path: Path) -> None:
    for content in (b"\0" * 8192, b"precious"):
        drive = tmp_path / "drive"
        drive.write_bytes(content)
        do_prepare(drive)
        assert drive.read_bytes() == content


def test_an_empty_file_counts_as_missing(tmp_path: Path) -> None:
    (tmp_path / "drive").touch()
    assert "created" in do_prepare(tmp_path / "drive")


@pytest.mark.parametrize(
    ("size", "auto_format", "read_only", "reason"),
    [
        (None, True, False, "does not exist; name an existing drive, or PATH:SIZE"),
        (SIZE, False, False, "auto_format = false forbids creating it"),
        (SIZE, True, True, "read_only forbids creating it"),
    ],
)
def test_what_is_not_created(
    tmp_path: Path, size: Bytes | None, auto_format: bool, read_only: bool, reason: str
) -> None:
    with pytest.raises(NotFoundError, match=reason):
        do_prepare(tmp_path / "drive", size, auto_format, read_only)
    assert os.listdir(tmp_path) == []


def test_a_size_without_unit_is_explained(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"write a unit: .*/drive:64GiB"):
        do_prepare(tmp_path / "drive:64", None)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=f"the folder {tmp_path}/no does not exist"):
        do_prepare(tmp_path / "no" / "drive")


def test_format_refuses_a_store_and_other_data(tmp_path: Path) -> None:
    drive = tmp_path / "drive"
    do_prepare(drive)
    uuid = json.loads(_native.inspect_drive(str(drive)))["uuid"]
    with pytest.raises(ConflictError, match="holds a Cairn store"):
        format_drive(spec(drive, None), segment_bytes=0, overwrite=False)
    assert json.loads(_native.inspect_drive(str(drive)))["uuid"] == uuid
    format_drive(spec(drive, None), segment_bytes=0, overwrite=True)
    assert json.loads(_native.inspect_drive(str(drive)))["uuid"] != uuid

    other = tmp_path / "other"
    other.write_bytes(b"precious".ljust(4096, b"\0"))
    os.truncate(other, SIZE)
    with pytest.raises(ConflictError, match=r"Nothing was written; add --overwrite"):
        format_drive(spec(other, None), segment_bytes=0, overwrite=False)
    assert other.read_bytes()[:8] == b"precious"


def test_format_creates_with_a_size(tmp_path: Path) -> None:
    format_drive(spec(tmp_path / "drive"), segment_bytes=8 * 1024**2, overwrite=False)
    assert json.loads(_native.inspect_drive(str(tmp_path / "drive")))["segment_bytes"] == 8 * 1024**2


def test_format_refuses_what_is_no_drive(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        format_drive(spec(tmp_path / "none", None), segment_bytes=0, overwrite=True)
    with pytest.raises(ConfigError, match="neither a file nor a drive"):
        format_drive(spec(tmp_path, None), segment_bytes=0, overwrite=True)


def test_format_without_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "drive").touch()
    monkeypatch.setattr("cairn_dpu.drives.os.access", lambda *_: False)
    with pytest.raises(DeniedError, match="no permission"):
        format_drive(spec(tmp_path / "drive", None), segment_bytes=0, overwrite=True)


class FakeMachine:
    """/sys and /proc with one disk 259:0 (nvme0n1) and its partition 259:1."""

    def __init__(self, root: Path) -> None:
        self.sys, self.proc = root / "sys", root / "proc"
        self.disk = self.sys / "devices" / "nvme0n1"
        self.part = self.disk / "nvme0n1p1"
        for folder, number in ((self.disk, "259:0"), (self.part, "259:1")):
            (folder / "holders").mkdir(parents=True)
            (folder / "dev").write_text(number + "\n")
        (self.part / "partition").write_text("1\n")
        (self.sys / "dev" / "block").mkdir(parents=True)
        (self.sys / "dev" / "block" / "259:0").symlink_to(self.disk)
        (self.proc / "self").mkdir(parents=True)
        (self.proc / "self" / "mountinfo").write_text("22 1 0:21 / /proc rw - proc proc rw\n")
        (self.proc / "swaps").write_text("Filename Type Size Used Priority\n")

    def user(self) -> str:
        status = os.stat_result((stat.S_IFBLK | 0o660, 0, 0, 1, 0, 0, 0, 0, 0, 0), {"st_rdev": os.makedev(259, 0)})
        return in_use_by(status, self.sys, self.proc)


def test_a_free_disk_has_no_user(tmp_path: Path) -> None:
    assert FakeMachine(tmp_path).user() == ""


def test_a_mounted_partition_is_found(tmp_path: Path) -> None:
    machine = FakeMachine(tmp_path)
    (machine.proc / "self" / "mountinfo").write_text("30 1 259:1 / /home rw - ext4 /dev/nvme0n1p1 rw\n")
    assert machine.user() == "mounted on /home"


def test_a_device_on_top_is_found(tmp_path: Path) -> None:
    machine = FakeMachine(tmp_path)
    (machine.part / "holders" / "dm-0").mkdir()
    assert machine.user() == "held by dm-0"


def test_swap_is_found(tmp_path: Path) -> None:
    machine = FakeMachine(tmp_path)
    (machine.proc / "swaps").write_text("Filename Type Size Used Priority\n/dev/nvme0n1p1 partition 1 0 -2\n")
    assert machine.user() == "used as swap"


def test_a_file_is_never_in_use_by_the_kernel(tmp_path: Path) -> None:
    assert in_use_by(tmp_path.stat()) == ""


@pytest.mark.parametrize("at", [0, 1024**2, 5 * 1024**2 + 7, 40 * 1024**2, 64 * 1024**2 - 1])
def test_format_refuses_data_wherever_it_lies(tmp_path: Path, at: int) -> None:
    """A file system whose first MiB is blank, or a virtual machine's disk, was formatted without a question."""
    path = tmp_path / "disk"
    with path.open("wb") as file:
        file.truncate(64 * 1024**2)
        file.seek(at)
        file.write(b"!")
    with pytest.raises(ConflictError, match="--overwrite"):
        format_drive(DriveSpec(str(path)), segment_bytes=0, overwrite=False)
    assert path.read_bytes()[at] == ord("!")
    format_drive(DriveSpec(str(path)), segment_bytes=0, overwrite=True)
    assert _native.is_formatted(str(path))


def test_format_takes_a_file_of_zeros(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(bytes(64 * 1024**2))
    format_drive(DriveSpec(str(path)), segment_bytes=0, overwrite=False)
    assert _native.is_formatted(str(path))
