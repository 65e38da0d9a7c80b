"""The admin API as one FastAPI application over one service."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from cairn_dpu import _native
from cairn_dpu.admin import problems
from cairn_dpu.admin.envelope import Envelope
from cairn_dpu.admin.routes import api, probes
from cairn_dpu.admin.view import ServiceView

DESCRIPTION = """Watches one Cairn service. Errors are RFC 9457 problem documents with a hint on what to do; their `type`
is a path on this service. Sizes are integers in bytes, times RFC 3339."""


def create_app(service: ServiceView) -> FastAPI:
    """The application. It asks `service` at every request and keeps nothing."""
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
    problems.install(app)
    app.add_middleware(Envelope)
    app.include_router(api)
    app.include_router(probes)
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
            for operation in methods.values():
                _describe_problems(path, operation)
        app.openapi_schema = schema
    return app.openapi_schema


def _describe_problems(path: str, operation: dict[str, Any]) -> None:
    statuses = {"500", "503"} | ({"422"} if operation.get("parameters") else set())
    statuses |= {"404"} if "{" in path else set()
    statuses |= {"400"} if path.endswith("/drives") else set()
    content = {problems.MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    for status in sorted(statuses):
        operation["responses"][status] = {"description": "A problem document.", "content": content}
