"""Drives and tenants of a service that runs: taken in, emptied, let go, missing; over its real API, with real clients."""

import json
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import cairnkv
from cairn_dpu import _native
from cairn_dpu.errors import ExitCode

SIZE = 64 * 1024**2
BLOCK = bytes(range(256)) * 1024
SECONDS_MOST = 20.0


def get(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=5) as response:
        return json.load(response)


def drives(ready: dict[str, Any], *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cairn_dpu", "drives", *words, "--admin", ready["admin"].removeprefix("http://")]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + SECONDS_MOST
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.fixture
def formatted(tmp_path: Path) -> Callable[[str], str]:
    def make(name: str) -> str:
        path = str(tmp_path / name)
        _native.format_drive(path, create_bytes=SIZE)
        return path

    return make


def test_a_drive_is_replaced_while_the_service_runs(serve: Any, formatted: Any) -> None:
    old, new = formatted("old"), formatted("new")
    serving = serve("--drive", old)
    ready = serving.wait_ready()
    keys = [f"key {number}" for number in range(40)]
    with cairnkv.connect(ready["listen"][0]) as client:
        assert all(client.put([(key, BLOCK) for key in keys]))
        alone = drives(ready, "drain", old)
        assert (alone.returncode, "no other drive" in alone.stderr) == (ExitCode.FAILURE, True)

        attached = drives(ready, "attach", new, "-o", "json")
        assert attached.returncode == ExitCode.OK, attached.stderr
        [drive] = json.loads(attached.stdout)
        assert (drive["path"], drive["state"] in ("loading", "serving")) == (new, True)
        again = drives(ready, "attach", new)
        assert (again.returncode, "attached already" in again.stderr) == (ExitCode.CONFLICT, True)

        refused = drives(ready, "detach", old)
        assert (refused.returncode, "drain it" in refused.stderr) == (ExitCode.CONFLICT, True)
        drained = drives(ready, "drain", old, "--wait", "-o", "json")
        assert drained.returncode == ExitCode.OK, drained.stderr
        assert json.loads(drained.stdout)[0]["state"] == "drained"
        assert drives(ready, "detach", old).returncode == ExitCode.OK
        assert [drive["path"] for drive in get(ready["admin"] + "/api/v1/drives")["items"]] == [new]
        memories = [bytearray(len(BLOCK)) for _ in keys]
        assert all(client.get(list(zip(keys, memories, strict=True))))
        assert all(memory == BLOCK for memory in memories)
    assert drives(ready, "detach", old).returncode == ExitCode.NOT_FOUND
    _native.format_drive(old, overwrite=True)  # nobody holds it any more


def test_what_a_drive_holds_is_lost_only_when_told_so(serve: Any, formatted: Any) -> None:
    only = formatted("only")
    ready = serve("--drive", only).wait_ready()
    with cairnkv.connect(ready["listen"][0]) as client:
        assert client.put_one("key", BLOCK)
        assert drives(ready, "detach", only).returncode == ExitCode.CONFLICT
        assert drives(ready, "detach", only, "--lose-what-is-left").returncode == ExitCode.OK
        assert not client.exists(["key"])[0]
        assert drives(ready, "attach", only).returncode == ExitCode.OK
        until(lambda: client.put_one("another", BLOCK).ok)
        assert not client.exists(["key"])[0], "what a drive held is given up when it is let go"


def test_what_is_not_taken_in(serve: Any, tmp_path: Path) -> None:
    ready = serve().wait_ready()
    other = tmp_path / "other"
    other.write_bytes(b"precious".ljust(SIZE, b"x"))
    foreign = drives(ready, "attach", str(other))
    assert (foreign.returncode, "no Cairn store" in foreign.stderr) == (ExitCode.CONFLICT, True), foreign.stderr
    assert drives(ready, "attach", str(tmp_path / "none")).returncode == ExitCode.NOT_FOUND
    assert other.read_bytes().startswith(b"precious")
    assert len(get(ready["admin"] + "/api/v1/drives")["items"]) == 1


def test_a_drive_that_is_found_late_is_taken_in_and_nothing_is_lost(serve: Any, formatted: Any) -> None:
    """Machines find their drives in no order. On half of its drives a store waits, for a while."""
    here, late = formatted("here"), formatted("late")
    keys = [f"key {number}" for number in range(8)]
    serving = serve("--drive", here, "--drive", late)
    with cairnkv.connect(serving.wait_ready()["listen"][0]) as client:
        assert all(result.ok for result in client.put([(key, BLOCK) for key in keys]))
    serving.signal(signal.SIGTERM)
    assert serving.wait() == 0
    Path(late).rename(late + ".elsewhere")
    serving = serve("--drive", here, "--drive", late)
    ready = serving.wait_ready()
    with cairnkv.connect(ready["listen"][0]) as client:
        assert not any(client.exists(keys))
        assert get(ready["admin"] + "/api/v1/stats")["store"]["members_state"] == "waiting"
        Path(late + ".elsewhere").rename(late)
        until(lambda: all(client.exists(keys)))
    assert f"the drive {late} (" in serving.log
    assert "enough of the store's drives are there" in serving.log


def test_it_starts_without_a_drive_that_is_missing(serve: Any, formatted: Any, tmp_path: Path) -> None:
    here, missing, foreign = formatted("here"), str(tmp_path / "missing"), tmp_path / "foreign"
    foreign.write_bytes(b"precious".ljust(SIZE, b"x"))
    serving = serve("--drive", here, "--drive", missing, "--drive", str(foreign))
    ready = serving.wait_ready()
    states = {drive["path"]: drive["state"] for drive in get(ready["admin"] + "/api/v1/drives")["items"]}
    assert states.pop(here) in ("loading", "serving")
    assert states == {missing: "absent", str(foreign): "absent"}
    assert get(ready["admin"] + "/healthz")["drives"] == 3
    assert f"the drive {missing} is absent: {missing} does not exist" in serving.log
    assert f"the drive {foreign} is absent: {foreign} holds no Cairn store" in serving.log
    drained = drives(ready, "drain", str(foreign))
    assert (drained.returncode, "is absent" in drained.stderr) == (ExitCode.CONFLICT, True), drained.stderr
    let_go = drives(ready, "detach", str(foreign))
    assert let_go.returncode == ExitCode.OK, let_go.stderr
    assert {drive["path"] for drive in get(ready["admin"] + "/api/v1/drives")["items"]} == {here, missing}
    assert get(ready["admin"] + "/healthz")["drives"] == 2
    _native.format_drive(missing, create_bytes=SIZE)
    # The service looks for it, too: whoever is first takes it in.
    assert drives(ready, "attach", missing).returncode in (ExitCode.OK, ExitCode.CONFLICT)
    until(lambda: get(ready["admin"] + "/api/v1/stats")["drives_absent"] == 0)


def test_every_drive_may_be_required(serve: Any, formatted: Any, tmp_path: Path) -> None:
    serving = serve("--drive", formatted("here"), "--drive", str(tmp_path / "none"), "--require-all-drives")
    assert serving.wait() == ExitCode.NOT_FOUND
    foreign = tmp_path / "foreign"
    foreign.write_bytes(b"precious".ljust(SIZE, b"x"))
    serving = serve("--drive", str(tmp_path / "here"), "--drive", str(foreign), "--require-all-drives")
    assert serving.wait() == ExitCode.CONFLICT
    assert "holds no Cairn store" in serving.log


def test_one_drive_named_twice_is_used_once(serve: Any, formatted: Any, tmp_path: Path) -> None:
    first, copy = formatted("first"), tmp_path / "copy"
    copy.write_bytes(Path(first).read_bytes())
    ready = serve("--drive", first, "--drive", str(copy)).wait_ready()
    items = get(ready["admin"] + "/api/v1/drives")["items"]
    assert sorted(drive["state"] for drive in items if drive["state"] == "absent") == ["absent"]
    assert len(items) == 2


def test_it_says_when_the_index_is_whole(serve: Any) -> None:
    serving = serve()
    ready = serving.wait_ready()
    until(lambda: "the index is whole: 0 blocks in" in serving.log)
    assert get(ready["admin"] + "/healthz") == {
        "state": "serving",
        "loaded_share": 1.0,
        "drives_serving": 1,
        "drives": 1,
        "hurt": [],
    }


def test_tenants_have_their_ids_limits_and_nobody_elses(serve: Any) -> None:
    settings = ["--tenant", "team-a=id:7,quota:1MiB,weight:3", "--unknown-tenants", "refuse"]
    ready = serve(*settings).wait_ready()
    with cairnkv.connect(ready["listen"][0], tenant="team-a") as client:
        assert client.put_one("key", BLOCK)
        with cairnkv.connect(ready["listen"][0]) as other:
            assert not other.exists(["key"])[0]
        items = {item["id"]: item for item in get(ready["admin"] + "/api/v1/tenants")["items"]}
        assert items["7"]["name"] == "team-a"
        assert (items["7"]["quota_bytes"], items["7"]["weight"], items["7"]["blocks"]) == (1024**2, 3, 1)
        assert items["0"]["name"] == "default"
    with pytest.raises(cairnkv.errors.CairnError, match="no tenant of that name"):
        cairnkv.connect(ready["listen"][0], tenant="team-b")


def test_an_id_outlives_the_name_it_was_made_from(serve: Any) -> None:
    """A tenant that was met before it was configured has a number on the drives already. With another id it would see
    nothing of what it has: the service does not start, and says which id is right. With that, all is there."""
    ready = serve().wait_ready()
    with cairnkv.connect(ready["listen"][0], tenant="team-a") as client:
        assert client.put_one("key", BLOCK)
    [old] = [row["id"] for row in get(ready["admin"] + "/api/v1/tenants")["items"] if row["name"] == "team-a"]
    stop(serve)
    refused = serve("--wait-until-loaded", "--tenant", "team-a=id:7")
    assert refused.wait() == 1
    assert f"'team-a' cannot have the id 7: its blocks lie on the drives under the id {old}" in refused.log
    ready = serve("--wait-until-loaded", "--tenant", f"team-a=id:{old}").wait_ready()
    with cairnkv.connect(ready["listen"][0], tenant="team-a") as client:
        assert client.exists(["key"])[0].ok


def stop(serve: Any) -> None:
    serving = serve.started[-1]
    serving.process.terminate()
    assert serving.wait() == ExitCode.OK
