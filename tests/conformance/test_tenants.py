"""Tenants of a real service: whose blocks are whose after a crash, and a quota on a drive that is full."""

from collections import Counter
from pathlib import Path

import pytest
from hurt_service import HurtService

import cairnkv

# Two names with one CRC32C, which is the first choice for a tenant's number on the drives.
ONE, OTHER = "gpu-code-463113", "search-south-764882"
BLOCK = bytes(1 << 20)


def test_a_name_that_collides_never_gets_the_others_blocks(tmp_path: Path) -> None:
    """kill -9 right after the first put: whose it was is on the drive by then."""
    service = HurtService(tmp_path, size="64MiB", slab="256MiB", admin="off")
    service.start()
    url = service.urls["tcp"]
    with cairnkv.connect(url, tenant=ONE) as client:
        assert client.put_one("block", b"secret").status.name == "ok"
    service.kill()
    service.start()
    url = service.urls["tcp"]
    with cairnkv.connect(url, tenant=OTHER) as client:
        assert client.get_bytes("block")[0].status.name == "not_found"
        assert client.put_one("block", b"other").status.name == "ok"
    with cairnkv.connect(url, tenant=ONE) as client:
        assert client.get_bytes("block")[1] == b"secret"
    service.kill()
    service.start()
    for tenant, content in ((OTHER, b"other"), (ONE, b"secret")):
        with cairnkv.connect(service.urls["tcp"], tenant=tenant) as client:
            assert client.get_bytes("block")[1] == content
    service.kill()


def test_an_empty_tenant_is_not_the_default(service: HurtService) -> None:
    with pytest.raises(cairnkv.UsageError, match="tenant"):
        cairnkv.connect(service.urls["tcp"], tenant="")


def test_a_tenant_at_its_quota_on_a_full_drive_gets_its_blocks_in(tmp_path: Path) -> None:
    service = HurtService(
        tmp_path, size="128MiB", slab="256MiB", admin="off", settings=["--tenant", "small=id:9,quota:16MiB"]
    )
    service.start()
    url = service.urls["tcp"]
    with cairnkv.connect(url) as client:
        assert Counter(result.status.name for result in client.put([(f"{i}", BLOCK) for i in range(153)])) == {
            "ok": 153
        }
    with cairnkv.connect(url, tenant="small") as client:
        for i in range(100):
            assert client.put_one(f"{i}", BLOCK).status.name == "ok", i
        assert client.get_bytes("99")[1] == BLOCK
        assert sum(result.ok for result in client.exists([f"{i}" for i in range(100)])) >= 12
    service.kill()
