"""What the store owes: from what the guest said before the power went, to what it must return afterwards.

A block is in doubt from its begin on, and `kept` once its durable put was acknowledged: then exactly these bytes must come back.
One in doubt may come back whole or not at all. One whose delete was acknowledged must not come back; while its delete is on its way
it is in doubt again. Nothing may ever come back with other bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from cairn_qemu.blocks import digest_of, payload_of

DOUBT, KEPT, DELETED = "in doubt", "kept", "deleted"
CHANGES = {"begun": DOUBT, "acknowledged": KEPT, "deleting": DOUBT, "deleted": DELETED}


@dataclass
class Findings:
    """right: came back as they were. missing: in doubt and not there. The other three are violations, one sentence each."""

    right: int = 0
    missing: int = 0
    lost: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    undeleted: list[str] = field(default_factory=list)

    @property
    def violations(self) -> list[str]:
        return [*self.lost, *self.wrong, *self.undeleted]


def digest_of_block(seed: int, number: int) -> tuple[int, str]:
    payload = payload_of(seed, number)
    return len(payload), digest_of(payload)


class Oracle:
    """expected: for tests; the length and digest of a block."""

    def __init__(self, seed: int, expected: Callable[[int, int], tuple[int, str]] = digest_of_block) -> None:
        self.seed = seed
        self.states: dict[int, str] = {}
        self._expected = expected

    def hear(self, said: dict[str, Any]) -> bool:
        """Takes in one thing that the guest said; whether it was about blocks."""
        for word, state in CHANGES.items():
            if word in said:
                self.states.update(dict.fromkeys(said[word], state))
                return True
        return False

    def having(self, state: str) -> list[int]:
        return sorted(number for number, its in self.states.items() if its == state)

    def judge(self, answers: Iterable[dict[str, Any]]) -> Findings:
        """Compares what was got with what is owed. A block that was not even asked for counts as lost."""
        found = Findings()
        asked = set()
        for answer in answers:
            number, status, nbytes, digest = answer["got"]
            asked.add(number)
            self._judge_one(found, number, status, (nbytes, digest))
        for number in sorted(self.states.keys() - asked):
            found.lost.append(f"block {number} ({self.states[number]}) was never asked for")
        return found

    def _judge_one(self, found: Findings, number: int, status: str, answer: tuple[int, str]) -> None:
        state = self.states.get(number, DOUBT)
        if status == "ok":
            expected = self._expected(self.seed, number)
            if answer != expected:
                found.wrong.append(
                    f"block {number} ({state}) came back with {answer[0]} bytes that are not its own {expected[0]}"
                )
            elif state == DELETED:
                found.undeleted.append(f"block {number} was deleted, and is back")
            else:
                found.right += 1
        elif state == KEPT:
            found.lost.append(f"block {number} was acknowledged, and is gone: {status}")
        elif status == "not_found":
            found.missing += 1
        elif state == DOUBT:
            # A torn block must not even be found; any other status says that something is amiss.
            found.wrong.append(f"block {number} (in doubt) is neither there nor absent: {status}")
        else:
            found.undeleted.append(f"block {number} was deleted, and answers {status}")

    def settle(self, answers: Iterable[dict[str, Any]]) -> None:
        """After a judgement without violations: what is there stays, also over the next power cut; what is not was never put."""
        for answer in answers:
            number, status, _, _ = answer["got"]
            if status == "ok":
                self.states[number] = KEPT
            elif self.states.get(number) != DELETED:
                self.states.pop(number, None)
