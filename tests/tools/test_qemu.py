"""`tools/qemu/run`: the parts by which it judges, each made to fail; the machine itself is met by `make test-qemu`."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cairn_guest import building, cpio
from cairn_qemu import power_cuts
from cairn_qemu.architectures import Architecture
from cairn_qemu.blocks import digest_of, nbytes_of, payload_of
from cairn_qemu.machine import Machine, MachineError, NotUpError, Parts
from cairn_qemu.oracle import KEPT, Oracle
from cairn_qemu.volatile_drive import VolatileDrive

RUN = Path(__file__).parents[2] / "tools" / "qemu" / "run"
SEED = 20261125
DRIVE_BYTES = 1 << 20
NBD_HEAD_BYTES = 16
# A script in QEMU's place finds the line to the host where QEMU does: on its command line.
FIND_PORT = """port=$(grep -o 'fd=[0-9]*' <<<"$*" | cut -c4-);"""


def test_help_teaches() -> None:
    done = subprocess.run([str(RUN), "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    for word in ("--arch", "--cycles", "--self-check", "CAIRN_QEMU_SOURCES", "docs/qemu.md", "exit status"):
        assert word in done.stdout


@pytest.mark.parametrize("words", [("--cycles", "0"), ("--arch", "mips"), ("--logical-block", "1000")])
def test_what_it_cannot_do_is_refused(words: tuple[str, str]) -> None:
    done = subprocess.run([str(RUN), *words], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert words[0] in done.stderr


def got(number: int, payload: bytes | None) -> dict[str, list[object]]:
    if payload is None:
        return {"got": [number, "not_found", 0, ""]}
    return {"got": [number, "ok", len(payload), digest_of(payload)]}


@pytest.fixture
def oracle() -> Oracle:
    """Blocks 1 and 2 are kept, 3 is in doubt, 4 deleted, 5 put and its delete on its way."""
    oracle = Oracle(SEED)
    for said in ({"begun": [1, 2, 3]}, {"acknowledged": [1, 2]}, {"begun": [4, 5]}, {"acknowledged": [4, 5]}):
        assert oracle.hear(said)
    for said in ({"deleting": [4]}, {"deleted": [4]}, {"deleting": [5]}):
        assert oracle.hear(said)
    assert not oracle.hear({"done": "put"})
    return oracle


def answers(**instead: bytes | None) -> list[dict[str, list[object]]]:
    """What a store may answer that kept what it had to; `instead`: b4=…, what it answered for block 4 instead."""
    found: dict[int, bytes | None] = {number: payload_of(SEED, number) for number in (1, 2)}
    found |= dict.fromkeys((3, 4, 5))
    found |= {int(name[1:]): payload for name, payload in instead.items()}
    return [got(number, payload) for number, payload in found.items()]


@pytest.mark.parametrize("instead", [{}, {"b3": payload_of(SEED, 3)}, {"b5": payload_of(SEED, 5)}])
def test_what_is_in_doubt_may_be_there_or_not(oracle: Oracle, instead: dict[str, bytes]) -> None:
    found = oracle.judge(answers(**instead))
    assert found.violations == []
    assert found.right == 2 + len(instead)
    assert found.missing == 3 - len(instead)


def test_an_acknowledged_block_that_is_gone_is_lost(oracle: Oracle) -> None:
    assert oracle.judge(answers(b2=None)).lost == ["block 2 was acknowledged, and is gone: not_found"]


def test_a_block_that_was_only_said_to_be_acknowledged_is_lost(oracle: Oracle) -> None:
    """The oracle is told of one block too many."""
    oracle.hear({"acknowledged": [77]})
    assert oracle.judge([*answers(), got(77, None)]).lost == ["block 77 was acknowledged, and is gone: not_found"]


@pytest.mark.parametrize("number", [1, 3, 4])
def test_other_bytes_are_wrong_whatever_was_promised(oracle: Oracle, number: int) -> None:
    (sentence,) = oracle.judge(answers(**{f"b{number}": payload_of(SEED, 9)})).wrong
    assert sentence.startswith(f"block {number} ")


def test_one_byte_off_is_wrong(oracle: Oracle) -> None:
    payload = bytearray(payload_of(SEED, 1))
    payload[-1] ^= 1
    assert len(oracle.judge(answers(b1=bytes(payload))).wrong) == 1


def test_a_deleted_block_that_is_back_is_found(oracle: Oracle) -> None:
    assert oracle.judge(answers(b4=payload_of(SEED, 4))).undeleted == ["block 4 was deleted, and is back"]


def test_a_block_that_nobody_asked_for_counts_as_lost(oracle: Oracle) -> None:
    assert oracle.judge(answers()[:-1]).lost == ["block 5 (in doubt) was never asked for"]


def test_an_error_is_neither_there_nor_absent(oracle: Oracle) -> None:
    damaged = {"got": [3, "corrupt", 0, ""]}
    assert len(oracle.judge([damaged if each["got"][0] == 3 else each for each in answers()]).wrong) == 1


def test_what_came_back_once_has_to_come_back_again(oracle: Oracle) -> None:
    oracle.settle(answers(b3=payload_of(SEED, 3)))
    assert oracle.having(KEPT) == [1, 2, 3]
    assert oracle.judge(answers()[:-1]).lost == ["block 3 was acknowledged, and is gone: not_found"]


class NbdClient:
    """As little of QEMU as the drive needs."""

    def __init__(self, drive: VolatileDrive) -> None:
        drive.serve_one()
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(str(drive.socket))
        assert self._receive(18)[:16] == b"NBDMAGICIHAVEOPT"
        self.socket.sendall(struct.pack(">I", 3) + b"IHAVEOPT" + struct.pack(">II", 7, 0))
        for length in (20 + 12, 20):  # the size, and that it begins
            self._receive(length)

    def _receive(self, nbytes: int) -> bytes:
        return self.socket.recv(nbytes, socket.MSG_WAITALL)

    def ask(self, kind: int, offset: int = 0, nbytes: int = 0, content: bytes = b"", flags: int = 0) -> bytes:
        self.socket.sendall(
            struct.pack(">IHHQQI", 0x25609513, flags, kind, 4711, offset, nbytes or len(content)) + content
        )
        head = self._receive(NBD_HEAD_BYTES)
        if len(head) < NBD_HEAD_BYTES:
            raise ConnectionError("the drive hung up")
        _, error, cookie = struct.unpack(">IIQ", head)
        assert cookie == 4711
        if error:
            raise OSError(error, "the drive refused")
        return self._receive(nbytes) if kind == 0 else b""

    def write(self, offset: int, content: bytes, flags: int = 0) -> None:
        self.ask(1, offset, content=content, flags=flags)

    def read(self, offset: int, nbytes: int) -> bytes:
        return self.ask(0, offset, nbytes)

    def flush(self) -> None:
        self.ask(3)


@pytest.fixture
def drive(short_dir: Path) -> Iterator[VolatileDrive]:
    with contextlib.closing(VolatileDrive(short_dir, DRIVE_BYTES)) as drive:
        yield drive


def lose_power(drive: VolatileDrive, client: NbdClient, seed: int = 0) -> None:
    client.socket.close()
    drive.wait_until_unused(10)
    drive.lose_power(random.Random(seed))


def test_a_drive_keeps_what_it_flushed(drive: VolatileDrive) -> None:
    for seed in range(20):
        client = NbdClient(drive)
        client.write(4096, bytes([seed]) * 5000)
        client.flush()
        client.write(65_536, bytes([seed]) * 512, flags=1)  # FUA
        lose_power(drive, client, seed)
        assert drive.read(4096, 5000) == bytes([seed]) * 5000
        assert drive.read(65_536, 512) == bytes([seed]) * 512


def test_a_drive_may_lose_or_tear_what_it_did_not_flush(drive: VolatileDrive) -> None:
    """Whole, gone, and by sectors: all three happen, and nothing else."""
    seen = set()
    for seed in range(60):
        before, after = bytes([seed]) * 4096, bytes([seed + 100]) * 4096
        client = NbdClient(drive)
        client.write(8192, before)
        client.flush()
        client.write(8192, after)
        assert client.read(8192, 4096) == after, "until the power goes, what was written is read"
        lose_power(drive, client, seed)
        found = drive.read(8192, 4096)
        sectors = {found[at : at + 512] for at in range(0, 4096, 512)}
        assert sectors <= {before[:512], after[:512]}
        seen.add("torn" if len(sectors) == 2 else "whole" if found == after else "gone")
    assert seen == {"torn", "whole", "gone"}


def test_a_drive_that_lies_loses_what_it_flushed(drive: VolatileDrive) -> None:
    drive.lies = True
    client = NbdClient(drive)
    client.write(0, b"x" * 512)
    client.flush()
    lose_power(drive, client)
    assert drive.read(0, 512) == bytes(512)


def test_a_drive_acts_before_it_answers(drive: VolatileDrive) -> None:
    """The power can be cut in the middle of a write."""
    client = NbdClient(drive)
    drive.when(lambda: drive.unflushed >= 2, lambda: client.socket.shutdown(socket.SHUT_RDWR))
    client.write(0, b"a" * 512)
    with pytest.raises(ConnectionError):
        client.write(512, b"b" * 512)
    client.socket.close()
    drive.wait_until_unused(10)
    assert drive.unflushed == 2


def test_a_drive_refuses_what_lies_behind_its_end(drive: VolatileDrive) -> None:
    client = NbdClient(drive)
    with pytest.raises(OSError, match="refused"):
        client.read(DRIVE_BYTES, 512)
    client.socket.close()
    drive.wait_until_unused(10)


def machine_of(emulator: Path, folder: Path) -> Machine:
    (folder / "console.log").write_text("no such luck\n")
    architecture = Architecture("none", "none", "none", str(emulator), "none", "none", "ttyS0")
    return Machine(Parts(architecture, folder, folder, (), (), 512, "tcg"), folder)


def emulator(folder: Path, script: str) -> Path:
    path = folder / "emulator"
    path.write_text(f"#!/bin/bash\n{script}\n")
    path.chmod(0o755)
    return path


def test_a_machine_that_does_not_come_up_shows_its_console(tmp_path: Path) -> None:
    with (
        machine_of(emulator(tmp_path, "echo unhappy >&2; exit 7"), tmp_path) as machine,
        pytest.raises(MachineError) as caught,
    ):
        machine.heard(30)
    for word in ("ended with 7", "unhappy", "no such luck"):
        assert word in str(caught.value)


def test_a_machine_that_says_nothing_is_ended(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    script = f"""{FIND_PORT} echo $$ >{pid}; echo '{{"up": 1}}' >&$port; exec sleep 600"""
    with machine_of(emulator(tmp_path, script), tmp_path) as machine:
        assert machine.heard(60) == {"up": 1}
        with pytest.raises(MachineError, match="said nothing for 0.1 s"):
            machine.heard(0.1)
    with pytest.raises(ProcessLookupError):
        os.killpg(int(pid.read_text()), 0)


def test_what_failed_in_the_guest_is_told(tmp_path: Path) -> None:
    script = f"""{FIND_PORT} echo '{{"failed": "serve: no", "kind": "E", "log": "why"}}' >&$port; read -u $port"""
    failing = machine_of(emulator(tmp_path, script), tmp_path)
    with failing as machine, pytest.raises(MachineError, match=r"serve: no \(E\)[^$]*\n    why"):
        machine.heard(30)


def test_what_was_said_before_the_cut_counts(tmp_path: Path) -> None:
    (tmp_path / "said").write_text('{"begun": [1]}\n{"acknowledged": [1]}\n{"beg')
    script = f"{FIND_PORT} cat {tmp_path}/said >&$port; read -u $port"  # in one write
    with machine_of(emulator(tmp_path, script), tmp_path) as machine:
        assert machine.heard(30) == {"begun": [1]}
        machine.cut_power()
        assert list(machine.heard_before_the_cut()) == [{"acknowledged": [1]}]


def run_power_cuts(drive: VolatileDrive, folder: Path, script: str) -> power_cuts.Tally:
    architecture = Architecture("none", "none", "none", str(emulator(folder, script)), "none", "none", "ttyS0")
    parts = Parts(architecture, folder, folder, (), (), 512, "tcg")
    return power_cuts.PowerCuts(lambda _: parts, drive, folder, SEED).run(1)


def test_a_service_that_does_not_serve_is_a_violation(drive: VolatileDrive, short_dir: Path) -> None:
    script = f"""{FIND_PORT} echo '{{"up": {{}}}}' >&$port; read -u $port order
echo '{{"failed": "format: it is broken", "kind": "E", "log": ""}}' >&$port; read -u $port"""
    (sentence,) = run_power_cuts(drive, short_dir, script).violations
    assert "format: it is broken" in sentence


def test_a_machine_that_does_not_come_up_says_nothing_about_the_store(drive: VolatileDrive, short_dir: Path) -> None:
    with pytest.raises(NotUpError, match="ended with 3"):
        run_power_cuts(drive, short_dir, "exit 3")


def test_a_step_is_left_out_while_its_input_is_the_same(tmp_path: Path) -> None:
    made = []
    for words in (["a", "b"], ["a", "b"], ["ab"], ["ab"]):
        building.step("it", tmp_path / "stamp", words, lambda words=words: made.append(words))
    assert made == [["a", "b"], ["ab"]]


def test_a_step_that_failed_is_made_again(tmp_path: Path) -> None:
    with pytest.raises(building.BuildError):
        building.step("it", tmp_path / "stamp", ["a"], lambda: building.run(tmp_path / "log", "false"))
    assert building.step("it", tmp_path / "stamp", ["a"], lambda: None)


def test_the_archive_has_folders_before_what_is_in_them() -> None:
    packed = cpio.archive({"init": b"#!", "bin/busybox": b"x" * 5}, {"modules/a.ko": b"y"})
    names, at = [], 0
    while not names or names[-1] != cpio.TRAILER:
        fields = [int(packed[at + 6 + 8 * field : at + 14 + 8 * field], 16) for field in range(13)]
        name_bytes, content_bytes = fields[11], fields[6]
        names.append(packed[at + 110 : at + 110 + name_bytes - 1].decode())
        at += -(-(110 + name_bytes) // 4) * 4 + -(-content_bytes // 4) * 4
    assert at == len(packed)
    assert names == ["bin", "modules", "bin/busybox", "init", "modules/a.ko", cpio.TRAILER]


def test_blocks_are_what_their_numbers_say() -> None:
    assert payload_of(1, 2) == payload_of(1, 2) != payload_of(2, 1)
    assert len(payload_of(1, 2)) == nbytes_of(1, 2)


def test_no_put_is_ever_so_long_that_it_ends_before_the_cut() -> None:
    assert power_cuts.BLOCKS_MOST > 2 * power_cuts.ACKNOWLEDGED_MOST
