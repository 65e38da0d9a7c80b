"""The figures of the whole service, as its operator sees them: a client is told only those of its own tenant."""

from __future__ import annotations

import json
import time
import urllib.request
from typing import Any

AWAITED_SECONDS_MOST = 15.0


class Observer:
    def __init__(self, admin_url: str) -> None:
        self.admin_url = admin_url

    def stats(self) -> dict[str, Any]:
        with urllib.request.urlopen(self.admin_url + "/api/v1/stats", timeout=20) as answer:
            found: dict[str, Any] = json.loads(answer.read())
        return found

    def figure(self, name: str) -> int:
        return int(self.stats()[name])

    def await_figure(self, name: str, wanted: int) -> None:
        until = time.monotonic() + AWAITED_SECONDS_MOST
        while (seen := self.figure(name)) != wanted:
            assert time.monotonic() < until, f"{name} is {seen} and stays so"
            time.sleep(0.01)
