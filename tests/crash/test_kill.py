"""Promises 1, 4, 5 and 8 across kill -9: the short form of kill_cycles.py."""

from __future__ import annotations

from pathlib import Path

from kill_cycles import run


def test_nothing_acknowledged_is_lost_and_no_wrong_byte_is_served(short_dir: Path) -> None:
    tally = run(cycles=6, seed=20260101, drive_bytes=512 << 20, folder=short_dir, during_recovery=0.4, talk=False)
    assert not tally.bad(), tally.problems[:10]
    assert tally.acknowledged > 100, "the clients did not get to put anything"
    assert tally.checked > 100
