"""What adapter authors get: faults on order, and a store they can look into."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

import cairnkv
from cairnkv import ConnectError, Status
from cairnkv.testing import MemoryClient, MemoryStore, service


def test_clients_of_one_store_see_one_another() -> None:
    store = MemoryStore()
    MemoryClient(store).put_one("key", b"x")
    assert MemoryClient(store).exists(["key"])[0]
    assert not MemoryClient().exists(["key"])[0]
    assert len(store.blocks) == 1 and store.puts == 1


def test_tenants_of_one_store_see_nothing_of_one_another() -> None:
    store = MemoryStore()
    red, blue = MemoryClient(store, tenant="red"), MemoryClient(store, tenant="blue")
    red.put_one("key", b"x")
    assert not blue.exists(["key"])[0] and blue.watch().newest == 0 and red.watch().newest == 1
    assert (red.tenant, blue.tenant) == ("red", "blue")


def test_a_restart_on_order() -> None:
    store = MemoryStore()
    client = MemoryClient(store)
    client.put_one("key", b"x")
    client.lease(["key"], duration_ms=60_000)
    before = client.info()["server_id"]
    store.restart()
    assert client.exists(["key"])[0].status == Status.disconnected
    assert client.exists(["key"])[0] and client.info()["server_id"] != before
    assert client.delete(["key"])[0].status == Status.ok, "leases end with the service"


def test_a_watch_of_a_service_that_is_gone() -> None:
    client = MemoryClient()
    client.store.faults.unreachable = True
    answer = client.watch(after=5)
    assert (answer.status, answer.next_after) == (Status.unreachable, 5)
    with pytest.raises(cairnkv.StatusError):
        answer.raise_for_status()


def test_the_nth_get_fails_as_planned() -> None:
    client = MemoryClient()
    client.put([(f"key-{at}", b"x") for at in range(5)])
    client.get_bytes("key-0")
    client.store.faults.fail_get(2, Status.corrupt)
    results = client.get([(f"key-{at}", bytearray(1)) for at in range(5)])
    assert [result.status.name for result in results] == ["ok", "corrupt", "ok", "ok", "ok"]


def test_a_miss_rate_is_drawn_from_a_seed() -> None:
    def misses(seed: int) -> list[bool]:
        client = MemoryClient()
        client.put_one("key", b"x")
        client.store.faults.miss_rate, client.store.faults.seed = 0.3, seed
        return [client.get_one("key", bytearray(1)).hit for _ in range(200)]

    assert misses(1) == misses(1) != misses(2)
    assert 100 < sum(misses(1)) < 180


def test_a_service_that_is_gone() -> None:
    client = MemoryClient()
    client.put_one("key", b"x")
    client.store.faults.unreachable = True
    assert client.put_one("other", b"x").status == Status.unreachable
    assert client.get_bytes("key")[0].status == Status.unreachable
    assert client.match(["key"]) == 0
    with pytest.raises(cairnkv.StatusError):
        client.stats()
    client.store.faults.clear()
    assert client.get_bytes("key") == (client.get_one("key", bytearray(1)), b"x")


def test_a_delay() -> None:
    client = MemoryClient()
    client.store.faults.delay_seconds = 0.03
    began = time.monotonic()
    assert client.put_one("key", b"x").ok
    assert time.monotonic() - began >= 0.03


def test_closing_cancels_what_is_under_way() -> None:
    client = MemoryClient()
    client.store.faults.delay_seconds = 60
    results = list[Status]()
    waiting = threading.Thread(target=lambda: results.append(client.put_one("key", b"x").status), name="test-wait")
    waiting.start()
    while not client._connection.session._open:  # type: ignore[attr-defined]
        time.sleep(0)
    client.close()
    waiting.join()
    assert results == [Status.cancelled] and not client.store.blocks


def test_damage_on_order() -> None:
    client = MemoryClient()
    client.put([("a", b"abc"), ("b", b"xyz")])
    client.store.corrupt()
    assert client.get_bytes("a")[1] == b"`bc"
    client.store.drop(1)
    assert [bool(found) for found in client.exists(["a", "b"])] == [True, False]


def test_a_real_service(short_dir: Path) -> None:
    with service(short_dir, size="256MiB") as running:
        with cairnkv.connect(running.shm_url) as one, cairnkv.connect(running.tcp_url) as other:
            one.put_one("key", b"x")
            assert other.exists(["key"])[0]
        assert running.stop() == 0
        running.start()
        with cairnkv.connect(running.tcp_url) as again:
            assert again.exists(["key"])[0]
    assert not running.process.running()


def test_a_real_service_that_cannot_start(short_dir: Path) -> None:
    with pytest.raises(ConnectError, match="Its last words"), service(short_dir, size="1MiB"):
        pass
