"""Names of tenants in every script, and names that are no text, from the handshake to REST and Prometheus. A name came out as
other letters than it went in."""

import json
import subprocess
import sys
import urllib.request
from typing import Any

import pytest
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families

NAMES = ["équipe-à", "команда", "チーム", "🗿 stones", 'quo"te\\back', "two words", "a/b?c=d&e#f%2F"]


def get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=30) as response:
        body: bytes = response.read()
        return body


def test_names_survive_the_service(serve: Any) -> None:
    ready = serve().wait_ready()
    for name in NAMES:
        words = [sys.executable, "-m", "cairnkv", "put", "k", "-", "--tenant", name, "--server", ready["listen"][0]]
        done = subprocess.run(words, input=b"x", capture_output=True, timeout=60)
        assert done.returncode == 0, done.stderr
    tenants = json.loads(get(ready["admin"] + "/api/v1/tenants"))["items"]
    assert set(NAMES) <= {tenant["name"] for tenant in tenants}
    families = text_string_to_metric_families(get(ready["admin"] + "/metrics").decode())
    labels = {sample.labels["tenant"] for family in families for sample in family.samples if "tenant" in sample.labels}
    assert set(NAMES) <= labels


@pytest.mark.parametrize("name", [*NAMES, "line\nbreak", "\x7f", "\u2028"])
def test_names_survive_the_admin_plane(client: TestClient, service: Any, name: str) -> None:
    service.raw["tenants"][0]["name"] = name
    assert client.get("/api/v1/tenants").json()["items"][0]["name"] == name
    families = text_string_to_metric_families(client.get("/metrics").text)
    assert name in {sample.labels.get("tenant") for family in families for sample in family.samples}
