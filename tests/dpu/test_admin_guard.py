"""Who may ask the admin API, and how much at once. The API has no credentials: any page in a browser of this machine could
drain and detach the drives, and any program could fill the service's memory."""

from typing import Any

import pytest
from admin_problems import problem_of
from fastapi.testclient import TestClient

from cairn_dpu.admin.app import create_app
from cairn_dpu.admin.guard import BODY_BYTES_MOST

DRIVE = "/api/v1/drives/aaaa"


@pytest.fixture
def browser(service: Any) -> TestClient:
    """Sends nothing that a page of another site could not make a browser send."""
    return TestClient(create_app(service, ["cairn.example", "192.0.2.7"]), base_url="http://localhost:8600")


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "localhost:8600",
        "LOCALHOST:1",
        "127.0.0.1:8600",
        "[::1]:8600",
        "[::1]",
        "cairn.example",
        "192.0.2.7:80",
    ],
)
def test_hosts_it_answers_for(browser: TestClient, host: str) -> None:
    assert browser.get("/healthz", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("host", ["evil.example:8600", "localhost.evil.example", "127.0.0.2", "[::2]:8600", "x" * 5000])
def test_a_name_that_was_pointed_here(browser: TestClient, host: str) -> None:
    problem_of(browser.get("/healthz", headers={"Host": host}), "foreign_host")


def test_a_service_for_other_machines_answers_for_every_address(service: Any) -> None:
    client = TestClient(create_app(service, any_address=True), base_url="http://198.51.100.9:8600")
    assert client.get("/healthz").status_code == 200
    assert client.get("/healthz", headers={"Host": "[2001:db8::1]:8600"}).status_code == 200
    problem_of(client.get("/healthz", headers={"Host": "evil.example"}), "foreign_host")


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "http://localhost:3000"},
        {"Origin": "null"},
        {"Origin": ""},
        {"Origin": "http://[", "X-Cairn-Request": "1"},
        {"Sec-Fetch-Site": "cross-site", "X-Cairn-Request": "1"},
        {"Sec-Fetch-Site": "same-site", "X-Cairn-Request": "1"},
    ],
    ids=str,
)
def test_pages_of_other_sites(browser: TestClient, service: Any, headers: dict[str, str]) -> None:
    problem_of(browser.post(f"{DRIVE}/drain", headers=headers), "cross_site")
    problem_of(browser.get("/api/v1/stats", headers=headers), "cross_site")
    assert service.asked == []


def test_a_page_of_its_own(browser: TestClient) -> None:
    headers = {"Origin": "http://localhost:8600", "Sec-Fetch-Site": "same-origin", "X-Cairn-Request": "1"}
    assert browser.post(f"{DRIVE}/drain", headers=headers).status_code == 200


@pytest.mark.parametrize(
    "type", ["", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "a/json"]
)
def test_what_a_form_can_send_changes_nothing(browser: TestClient, service: Any, type: str) -> None:
    headers = {"Content-Type": type} if type else {}
    for method, path in (("POST", f"{DRIVE}/drain"), ("DELETE", DRIVE), ("POST", "/api/v1/drives")):
        problem_of(browser.request(method, path, headers=headers), "token_header_missing")
    body = '{"path": "/dev/x"}'
    problem_of(browser.post("/api/v1/drives", content=body, headers=headers), "token_header_missing")
    assert service.asked == []


@pytest.mark.parametrize(
    "headers", [{"X-Cairn-Request": ""}, {"Content-Type": "application/json; charset=utf-8"}], ids=str
)
def test_what_a_form_cannot_send(browser: TestClient, headers: dict[str, str]) -> None:
    assert browser.post(f"{DRIVE}/drain", headers=headers).status_code == 200
    assert browser.delete(DRIVE, headers=headers).status_code == 200


@pytest.mark.parametrize(
    "path", ["/%00", "/api/v1/drives/%ff", "/api/v1/drives/a%00b", "/api/v1/drives?page_token=%fe"]
)
def test_what_is_no_text(client: TestClient, path: str) -> None:
    problem_of(client.get(path), "bad_path")


def test_a_body_has_a_bound(client: TestClient, service: Any) -> None:
    json = {"Content-Type": "application/json"}
    body = b'{"path": "/dev/x"}'.ljust(BODY_BYTES_MOST)
    assert client.post("/api/v1/drives", content=body, headers=json).status_code == 201
    service.asked.clear()
    problem_of(client.post("/api/v1/drives", content=body + b" ", headers=json), "body_too_large")
    problem_of(client.post("/api/v1/drives", content=iter([body, b" "]), headers=json), "body_too_large")
    problem_of(client.post("/api/v1/drives", headers=json | {"Content-Length": "9" * 30}), "body_too_large")
    problem_of(client.request("GET", "/healthz", content=body + b" "), "body_too_large")
    assert service.asked == []


def test_requests_are_named_in_the_log(client: TestClient, service: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "cairn_dpu.admin")
    client.post(f"{DRIVE}/drain", headers={"X-Request-Id": "job-7"})
    client.delete("/api/v1/drives/zzzz", headers={"X-Request-Id": "job-8"})
    fields = [record.__dict__["fields"] for record in caplog.records]
    assert [(one["request_id"], one["method"], one["path"], one["status"]) for one in fields] == [
        ("job-7", "POST", f"{DRIVE}/drain", 200),
        ("job-8", "DELETE", "/api/v1/drives/zzzz", 404),
    ]
