"""Whoever has a client ends, forks and is signalled as if it had none."""

from __future__ import annotations

import json
import subprocess
import sys

import client_endings


def run(*words: str) -> tuple[int, dict[str, object], str]:
    command = [sys.executable, client_endings.__file__, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, json.loads(done.stdout.splitlines()[-1]), done.stderr


def test_an_engine_ends_with_its_own_status_whatever_its_threads_are_doing() -> None:
    status, figures, told = run()
    assert status == 0, told
    assert figures["runs"] == len(list(client_endings.endings()))
    ends = figures["ends"]
    assert isinstance(ends, dict)
    assert set(ends) >= {"exit", "exit-closing", "fork", "multiprocessing", "handled", "raised", "sigterm"}


def test_another_end_is_seen_and_told() -> None:
    status, figures, told = run("--only", "raise:gets", "--expect", "0")
    assert (status, figures["violations"]) == (1, 1)
    assert "client-endings --only raise:gets: ended with 1, not 0" in told
