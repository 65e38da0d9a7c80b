"""What the routes have in common: the service behind them, its snapshot, and pages."""

import base64
import binascii
from collections.abc import Callable
from typing import Annotated, TypeVar

from fastapi import Depends, Query, Request

from cairn_dpu.admin.problems import ProblemError
from cairn_dpu.admin.view import ServiceView
from cairn_dpu.snapshot import Snapshot

T = TypeVar("T")
PageSize = Annotated[int, Query(ge=1, le=1000, description="most items in one answer")]
PageToken = Annotated[str, Query(max_length=512, description="next_page_token of the page before")]


def _service(request: Request) -> ServiceView:
    service: ServiceView = request.app.state.service
    return service


AnyService = Annotated[ServiceView, Depends(_service)]


def snapshot_of(service: ServiceView) -> Snapshot:
    """The statistics now. Raises ServiceError."""
    return Snapshot.model_validate_json(service.stats())


def page_of(rows: list[T], key: Callable[[T], str], size: int, token: str) -> tuple[list[T], str | None]:
    """The rows behind the token, in the order of their keys, and the token of the next page."""
    after = _read_token(token)
    rest = sorted((row for row in rows if key(row) > after), key=key)
    page = rest[:size]
    return page, _make_token(key(page[-1])) if len(rest) > size else None


def _make_token(last: str) -> str:
    return base64.urlsafe_b64encode(b"after:" + last.encode()).decode().rstrip("=")


def _read_token(token: str) -> str:
    if not token:
        return ""
    try:
        text = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)).decode()
    except (binascii.Error, ValueError):
        text = ""
    if not text.startswith("after:"):
        raise ProblemError("bad_page_token", f"'{token}' is not a page token")
    return text.removeprefix("after:")
