"""Nobody's flood takes the service's memory, or another tenant's time: the contract over all kinds of frames.

The full matrix, with 200 sessions and without slack, is in `make reliability`.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from flooded import Flooded, flooded_service
from floods import KINDS

# A machine that runs other tests at the same time: what is promised is measured by `make reliability`.
SLACK = 10
SECONDS = 1.0


@pytest.fixture(scope="module")
def flooded() -> Iterator[Flooded]:
    with flooded_service() as service:
        yield service


# What a user would have lost: every answer for seven seconds, to twenty sessions of 64-byte frames; and two gigabytes of
# memory, to one that did not read.
@pytest.mark.timeout(180)
@pytest.mark.parametrize("kind", KINDS)
def test_a_flood_of_frames_costs_its_sender_only(flooded: Flooded, kind: str) -> None:
    wrong = []
    for transport, sessions in (("tcp", 20), ("shm", 20), ("tcp", 1)):
        seen = flooded.flood(kind, transport, sessions, SECONDS)
        wrong += seen.wrong(flooded.quiet_get_ms, SLACK)
    assert not wrong, "\n".join(wrong)
    assert flooded.running.process.running()
