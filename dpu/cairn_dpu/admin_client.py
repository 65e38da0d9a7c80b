"""The admin API of a running service, as the command asks it."""

import json
import urllib.error
import urllib.request
from typing import Any

from cairn_dpu.addresses import HostPort
from cairn_dpu.errors import ConfigError, ConflictError, DeniedError, NotFoundError, ServiceError

SECONDS_MOST = 60.0
_BY_STATUS = {400: ConfigError, 403: DeniedError, 404: NotFoundError, 409: ConflictError, 422: ConfigError}


class AdminClient:
    """One service's admin API. Every call may raise ServiceError with the problem's detail and what to do about it."""

    def __init__(self, address: HostPort) -> None:
        self._base = f"http://{address}"
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """One request; the answer's JSON."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json", "X-Cairn-Request": "cairn-dpu"}
        request = urllib.request.Request(self._base + path, data, headers, method=method)  # noqa: S310
        try:
            with self._opener.open(request, timeout=SECONDS_MOST) as response:
                return json.load(response)
        except urllib.error.HTTPError as error:
            raise _error_of(error) from None
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", error)
            raise ServiceError(
                f"no service answers at {self._base} ({reason}); see that it runs, and --admin"
            ) from None

    def all(self, path: str) -> list[dict[str, Any]]:
        """Every item of a collection, page by page."""
        items: list[dict[str, Any]] = []
        token = ""
        while True:
            page = self.ask("GET", f"{path}?page_token={token}")
            items += page["items"]
            token = page["next_page_token"]
            if token is None:
                return items


def _error_of(error: urllib.error.HTTPError) -> ServiceError:
    kind = _BY_STATUS.get(error.code, ServiceError)
    try:
        problem = json.load(error)
        return kind(f"{problem['detail']}. {problem['hint']}")
    except (ValueError, KeyError, TypeError):
        return kind(f"the service answered with HTTP status {error.code}")
