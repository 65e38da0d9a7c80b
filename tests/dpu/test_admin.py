"""The admin API over a fake service: its shapes, its errors, its OpenAPI document."""

import json
from typing import Any

import pytest
from admin_problems import problem_of
from fastapi.testclient import TestClient

from cairn_dpu import _native
from cairn_dpu.admin.problems import PROBLEMS
from cairn_dpu.errors import ServiceError


def test_system(client: TestClient) -> None:
    body = client.get("/api/v1/system").json()
    assert (body["version"], body["state"], body["credentials"]) == ("0.1.0", "serving", "none")
    assert body["drives"] == 2
    assert body["started_at"].endswith("Z")
    assert body["machine"]["processors"] >= 1
    assert body["machine"]["page_bytes"] % 4096 == 0


def test_stats_is_the_snapshot_and_nothing_is_lost(client: TestClient, service: Any) -> None:
    service.raw["a_field_of_tomorrow"] = 5
    assert client.get("/api/v1/stats").json() == service.raw


def test_drives_are_listed_by_id(client: TestClient) -> None:
    body = client.get("/api/v1/drives").json()
    assert [drive["id"] for drive in body["items"]] == ["aaaa", "bbbb"]
    assert body["next_page_token"] is None
    assert body["items"][1]["path"] == "/data/b"


def test_pages_hold_every_drive_once(client: TestClient) -> None:
    first = client.get("/api/v1/drives", params={"page_size": 1}).json()
    assert [drive["id"] for drive in first["items"]] == ["aaaa"]
    second = client.get("/api/v1/drives", params={"page_size": 1, "page_token": first["next_page_token"]}).json()
    assert [drive["id"] for drive in second["items"]] == ["bbbb"]
    assert second["next_page_token"] is None


@pytest.mark.parametrize("token", ["x", "AAAA", "é", "a" * 100])
def test_a_foreign_page_token(client: TestClient, token: str) -> None:
    problem_of(client.get("/api/v1/drives", params={"page_token": token}), "bad_page_token")


def test_one_drive(client: TestClient) -> None:
    assert client.get("/api/v1/drives/bbbb").json()["state"] == "failed"
    problem_of(client.get("/api/v1/drives/cccc"), "no_such_drive")


def test_health_follows_the_state(client: TestClient, service: Any) -> None:
    for drive in service.raw["store"]["drives"]:
        drive["state"] = "serving"
    healthy = {"state": "serving", "loaded_share": 1.0, "drives_serving": 2, "drives": 2, "hurt": []}
    for path in ("/healthz", "/readyz"):
        assert client.get(path).json() == healthy
    for state, name in (("draining", "draining"), ("starting", "starting"), ("failed", "unwell")):
        service.state = state
        for path in ("/healthz", "/readyz"):
            assert state in problem_of(client.get(path), name)["detail"]


def test_health_names_every_drive_that_is_hurt(client: TestClient, service: Any) -> None:
    failed, other = service.raw["store"]["drives"]
    failed["reason"] = "reads fail, one after another"
    service.absent, service.raw["drives_absent"] = [("/dev/nvme9n1", "no such device")], 1
    other |= {"state": "read_only", "reason": "writes fail, one after another"}
    expected = {
        ("bbbb", "/data/b", "failed", "reads fail, one after another"),
        ("aaaa", other["path"], "read_only", "writes fail, one after another"),
        ("", "/dev/nvme9n1", "absent", "no such device"),
    }
    health = client.get("/healthz")
    assert (health.status_code, health.json()["state"]) == (200, "degraded")
    assert {tuple(one.values()) for one in health.json()["hurt"]} == expected
    assert client.get("/readyz").status_code == 200, "it serves what it has"
    service.read_only = True
    assert "aaaa" not in str(client.get("/healthz").json()["hurt"]), "it is read-only because it was told to be"


def test_health_is_lost_with_the_last_drive(client: TestClient, service: Any) -> None:
    for drive in service.raw["store"]["drives"]:
        drive["state"] = "failed"
    assert problem_of(client.get("/healthz"), "unwell")["detail"] == "every drive has failed"


def test_health_tells_how_much_is_loaded(client: TestClient, service: Any) -> None:
    service.raw["loaded"] = False
    service.raw["drives_absent"] = 1
    service.raw["store"]["drives"][0]["loaded_share"] = 0.5
    response = client.get("/healthz")
    assert response.status_code == 200, "it serves what it has read"
    assert response.json() | {"hurt": []} == {
        "state": "loading",
        "loaded_share": 0.75,
        "drives_serving": 1,
        "drives": 3,
        "hurt": [],
    }
    assert "75%" in problem_of(client.get("/readyz"), "loading")["detail"]


def test_a_service_that_cannot_answer(client: TestClient, service: Any) -> None:
    service.error = ServiceError("the reactor did not answer within 2 s")
    assert "reactor" in problem_of(client.get("/api/v1/stats"), "unwell")["detail"]
    service.error = _native.CairnError("the store is gone")
    assert problem_of(client.get("/metrics"), "unwell")["detail"] == "the store is gone"
    service.state = "starting"
    problem_of(client.get("/api/v1/system"), "starting")


def test_unknown_paths(client: TestClient) -> None:
    for path in ("/", "/api/v1", "/api/v1/drives/", "/docs", "/redoc", "/api/v2/system"):
        assert path in problem_of(client.get(path), "no_such_path")["detail"]


def test_wrong_method(client: TestClient) -> None:
    """A path told of the methods of one of its routes only."""
    for method, path, allowed in (
        ("DELETE", "/api/v1/stats", "GET, HEAD"),
        ("DELETE", "/api/v1/drives", "GET, HEAD, POST"),
        ("PUT", "/api/v1/drives/aaaa", "DELETE, GET, HEAD"),
        ("GET", "/api/v1/drives/aaaa/drain", "POST"),
        ("POST", "/healthz", "GET, HEAD"),
    ):
        response = client.request(method, path)
        problem_of(response, "method_not_allowed")
        assert response.headers["allow"] == allowed


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics", "/api/v1/drives", "/api/v1/drives/zzzz", "/none"])
def test_head_is_get_without_the_body(client: TestClient, path: str) -> None:
    head, get = client.head(path), client.get(path)
    assert (head.status_code, head.headers["content-type"]) == (get.status_code, get.headers["content-type"])


@pytest.mark.parametrize("size", ["0", "1001", "many", ""])
def test_bad_parameters_are_named(client: TestClient, size: str) -> None:
    body = problem_of(client.get("/api/v1/drives", params={"page_size": size}), "bad_parameter")
    assert body["errors"][0]["where"] == "query.page_size"


def test_our_own_mistakes_are_problems_too(client: TestClient, service: Any, caplog: pytest.LogCaptureFixture) -> None:
    service.error = RuntimeError("secret detail")
    response = client.get("/api/v1/stats")
    body = problem_of(response, "internal")
    assert "secret" not in response.text
    [record] = [record for record in caplog.records if record.name == "cairn_dpu.admin"]
    assert record.fields["request_id"] == body["request_id"]


def test_the_callers_request_id_is_kept_when_harmless(client: TestClient) -> None:
    assert client.get("/healthz", headers={"X-Request-Id": "job-7.a_b"}).headers["x-request-id"] == "job-7.a_b"
    for bad in ("a b", "x" * 65, "", 'a"b'):
        made = client.get("/healthz", headers={"X-Request-Id": bad}).headers["x-request-id"]
        assert made != bad
        assert len(made) == 32


def test_every_answer_is_safe_to_show(client: TestClient) -> None:
    for path in ("/healthz", "/nothing", "/metrics"):
        headers = client.get(path).headers
        assert (headers["x-content-type-options"], headers["cache-control"]) == ("nosniff", "no-store")


def test_problem_types_explain_themselves(client: TestClient) -> None:
    items = client.get("/api/v1/problems").json()["items"]
    assert [item["name"] for item in items] == sorted(PROBLEMS)
    for item in items:
        assert client.get(f"/api/v1/problems/{item['name']}").json() == item
        assert item["title"].endswith(".")
        assert item["hint"].endswith(".")
    problem_of(client.get("/api/v1/problems/none"), "no_such_problem")


def test_openapi_is_complete_and_tells_our_errors(client: TestClient) -> None:
    document = client.get("/api/v1/openapi.json").json()
    assert document["info"]["version"] == "0.1.0"
    assert "HTTPValidationError" not in json.dumps(document)
    for path, methods in document["paths"].items():
        for operation in methods.values():
            assert operation["summary"], path
            assert operation["description"], path
            for status, response in operation["responses"].items():
                if status not in ("200", "201"):
                    assert list(response["content"]) == ["application/problem+json"]
    assert set(document["paths"]) == {
        "/api/v1/drives",
        "/api/v1/drives/{id}",
        "/api/v1/drives/{id}/drain",
        "/api/v1/drives/{id}/resume",
        "/api/v1/problems",
        "/api/v1/problems/{name}",
        "/api/v1/stats",
        "/api/v1/system",
        "/api/v1/tenants",
        "/healthz",
        "/metrics",
        "/readyz",
    }
