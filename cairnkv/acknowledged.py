"""The ledger of what the service promised to keep, and the audit that looks for it again.

A durable put that returned `ok` or `exists` is acknowledged: its block must be there after a crash, unless it was evicted.
Eviction takes the oldest first, and the statistics say how far it got (`oldest_sequence` of a drive: all blocks with smaller
sequences were evicted, none with this or a larger one), so what is absent can be told apart: evicted, or lost.
"""

import random
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from cairnkv._native import check_pattern
from cairnkv.client import Client
from cairnkv.errors import CairnError
from cairnkv.keys import Key16
from cairnkv.status import Status

ASK_AT_A_TIME = 4096
GET_AT_A_TIME_BYTES = 8 << 20


class AuditError(CairnError):
    """The service could not be asked."""


@dataclass(slots=True)
class Audit:
    """What was found. lost: acknowledged, not evicted, and absent or unreadable. wrong: present with other bytes."""

    checked: int = 0
    evicted: int = 0
    read_back: int = 0
    lost: int = 0
    wrong: int = 0


class Ledger:
    """Acknowledged blocks with their sequences. `record` may be called by any thread."""

    def __init__(self, name_of: Callable[[int], tuple[Key16, int]], block_bytes: int) -> None:
        """name_of: key and pattern seed of a block id."""
        self._name_of = name_of
        self._block_bytes = block_bytes
        self._sequences: dict[int, int] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._sequences)

    def record(self, blocks: Iterable[tuple[int, int]]) -> None:
        """Adds (block id, sequence) of acknowledged puts."""
        with self._lock:
            for block, sequence in blocks:
                # Two clients may report one block in either order; a later put of it counts.
                self._sequences[block] = max(sequence, self._sequences.get(block, 0))

    def newest(self, count: int) -> list[int]:
        """Ids of the blocks with the largest sequences."""
        with self._lock:
            return sorted(self._sequences, key=self._sequences.__getitem__)[-count:]

    def audit(self, client: Client, memory: memoryview, read_back_most: int, seed: int) -> Audit:
        """Looks for every block, and reads some back: the newest and a sample of the rest. What is absent leaves the ledger.
        Puts may go on meanwhile. Raises CairnError when the service does not answer."""
        audit = Audit()
        with self._lock:
            known = sorted(self._sequences.items(), key=lambda item: item[1])
        audit.checked = len(known)
        absent = self._absent(client, [block for block, _ in known])
        present = [item for item in known if item[0] not in absent]
        self._judge(client, [item for item in known if item[0] in absent], audit)
        half = read_back_most // 2
        newest, rest = present[len(present) - half :], present[: len(present) - half]
        chosen = newest + random.Random(seed).sample(rest, min(len(rest), read_back_most - half))  # noqa: S311
        self._read_back(client, memory, chosen, audit)
        return audit

    def _absent(self, client: Client, blocks: Sequence[int]) -> set[int]:
        absent = set()
        for at in range(0, len(blocks), ASK_AT_A_TIME):
            part = blocks[at : at + ASK_AT_A_TIME]
            for block, result in zip(part, client.exists([self._name_of(block)[0] for block in part]), strict=True):
                if result.status == Status.not_found:
                    absent.add(block)
                elif not result:
                    raise AuditError(
                        f"the service could not be asked for acknowledged blocks: {result.status.sentence}"
                    )
        return absent

    def _judge(self, client: Client, gone: list[tuple[int, int]], audit: Audit) -> None:
        """Lost or evicted? Asked after the blocks were missed: what eviction took until then is not held against the store."""
        if not gone:
            return
        oldest = oldest_sequence(client.stats())
        lost = sum(sequence >= oldest for _, sequence in gone)
        audit.lost += lost
        audit.evicted += len(gone) - lost
        with self._lock:
            for block, sequence in gone:
                if self._sequences.get(block) == sequence:
                    del self._sequences[block]

    def _read_back(self, client: Client, memory: memoryview, chosen: list[tuple[int, int]], audit: Audit) -> None:
        size = self._block_bytes
        room = max(1, min(len(memory), GET_AT_A_TIME_BYTES) // size)
        places = [memory[at * size : (at + 1) * size] for at in range(room)]
        gone = []
        for at in range(0, len(chosen), room):
            part = chosen[at : at + room]
            names = [self._name_of(block) for block, _ in part]
            results = client.get([(key, place) for (key, _), place in zip(names, places, strict=False)])
            for (block, sequence), (_, seed), result, place in zip(part, names, results, places, strict=False):
                audit.read_back += 1
                if not result.hit:
                    gone.append((block, sequence))
                elif result.nbytes != size or check_pattern(place, seed) >= 0:
                    audit.wrong += 1
        self._judge(client, gone, audit)


def oldest_sequence(stats: dict[str, Any]) -> int:
    """From which sequence on nothing was evicted, on any drive. With several drives the answer is on the safe side: a block
    between the smallest and the largest of theirs counts as evicted."""
    return max((drive["oldest_sequence"] for drive in stats["store"]["drives"]), default=0)
