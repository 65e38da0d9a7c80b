"""Errors of the admin API: RFC 9457 problem documents, every one with a cause and a fix.

The types are the native list of outcomes (native/wire/status.h) plus what only HTTP can meet. `type` is a path on this
very service, where the type is explained.
"""

import re
import uuid
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.routing import Route

from cairn_dpu import _native
from cairn_dpu.errors import ServiceError, outcome_of

MEDIA_TYPE = "application/problem+json"
BASE = "/api/v1/problems"


@dataclass(frozen=True, slots=True)
class ProblemType:
    """One kind of error. `title` tells the cause, `hint` what to do."""

    name: str
    status: int
    title: str
    hint: str

    @property
    def uri(self) -> str:
        """Where the type is explained."""
        return f"{BASE}/{self.name}"


_HTTP = (
    ProblemType("no_such_path", 404, "The API has nothing at this path.", "See /api/v1/openapi.json for every path."),
    ProblemType("no_such_drive", 404, "No drive of this service has this id.", "List the drives at /api/v1/drives."),
    ProblemType(
        "drive_missing",
        404,
        "There is nothing at the path of the drive.",
        "See that the drive is plugged in, and its path.",
    ),
    ProblemType(
        "drive_not_allowed",
        403,
        "The operating system does not let the service open the drive.",
        "Give the service's user access to the device; see docs/operations.md.",
    ),
    ProblemType(
        "drive_unwell",
        409,
        "The drive was tried again and is as bad as before.",
        "See 'detail' and the kernel's log; put that right first, or detach and replace the drive.",
    ),
    ProblemType(
        "drive_refused",
        404,
        "There is no drive at the path that the service takes in.",
        "Look at the service's log, which says why.",
    ),
    ProblemType("drive_busy", 409, "Another process uses the drive.", "Stop what uses it; 'detail' says more."),
    ProblemType(
        "drive_unusable", 422, "The drive cannot be opened.", "Look at 'detail', and at the kernel's log of the drive."
    ),
    ProblemType("no_such_problem", 404, "There is no problem type of this name.", f"List the types at {BASE}."),
    ProblemType("bad_page_token", 400, "The page token was not made by this service.", "Begin without page_token."),
    ProblemType(
        "method_not_allowed", 405, "The path does not take this method.", "The header Allow lists the methods it takes."
    ),
    ProblemType(
        "bad_request", 400, "The bytes are no HTTP request that this service understands.", "Use an HTTP/1.1 client."
    ),
    ProblemType(
        "bad_path", 400, "The path or the query is not text.", "Percent-encode UTF-8, and leave NUL bytes out."
    ),
    ProblemType(
        "body_too_large", 413, "The body is larger than any order needs.", "See /api/v1/openapi.json for what it takes."
    ),
    ProblemType(
        "foreign_host",
        421,
        "The header Host names a machine that this service is not.",
        "Ask by an address that it listens on, or add the name to the setting admin_host.",
    ),
    ProblemType(
        "cross_site",
        403,
        "A page of another site may not ask this service.",
        "Open the page from this service, or ask without a browser.",
    ),
    ProblemType(
        "token_header_missing",
        403,
        "A request that changes something has to carry a header that pages of other sites cannot send.",
        "Add the header 'X-Cairn-Request: 1', or 'Content-Type: application/json' with a body.",
    ),
    ProblemType("loading", 503, "The service is still reading its drives.", "Try again; 'detail' tells how far it is."),
    ProblemType("bad_parameter", 422, "A parameter is missing or has a bad value.", "The list 'errors' names each."),
    ProblemType("starting", 503, "The service is still opening its drives.", "Try again in a few seconds."),
    ProblemType("unwell", 503, "The service cannot serve.", "Look at the service's log; 'detail' names what is wrong."),
    ProblemType("internal", 500, "The service made a mistake.", "Report it with the request_id; the log has details."),
)

# What to do about each outcome of the native list that is not a success.
_HINTS = {
    "not_found": "Put the block first; keys depend on tenant and layout too.",
    "timeout": "Allow a longer deadline, or look for an overloaded drive at /api/v1/drives.",
    "cancelled": "Nothing needs doing: the caller ended it.",
    "busy": "Try again in a moment. A client waits for answers before it sends more; the setting credits allows more.",
    "no_space": "Add a drive, or delete what is not needed; see segments_free at /api/v1/drives.",
    "too_large": "Split the block or the batch; the limits come with the handshake.",
    "invalid": "Compare the request with docs/wire-format.md; client and service may differ in version.",
    "bad_region": "Register the memory before using it, and stay inside it.",
    "short_buffer": "Give a destination at least as large as the range asked for.",
    "bad_range": "Ask for a range inside the block.",
    "corrupt": "The block will be computed and put again; check the drive with 'cairn-dpu check'.",
    "io_error": "Look at the drive's errors at /api/v1/drives and in the kernel log.",
    "read_only": "Start the service without read_only, or replace the drive that failed.",
    "bad_checksum": "Put the block again; if it recurs, look for bad memory or a bad link on the client's machine.",
    "denied": "Use credentials that allow the operation.",
    "bad_version": "Update the older of client and service.",
    "unsupported": "Use an operation that the service lists in its handshake.",
    "draining": "Connect to another service, or wait for the restart.",
    "disconnected": "Nothing needs doing: the client connects again by itself.",
    "unreachable": "See whether the service runs and the address is right: 'cairn doctor'.",
    "quota_exceeded": "Raise the tenant's quota, or delete what it does not need.",
    "leased": "Release the lease, wait until it ends, or delete by group, scope or layout: that does not ask for leases.",
    "lease_too_long": "Ask for less, and lease again before it ends.",
    "group_too_large": "Split the group: one has at most 1,024 members.",
    "not_admitted": "Nothing needs doing; to store more, loosen the admission settings.",
    "expired": "Give a longer time to live, or look at the clocks of client and service.",
    "drive_unknown": "List the drives at /api/v1/drives.",
    "drive_in_use": "Nothing needs doing if it is the same drive; a copy of a drive needs to be formatted first.",
    "drive_foreign": "See what it holds with 'cairn-dpu inspect'; format it with 'cairn-dpu format' if that may go.",
    "drive_newer": "Update this service.",
    "drive_damaged": "See what is left with 'cairn-dpu check'; format it anew if its blocks may go.",
    "drive_smaller": "Give the drive its former size, or format it anew.",
    "drive_draining": "Drain it and wait until its state is drained, or say that what is left may be lost: "
    "lose_what_is_left=true, --lose-what-is-left.",
}


def _from_native() -> list[ProblemType]:
    rows = [(name, http, sentence) for _, name, http, sentence in _native.status_table() if http >= 400]
    return [ProblemType(name, http, sentence, _HINTS[name]) for name, http, sentence in rows]


PROBLEMS = {problem.name: problem for problem in (*_from_native(), *_HTTP)}


class Problem(BaseModel):
    """An error as RFC 9457 describes it."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(description="path that explains this kind of error")
    title: str = Field(description="the cause, the same for every error of this type")
    status: int = Field(description="the HTTP status")
    detail: str = Field(description="what happened this time")
    hint: str = Field(description="what to do about it")
    request_id: str = Field(description="the X-Request-Id of the answer; the log names it too")


class ProblemError(Exception):
    """Raised by a route; becomes a problem document."""

    def __init__(self, name: str, detail: str) -> None:
        super().__init__(detail)
        self.problem = PROBLEMS[name]
        self.detail = detail


def request_id_of(given: str) -> str:
    """The caller's id when it is harmless, else a new one."""
    return given if re.fullmatch(r"[A-Za-z0-9._-]{1,64}", given) else uuid.uuid4().hex


def respond(
    request: Request, problem: ProblemType, detail: str, headers: dict[str, str] | None = None, **more: Any
) -> JSONResponse:
    """The problem document as a response."""
    body = document(problem, detail, request.state.request_id, **more)
    return JSONResponse(body, problem.status, headers, MEDIA_TYPE)


def document(problem: ProblemType, detail: str, request_id: str = "", **more: Any) -> dict[str, Any]:
    """The problem document. One without an id gets a new one."""
    return Problem(
        type=problem.uri,
        title=problem.title,
        status=problem.status,
        detail=detail,
        hint=problem.hint,
        request_id=request_id or request_id_of(""),
        **more,
    ).model_dump()


async def _on_problem(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ProblemError)
    return respond(request, error.problem, error.detail)


async def _on_service_error(request: Request, error: Exception) -> JSONResponse:
    state = request.app.state.service.state
    problem = PROBLEMS[state if state in ("starting", "draining") else "unwell"]
    return respond(request, problem, str(error))


async def _on_native_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, _native.CairnError)
    name = outcome_of(error)
    if name not in PROBLEMS:
        return await _on_service_error(request, error)
    return respond(request, PROBLEMS[name], str(error))


async def _on_validation(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    errors = [{"where": ".".join(str(part) for part in row["loc"]), "message": row["msg"]} for row in error.errors()]
    detail = "; ".join(f"{row['where']}: {row['message']}" for row in errors)
    return respond(request, PROBLEMS["bad_parameter"], detail, errors=errors)


async def _on_http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    if error.status_code == 404:
        return respond(request, PROBLEMS["no_such_path"], f"there is nothing at {request.url.path}", headers)
    if error.status_code == 400:  # the framework could not read the body
        return respond(request, PROBLEMS["bad_parameter"], "the body is not JSON")
    if error.status_code == 405:
        detail = f"{request.url.path} does not take {request.method}"
        headers["Allow"] = ", ".join(sorted(_methods_at(request)))
        return respond(request, PROBLEMS["method_not_allowed"], detail, headers)
    problem = ProblemType("internal", error.status_code, str(error.detail), PROBLEMS["internal"].hint)
    return respond(request, problem, str(error.detail), headers)


def _methods_at(request: Request) -> set[str]:
    """What the path takes, over all routes: the framework knows of the first only."""
    methods: set[str] = set()
    for route in request.app.state.routes:
        if isinstance(route, Route) and route.path_regex.match(request.scope["path"]):
            methods |= route.methods or set()
    return methods | ({"HEAD"} if "GET" in methods else set())


def install(app: FastAPI) -> None:
    """Makes every error of `app` a problem document."""
    app.add_exception_handler(ProblemError, _on_problem)
    app.add_exception_handler(ServiceError, _on_service_error)
    app.add_exception_handler(_native.CairnError, _on_native_error)
    app.add_exception_handler(RequestValidationError, _on_validation)
    app.add_exception_handler(HTTPException, _on_http)
