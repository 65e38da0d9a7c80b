"""What every problem document promises."""

from typing import Any

from cairn_dpu.admin.problems import PROBLEMS, Problem


def problem_of(response: Any, name: str) -> dict[str, Any]:
    """The problem document, after checking everything that every one of them promises."""
    expected = PROBLEMS[name]
    assert response.status_code == expected.status
    assert response.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = response.json()
    Problem.model_validate(body)
    assert (body["type"], body["title"]) == (f"/api/v1/problems/{name}", expected.title)
    assert (body["status"], body["hint"]) == (expected.status, expected.hint)
    assert body["detail"]
    assert body["request_id"] == response.headers["x-request-id"]
    return body
