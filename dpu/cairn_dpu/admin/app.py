"""The admin API as one FastAPI application over one service."""

from collections.abc import Iterable
from typing import Any

from anyio import CapacityLimiter
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from cairn_dpu import _native
from cairn_dpu.admin import drives, problems, tenants
from cairn_dpu.admin.envelope import Envelope
from cairn_dpu.admin.guard import Guard
from cairn_dpu.admin.routes import api, probes
from cairn_dpu.admin.view import ServiceView

DESCRIPTION = """Watches one Cairn service. Errors are RFC 9457 problem documents with a hint on what to do; their `type`
is a path on this service. Sizes are integers in bytes, times RFC 3339."""

# An order can wait for a drive that does not answer: those who look on must not wait with it.
ORDERS_AT_ONCE = 2


def create_app(service: ServiceView, hosts: Iterable[str] = (), *, any_address: bool = False) -> FastAPI:
    """The application. It asks `service` at every request and keeps nothing. `hosts` and `any_address`: whom it
    answers for, see Guard."""
    app = FastAPI(
        title="Cairn admin API",
        version=_native.version(),
        description=DESCRIPTION,
        openapi_url="/api/v1/openapi.json",
        docs_url=None,  # the stock pages load scripts from elsewhere, which a closed network cannot
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.service = service
    app.state.ordering = CapacityLimiter(ORDERS_AT_ONCE)
    problems.install(app)
    app.add_middleware(Guard, hosts=hosts, any_address=any_address)
    app.add_middleware(Envelope)  # outermost: what the guard refuses is in it as well
    for router in (api, drives.api, tenants.api, probes):
        app.include_router(router)
    app.state.routes = [route for router in (api, drives.api, tenants.api, probes) for route in router.routes]
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    return app


def _openapi(app: FastAPI) -> dict[str, Any]:
    """FastAPI's document, with our problem documents in place of its own error shapes."""
    if app.openapi_schema is None:
        schema = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        components = schema["components"]["schemas"]
        components.pop("HTTPValidationError", None)
        components.pop("ValidationError", None)
        components["Problem"] = problems.Problem.model_json_schema()
        for path, methods in schema["paths"].items():
            for method, operation in methods.items():
                _describe_problems(path, method, operation)
        app.openapi_schema = schema
    return app.openapi_schema


def _describe_problems(path: str, method: str, operation: dict[str, Any]) -> None:
    takes_input = operation.get("parameters") or operation.get("requestBody")
    statuses = {"500", "503"} | ({"422"} if takes_input else set())
    statuses |= {"404"} if "{" in path or "requestBody" in operation else set()
    statuses |= {"400"} if path.endswith(("/drives", "/tenants")) else set()
    statuses |= {"403"} if "requestBody" in operation else set()
    statuses |= {"409"} if method != "get" else set()
    statuses |= {"507"} if path.endswith("/drain") else set()
    content = {problems.MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    for status in sorted(statuses):
        operation["responses"][status] = {"description": "A problem document.", "content": content}
