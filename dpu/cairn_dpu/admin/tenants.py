"""Tenants: their limits, what they hold, what they did."""

from fastapi import APIRouter

from cairn_dpu.admin.asking import AnyService, PageSize, PageToken, page_of, snapshot_of
from cairn_dpu.admin.models import TenantPage, TenantResource
from cairn_dpu.admin.view import ServiceView

api = APIRouter(prefix="/api/v1/tenants", tags=["tenants"])


def _all(service: ServiceView) -> list[TenantResource]:
    return [TenantResource(id=str(row.number), **row.model_dump()) for row in snapshot_of(service).tenants]


@api.get("", summary="All tenants")
def tenants(service: AnyService, page_size: PageSize = 100, page_token: PageToken = "") -> TenantPage:
    """Limits and counters of every tenant that is configured, was seen, or has blocks on the drives."""
    page, token = page_of(_all(service), lambda row: f"{row.number:010}", page_size, page_token)
    return TenantPage(items=page, next_page_token=token)
