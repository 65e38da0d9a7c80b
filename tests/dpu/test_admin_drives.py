"""Drives and tenants in the admin API: what is told of them, and what becomes of an order."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest
from admin_problems import problem_of
from fastapi.testclient import TestClient

from cairn_dpu import _native
from cairn_dpu.errors import ServiceError


def native(sentence: str, *, system_errno: int = 0, status: str = "ok") -> _native.CairnError:
    error = _native.CairnError(sentence)
    error.system_errno = system_errno
    error.status = {name: code for code, name, _, _ in _native.status_table()}[status]
    return error


def test_wear_is_told(client: TestClient, service: Any) -> None:
    drive = service.raw["store"]["drives"][0]
    drive |= {"lifetime_written_bytes": 1050, "lifetime_put_bytes": 1000}
    assert client.get(f"/api/v1/drives/{drive['uuid']}").json()["write_amplification"] == 1.05
    drive["lifetime_put_bytes"] = 0
    assert client.get(f"/api/v1/drives/{drive['uuid']}").json()["write_amplification"] is None


def test_an_absent_drive_is_listed_with_its_reason(client: TestClient, service: Any) -> None:
    service.absent = [("/dev/nvme9n1", "cannot open /dev/nvme9n1: No such device")]
    items = client.get("/api/v1/drives").json()["items"]
    [absent] = [item for item in items if item["state"] == "absent"]
    assert absent["reason"] == "cannot open /dev/nvme9n1: No such device"
    assert (absent["path"], absent["uuid"], absent["bytes"]) == ("/dev/nvme9n1", "", 0)
    assert client.get(f"/api/v1/drives/{absent['id']}").json() == absent
    assert absent.keys() == items[-1].keys()


def test_a_drive_is_attached(client: TestClient, service: Any) -> None:
    response = client.post("/api/v1/drives", json={"path": "/dev/nvme3n1"})
    assert response.status_code == 201
    assert response.headers["location"] == "/api/v1/drives/cccc"
    assert (response.json()["state"], response.json()["path"]) == ("loading", "/dev/nvme3n1")
    assert service.asked == [("attach", "/dev/nvme3n1")]


@pytest.mark.parametrize(
    ("error", "problem"),
    [
        ({"status": "drive_foreign"}, "drive_foreign"),
        ({"status": "drive_newer"}, "drive_newer"),
        ({"status": "drive_damaged"}, "drive_damaged"),
        ({"status": "drive_smaller"}, "drive_smaller"),
        ({"status": "drive_in_use"}, "drive_in_use"),
        ({"status": "busy"}, "busy"),
        ({"system_errno": errno.ENOENT}, "drive_missing"),
        ({"system_errno": errno.EACCES}, "drive_not_allowed"),
        ({"system_errno": errno.EWOULDBLOCK}, "drive_busy"),
        ({"system_errno": errno.EIO}, "drive_unusable"),
        ({}, "drive_unusable"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_why_a_drive_was_not_attached(client: TestClient, service: Any, error: dict[str, Any], problem: str) -> None:
    service.error = native("/dev/x is not what it was", **error)
    body = problem_of(client.post("/api/v1/drives", json={"path": "/dev/x"}), problem)
    assert body["detail"] == "/dev/x is not what it was"


NO_PATHS = [
    b"",
    b"{}",
    b"[]",
    b"{",
    b"7",
    b'{"path": ""}',
    b'{"path": 7}',
    b'{"path": null}',
    b'{"path": "/dev/x", "force": true}',
    b'{"path": "/dev/x", "Path": "/dev/y"}',
    b'{"path": "/dev/x\\u0000"}',
    b'{"path": "/dev/\\ud800"}',
    b'{"path": "/dev/\xff"}',
    b'{"path": "' + b"x" * 5000 + b'"}',
    b"[" * 60_000,
]


@pytest.mark.parametrize("body", NO_PATHS, ids=lambda body: repr(body[:40]))
def test_what_is_no_path(client: TestClient, service: Any, body: bytes) -> None:
    problem_of(
        client.post("/api/v1/drives", content=body, headers={"Content-Type": "application/json"}), "bad_parameter"
    )
    assert service.asked == []


REFUSALS = [{"status": "drive_foreign"}, {"status": "drive_damaged"}] + [
    {"system_errno": number} for number in (errno.ENOENT, errno.EACCES, errno.EWOULDBLOCK, errno.EIO)
]


@pytest.mark.parametrize("refusal", REFUSALS, ids=str)
def test_what_is_hidden_from_others_stays_hidden(
    client: TestClient, service: Any, tmp_path: Path, refusal: dict[str, Any]
) -> None:
    """Whoever may ask the admin API could learn what lies in folders that only root may search."""
    for mode, hidden in ((0o700, True), (0o711, False)):
        folder = tmp_path / oct(mode)
        folder.mkdir()
        for parent in (folder, *folder.parents):
            if parent.stat().st_uid == os.getuid() and str(parent).startswith(str(tmp_path.parents[1])):
                parent.chmod(0o711)
        folder.chmod(mode)
        service.error = native("why", **refusal)
        body = client.post("/api/v1/drives", json={"path": f"{folder}/x"}).json()
        if hidden:
            assert (body["type"], body["status"]) == ("/api/v1/problems/drive_refused", 404)
            assert "why" not in body["detail"].replace("; why stands", "")
        else:
            assert (body["type"], body["detail"]) != ("/api/v1/problems/drive_refused", "why")
            assert body["detail"] == "why"


def test_a_drive_is_drained_and_let_go(client: TestClient, service: Any) -> None:
    assert client.post("/api/v1/drives/aaaa/drain").json()["state"] == "draining"
    assert client.delete("/api/v1/drives/aaaa").json() == {"id": "aaaa"}
    assert client.delete("/api/v1/drives/aaaa?lose_what_is_left=true").status_code == 200
    assert service.asked == [("drain", "aaaa"), ("detach", "aaaa", False), ("detach", "aaaa", True)]


def test_why_a_drive_stays(client: TestClient, service: Any) -> None:
    problem_of(client.post("/api/v1/drives/zzzz/drain"), "no_such_drive")
    problem_of(client.delete("/api/v1/drives/zzzz"), "no_such_drive")
    assert service.asked == []

    def refuse(status: str) -> None:
        def ask(*_: Any, **__: Any) -> None:
            raise native("it holds blocks", status=status)

        service.drain_drive = service.detach_drive = ask

    refuse("drive_draining")
    problem_of(client.delete("/api/v1/drives/aaaa"), "drive_draining")
    refuse("no_space")
    problem_of(client.post("/api/v1/drives/aaaa/drain"), "no_space")
    refuse("drive_unknown")
    problem_of(client.delete("/api/v1/drives/aaaa"), "drive_unknown")


def test_a_service_that_starts_takes_no_orders(client: TestClient, service: Any) -> None:
    service.state = "starting"
    service.error = ServiceError("the service is still opening its drives")
    problem_of(client.post("/api/v1/drives", json={"path": "/dev/x"}), "starting")


def test_tenants_are_listed_by_number(client: TestClient, service: Any) -> None:
    [one] = service.raw["tenants"]
    service.raw["tenants"] = [{**one, "number": 900, "name": ""}, {**one, "number": 7, "name": "team-a"}]
    items = client.get("/api/v1/tenants").json()["items"]
    assert [(item["id"], item["name"]) for item in items] == [("7", "team-a"), ("900", "")]
    assert items[0]["quota_bytes"] == one["quota_bytes"]
    first = client.get("/api/v1/tenants", params={"page_size": 1}).json()
    second = client.get("/api/v1/tenants", params={"page_token": first["next_page_token"]}).json()
    assert (first["items"][0]["id"], second["items"][0]["id"], second["next_page_token"]) == ("7", "900", None)
    problem_of(client.get("/api/v1/tenants", params={"page_token": "x"}), "bad_page_token")
