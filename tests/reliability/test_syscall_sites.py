"""The sweep over system calls finds nothing where something was found, sees what it should, and says how to come to it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import syscall_sites
from syscall_errnos import ALL, ROWS, errnos_of, may_be_noticed
from syscall_sites import COULD_NOT, ROOT, VIOLATED, WELL, Case, Ended, Listed, Sweep, problems_of, useless

TORTURE = ROOT / "build" / "native" / "cairn-torture"

# What users would have lost, one a line, before it was mended: …
FOUND = (
    "io_uring_enter:1:EIO:for_ever",  # the service of every tenant: the kernel takes no requests, and it was an abort
    "io_uring_enter:20:ENOMEM:once",  # … at any later moment
    "io_uring_enter:1:EAGAIN:for_ever",  # a start that says why it does not come: it hung
    "io_uring_enter:1:EINTR:once",  # a second of every start that a signal meets
    "fallocate:1:EINTR:once",  # a new drive: a signal came while its blocks were given out
    "fallocate:1:EOPNOTSUPP:once",  # the reason: "Invalid argument" of single bytes that the C library wrote
    "flock:1:EINTR:once",  # a start that a signal meets
    "eventfd2:1:ENODEV:once",  # the reason: "no descriptor is left", whatever it was
    "getrandom:1:EPERM:for_ever",  # a store in a container with an old seccomp profile: it was an abort
    "getrandom:1:EINTR:for_ever",  # a start that says why it does not come: it hung
    "heap:5:ENOMEM:for_ever",  # a sentence: a mebibyte to look at a new drive, and it was an abort
)


@pytest.fixture
def traced() -> None:
    if why := syscall_sites.why_not_traced():
        if why.startswith("ptrace"):
            pytest.skip(why)
        pytest.fail(why)
    assert TORTURE.exists(), f"{TORTURE} is not built: make test-python builds it"


def swept(*words: str) -> tuple[int, dict[str, object], str]:
    command = [sys.executable, syscall_sites.__file__, "--torture", str(TORTURE), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, json.loads(done.stdout.splitlines()[-1]), done.stderr


@pytest.mark.usefixtures("traced")
def test_what_was_found_is_mended() -> None:
    status, figures, told = swept("--only", ",".join(FOUND))
    assert status == 0, told
    assert figures["runs"] == len(FOUND)
    outcomes = figures["outcomes"]
    assert isinstance(outcomes, dict)
    assert outcomes.get("not_reached", 0) == 0, "a case that does not come to pass shows nothing"


@pytest.mark.usefixtures("traced")
def test_the_sites_are_listed_by_a_life(tmp_path: Path) -> None:
    _, figures, _ = swept("--stop-at", "0")
    assert figures["stopped_early"]
    sites = figures["sites"]
    assert isinstance(sites, dict)
    for call in ("openat", "flock", "fallocate", "io_uring_setup", "io_uring_enter", "eventfd2", "mmap", "heap"):
        assert sites[call] > 0, call
    assert sites["io_uring_enter"] > 20
    assert "write" not in sites


class Broken(Sweep):
    """A life that ends as the test says, in the place of the real one; what it promised is checked by the real one."""

    def __init__(self, folder: Path, script: str) -> None:
        super().__init__(TORTURE, folder)
        self.script = folder / "life"
        self.script.write_text(f"#!/bin/sh\n{script}\n")
        self.script.chmod(0o755)

    def life(self, drive: Path, *more: str) -> list[str]:
        return super().life(drive, *more) if more else [str(self.script), str(drive)]


@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize(
    ("script", "told"),
    [
        ("kill -ABRT $$", "it ended with -6"),
        ("echo 'kept page'", "the block page is lost"),
        ("exit 3", "it should say one sentence, and said 0 lines"),
        ("echo 'it did not work' >&2; exit 3", "its sentence does not name what failed"),
    ],
)
def test_what_goes_wrong_is_seen_and_told(
    script: str, told: str, short_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = TORTURE.parent / short_dir.name  # on a file system with direct I/O
    folder.mkdir()
    try:
        run = Broken(folder, script)
        run.run(Case("close", 1, "EIO", False, (("close", 1),)))
    finally:
        subprocess.run(["rm", "-r", str(folder)], check=True)
    assert run.violations == 1
    said = capsys.readouterr().err
    assert said.startswith("syscall-sites --only close:1:EIO:once: ")
    assert told in said
    assert "the life alone: strace" in said


def ended(status: int | None, err: str = "") -> Ended:
    return Ended(status, "", err)


def test_how_a_life_may_end() -> None:
    listed = Listed(["mmap"], ["openat", "io_uring_enter"])
    once, for_ever = (listed.case("openat", 1, "EINTR", for_ever=for_ever) for for_ever in (False, True))
    good = f"cannot open /d: {os.strerror(4)}; try again in a moment"
    assert problems_of(once, ended(WELL), "/d") == []
    assert problems_of(for_ever, ended(COULD_NOT, good), "/d") == []
    assert problems_of(once, ended(COULD_NOT, good), "/d") == [f"it gave up at the first EINTR: {good}"]
    assert problems_of(once, ended(VIOLATED, "the block page is lost"), "/d")
    assert problems_of(once, ended(None), "/d") == [f"it did not end in {syscall_sites.SECONDS_MOST} s"]
    assert problems_of(once, ended(-11), "/d")


@pytest.mark.parametrize(
    ("told", "why"),
    [
        (f"cannot lock /d: {os.strerror(5)}; look at the log", ""),
        (f"cannot lock /d: {os.strerror(5)}; look\nand more", "2 lines"),
        (f"cannot lock it: {os.strerror(5)}; look at the log", "does not name"),
        ("cannot lock /d; look at the log", "does not say why"),
        (f"cannot lock /d: {os.strerror(5)}", "does not say what to do"),
    ],
)
def test_a_sentence_names_the_thing_the_cause_and_what_to_do(told: str, why: str) -> None:
    assert why in useless(told, "/d")
    assert bool(why) == bool(useless(told, "/d"))


def test_a_heap_that_gets_no_more_gets_it_nowhere() -> None:
    listed = Listed(["brk", "mmap", "brk"], ["mmap", "openat", "brk", "mmap"])
    assert listed.sites == {"mmap": 2, "openat": 1, "brk": 1, "heap": 3}
    assert listed.case("heap", 2, "ENOMEM", for_ever=True).when == (("brk", 3), ("mmap", 3))
    assert list(listed.case("heap", 3, "ENOMEM", for_ever=False).injections()) == [
        "brk:retval=0:when=4",
        "mmap:error=ENOMEM:when=3",
    ]


def test_every_errno_of_a_row_has_its_turn_and_the_issue_names_them_all() -> None:
    assert {errno for row in ROWS for errno in row.errnos} >= set(ALL)
    for row in ROWS:
        for call in row.calls:
            tried = {errno for ordinal in range(1, 30) for errno in errnos_of(call, ordinal, every=False)}
            assert tried == set(row.errnos), call
    assert errnos_of("a_call_of_tomorrow", 1, every=False) == ALL
    assert not may_be_noticed("fallocate", "EINTR")
    assert may_be_noticed("flock", "EAGAIN")
