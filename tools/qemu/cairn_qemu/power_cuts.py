"""The check itself: boots, puts, cuts the power, boots again, and compares what is there with what was acknowledged."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cairn_qemu.building import say
from cairn_qemu.machine import Machine, MachineError, NotUpError, Parts
from cairn_qemu.oracle import DELETED, DOUBT, KEPT, Findings, Oracle
from cairn_qemu.volatile_drive import VolatileDrive

# Emulated on a busy machine, a step takes many times as long as it should. These end what hangs, no more.
UP_SECONDS_MOST = 300.0
STEP_SECONDS_MOST = 400.0
UNUSED_SECONDS_MOST = 60.0
FIRST_BLOCKS = 40  # put and got without a power cut, for the figures
BLOCKS_MOST = 400  # of one put that is cut off; it never gets so far
ACKNOWLEDGED_LEAST, ACKNOWLEDGED_MOST = 10, 80
LINGER_SECONDS_MOST = 0.4  # between the acknowledgement that was waited for and the cut
# The first cut, and this share of the others, come in the middle of a write: when so many wait in the drive's cache.
UNFLUSHED_SHARE = 0.7
UNFLUSHED_MOST = 6
UNFLUSHED_SECONDS_MOST = 10.0
REQUESTS_OF_A_START = 60  # after the guest is up; more than a start makes
DELETES = 3
DRIVE_AT_THE_CUT = "drive-at-the-cut"


@dataclass
class Tally:
    """seconds are medians' raw material: one entry a boot or a cycle."""

    boots: int = 0
    cuts: int = 0
    acknowledged: int = 0
    in_doubt_at_cuts: int = 0
    checked: int = 0
    right: int = 0
    missing: int = 0
    lost: int = 0
    recovered_blocks: int = 0
    writes_kept: int = 0
    writes_lost: int = 0
    writes_torn: int = 0
    boot_seconds: list[float] = field(default_factory=list)
    serve_seconds: list[float] = field(default_factory=list)
    put_mb_per_second: list[float] = field(default_factory=list)
    get_mb_per_second: list[float] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    machine: dict[str, Any] = field(default_factory=dict)


class PowerCuts:
    """parts: makes a machine's parts around the words for its drive."""

    def __init__(
        self, parts: Callable[[tuple[str, ...]], Parts], drive: VolatileDrive, folder: Path, seed: int
    ) -> None:
        self.parts, self.drive, self.folder = parts, drive, folder
        self.dice = random.Random(seed)
        self.oracle = Oracle(seed)
        self.tally = Tally()
        self.next_block = 0
        self.uuid = ""

    def run(self, cycles: int, *, lying_drive: bool = False) -> Tally:
        """lying_drive: from the first power cut on it does not keep what it flushed. Raises NotUpError. Whatever else a machine that
        is up does not do counts as a violation."""
        try:
            self._run(cycles, lying_drive)
        except NotUpError:
            raise
        except MachineError as error:
            self.tally.violations.append(str(error))
        return self.tally

    def _run(self, cycles: int, lying_drive: bool) -> None:
        with self._boot() as machine:
            machine.do("format", STEP_SECONDS_MOST)
            self._serve(machine, formatted=True)
            self._measure(machine)
            self.drive.lies = lying_drive
            self._cut(machine)
        for cycle in range(1, cycles + 1):
            if cycle % 2 == 0:
                with self._boot() as machine:
                    self._cut_at_start(machine)
            with self._boot() as machine:
                self._serve(machine, formatted=False)
                self._verify(machine)
                if self.tally.violations:
                    say(f"cycle {cycle} of {cycles}: {len(self.tally.violations)} VIOLATIONS")
                    return
                say(
                    f"cycle {cycle} of {cycles}: {len(self.oracle.having(KEPT))} blocks are there, with their own bytes"
                )
                self._delete(machine)
                if cycle < cycles:
                    self._cut(machine)
                else:
                    self._measure(machine)
                    self._end(machine)

    def _boot(self) -> Machine:
        self.drive.serve_one()
        machine = Machine(self.parts(self.drive.blockdev()), self.folder)
        try:
            self.tally.machine = machine.come_up(UP_SECONDS_MOST)
        except BaseException:
            machine.__exit__()
            raise
        self.tally.boots += 1
        self.tally.boot_seconds.append(time.monotonic() - machine.begun)
        return machine

    def _serve(self, machine: Machine, *, formatted: bool) -> None:
        """After a power cut the service has to know its drive again, and what is on it, by itself."""
        answer = machine.do("serve", STEP_SECONDS_MOST)
        self.tally.serve_seconds.append(answer["seconds"])
        store = answer["stats"]["store"]
        uuid, recovered = store["drives"][0]["uuid"], store["recovered_blocks"]
        if formatted:
            self.uuid = uuid
            return
        self.tally.recovered_blocks = recovered
        if uuid != self.uuid:
            self.tally.violations.append(f"the drive is {uuid}, and was {self.uuid}: it was formatted anew")
        if recovered < len(self.oracle.having(KEPT)):
            kept = len(self.oracle.having(KEPT))
            self.tally.violations.append(
                f"the service found {recovered} blocks on its drive, and {kept} were acknowledged"
            )

    def _measure(self, machine: Machine) -> None:
        """Puts and gets with nothing in their way."""
        first, self.next_block = self.next_block, self.next_block + FIRST_BLOCKS
        machine.ask("put", seed=self.oracle.seed, first=first, count=FIRST_BLOCKS)
        put, said = machine.result("put", STEP_SECONDS_MOST)
        for each in said:
            self.oracle.hear(each)
        machine.ask("get", seed=self.oracle.seed, numbers=list(range(first, first + FIRST_BLOCKS)))
        got, answers = machine.result("get", STEP_SECONDS_MOST)
        # Judged by an oracle that knows of these only.
        oracle = Oracle(self.oracle.seed)
        oracle.states = {number: self.oracle.states[number] for number in range(first, first + FIRST_BLOCKS)}
        self._take(oracle.judge(answers))
        self.tally.acknowledged += FIRST_BLOCKS
        self.tally.put_mb_per_second.append(put["bytes"] / put["seconds"] / 1e6)
        self.tally.get_mb_per_second.append(got["bytes"] / got["call_seconds"] / 1e6)

    def _cut(self, machine: Machine) -> None:
        """Puts without end, until so many are acknowledged and a moment has passed."""
        wanted = self.dice.randint(ACKNOWLEDGED_LEAST, ACKNOWLEDGED_MOST)
        first, self.next_block = self.next_block, self.next_block + BLOCKS_MOST
        machine.ask("put", seed=self.oracle.seed, first=first, count=BLOCKS_MOST)
        acknowledged = 0
        while acknowledged < wanted:
            acknowledged += self._hear(machine.heard(STEP_SECONDS_MOST))
        linger_seconds = self.dice.uniform(0.0, LINGER_SECONDS_MOST)
        if self.tally.cuts == 0 or self.dice.random() < UNFLUSHED_SHARE:
            least = self.dice.randint(1, UNFLUSHED_MOST)
            self.drive.when(lambda: self.drive.unflushed >= least, machine.cut_power)
            linger_seconds = UNFLUSHED_SECONDS_MOST
        for said in machine.heard_within(linger_seconds):
            acknowledged += self._hear(said)
        self._lose_power(machine, acknowledged)

    def _cut_at_start(self, machine: Machine) -> None:
        """While the service reads its drive, or has just read it."""
        least = self.drive.requests + self.dice.randint(1, REQUESTS_OF_A_START)
        self.drive.when(lambda: self.drive.requests >= least, machine.cut_power)
        machine.ask("serve")
        for said in machine.heard_within(STEP_SECONDS_MOST):
            if said.get("done") == "serve":
                break
        self._lose_power(machine, 0)

    def _lose_power(self, machine: Machine, acknowledged: int) -> None:
        """What the guest said until then counts; what lay in the drive's cache may be gone."""
        machine.cut_power()
        for said in machine.heard_before_the_cut():
            acknowledged += len(said.get("acknowledged", ()))
            self.oracle.hear(said)
        self.drive.wait_until_unused(UNUSED_SECONDS_MOST)
        lost = self.drive.lose_power(self.dice)
        self.drive.save(self.folder / DRIVE_AT_THE_CUT)
        in_doubt = len(self.oracle.having(DOUBT))
        tally = self.tally
        tally.cuts += 1
        tally.acknowledged += acknowledged
        tally.in_doubt_at_cuts += in_doubt
        tally.writes_kept += lost.whole
        tally.writes_lost += lost.dropped
        tally.writes_torn += lost.torn
        say(
            f"cut the power: {acknowledged} blocks acknowledged, {in_doubt} on their way; of the writes in its cache the drive"
            f" kept {lost.whole}, lost {lost.dropped}, tore {lost.torn}"
        )

    def _hear(self, said: dict[str, Any]) -> int:
        """How many blocks it acknowledges."""
        if not self.oracle.hear(said):
            raise MachineError(f"all puts ended before the power was cut: {said}")
        return len(said.get("acknowledged", ()))

    def _verify(self, machine: Machine) -> None:
        machine.ask("get", seed=self.oracle.seed, numbers=sorted(self.oracle.states))
        _, answers = machine.result("get", STEP_SECONDS_MOST)
        self._take(self.oracle.judge(answers))
        self.oracle.settle(answers)

    def _take(self, found: Findings) -> None:
        tally = self.tally
        tally.checked += found.right + found.missing + len(found.violations)
        tally.right += found.right
        tally.missing += found.missing
        tally.lost += len(found.lost)
        tally.violations += found.violations

    def _delete(self, machine: Machine) -> None:
        chosen = self.dice.sample(self.oracle.having(KEPT), DELETES)
        machine.ask("delete", seed=self.oracle.seed, numbers=chosen)
        for said in machine.result("delete", STEP_SECONDS_MOST)[1]:
            self.oracle.hear(said)
        assert set(chosen) <= set(self.oracle.having(DELETED))

    def _end(self, machine: Machine) -> None:
        status = machine.do("stop", STEP_SECONDS_MOST)["status"]
        if status != 0:
            self.tally.violations.append(f"the service ended with {status} after SIGTERM, instead of 0")
        machine.end()
        self.drive.wait_until_unused(UNUSED_SECONDS_MOST)
