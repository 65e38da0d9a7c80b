"""Promises 1 to 3 with blocks in memory of a GPU, over every transport, and what else is promised of such memory.

There is no GPU here: a stand-in of the driver gives memory that no host code can touch (tests/support/gpu_stand_in.py). These tests
say nothing about a real GPU; tests/integration/test_cuda.py does, on a machine that has one."""

from __future__ import annotations

import asyncio
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from gpu_stand_in import BROKEN, GpuMemory, StandIn
from hurt_service import RDMA_HOST, HurtService

import cairnkv
from cairnkv import GpuCopyWarning, Status, _native

Fresh = Callable[[], bytes]
SIZES = [1, 4095, 65_537, 1 << 20, 5_000_001]
TRANSPORTS = ["tcp", "shm", *(["rdma"] if RDMA_HOST is not None else [])]
WAYS = [f"{transport}-{how}" for transport in TRANSPORTS for how in ("passed", "registered")]


@pytest.fixture(scope="module")
def gpu() -> StandIn:
    return StandIn()


@pytest.fixture(scope="module")
def one_service(gpu: StandIn) -> Iterator[HurtService]:
    del gpu  # it is skipped first where there is none
    with tempfile.TemporaryDirectory(prefix="cairn-") as folder:
        started = HurtService(Path(folder), size="512MiB", slab="256MiB", admin="off", rdma_host=RDMA_HOST)
        yield started
        if started.process.running():
            started.kill()


@pytest.fixture
def service(one_service: HurtService) -> HurtService:
    """Serving, whatever the test before did to it."""
    if one_service.process.running():
        one_service.resume()
    else:
        one_service.start()
    return one_service


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def client(service: HurtService, way: str) -> Iterator[cairnkv.Client]:
    with cairnkv.connect(service.urls[way.partition("-")[0]], lanes=2) as opened:
        yield opened


class Made:
    """Memory of a GPU, and what a test passes in its place."""

    def __init__(self, gpu: StandIn, client: cairnkv.Client, way: str) -> None:
        self._gpu, self._client, self._registered = gpu, client, way.endswith("registered")
        self._regions: list[cairnkv.Region] = []

    def __call__(self, nbytes: int, device: int = 0) -> tuple[GpuMemory, object]:
        memory = GpuMemory(self._gpu, nbytes, device)
        if not self._registered:
            return memory, memory
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", GpuCopyWarning)
            self._regions.append(self._client.register(memory))
        return memory, (memory.address, nbytes)  # as adapters name blocks of a cache that is registered as a whole


@pytest.fixture
def made(gpu: StandIn, client: cairnkv.Client, way: str) -> Made:
    return Made(gpu, client, way)


# --- 1: never wrong bytes --------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
def test_1_the_bytes_that_were_put_come_back(client: cairnkv.Client, made: Made, fresh: Fresh, size: int) -> None:
    key, (source, named) = fresh(), made(size)
    source.fill(7)
    assert client.put_one(key, named).status == Status.ok
    target, place = made(size, device=1)
    result = client.get_one(key, place)
    assert result.hit and result.nbytes == size and target.holds(7)


@pytest.mark.parametrize("asked", [(0, 0), (1000, 5000), (99_999, 1)])
def test_1_ranges(client: cairnkv.Client, made: Made, fresh: Fresh, asked: tuple[int, int]) -> None:
    key, (source, named) = fresh(), made(100_000)
    client.put_one(key, source.fill(1) and named)
    target, place = made(100_010)
    target.write(bytes(100_010))
    offset, length = asked[0], asked[1] or 100_000
    assert client.get([(key, place)], ranges=[asked])[0].nbytes == length
    assert target.read(0, length) == source.read(offset, length)
    assert target.read(length) == bytes(100_010 - length), "more was written than was asked for"


def test_1_a_block_lies_on_two_gpus_and_the_host(client: cairnkv.Client, made: Made, fresh: Fresh) -> None:
    key, whole = fresh(), bytearray(100_000)
    _native.fill_pattern(whole, 3)
    (first, one), (second, two) = made(30_000), made(69_999, device=2)
    first.write(whole[:30_000])
    second.write(whole[30_001:])
    assert client.put_one(key, [one, bytes(whole[30_000:30_001]), two]).status == Status.ok
    back = bytearray(100_000)
    assert client.get_one(key, back).hit and back == whole
    host, (third, three) = bytearray(50_000), made(50_000)
    assert client.get_one(key, [host, three]).hit
    assert host + third.read() == whole


def test_1_a_batch_that_is_larger_than_all_memory_for_copies(client: cairnkv.Client, made: Made, fresh: Fresh) -> None:
    """128 MiB are there for copies. And a deletion makes room for the next transport."""
    prefix, size = fresh(), 8 << 20
    keys = [prefix + bytes([number]) for number in range(20)]
    source, named = made(size * len(keys))
    source.fill(9)
    items = [(key, (source.address + at * size, size, 0)) for at, key in enumerate(keys)]
    del named
    assert {result.status for result in client.put(items, durability="relaxed")} == {Status.ok}
    expected = source.read()
    source.write(bytes(size * len(keys)))
    assert all(result.hit for result in client.get(items))
    assert source.read() == expected
    client.delete(keys)


def test_1_the_largest_block(client: cairnkv.Client, made: Made, fresh: Fresh) -> None:
    key, size = fresh(), cairnkv.memory.BLOCK_BYTES_MOST
    source, named = made(size)
    assert client.put_one(key, source.fill(2) and named).status == Status.ok
    target, place = made(size + 1)
    assert client.get_one(key, place).nbytes == size
    assert _native.check_pattern(target.read(0, size), 2) == -1
    assert client.put_one(fresh(), place).status == Status.too_large
    client.delete([key])


# --- 2: a failure is a miss, for that block only ---------------------------------------------------------


def test_2_every_item_has_its_own_status(client: cairnkv.Client, made: Made, fresh: Fresh) -> None:
    here, absent, large = fresh(), fresh(), fresh()
    (one, first), (two, second) = made(1000), made(9000)
    client.put([(here, one.fill(1) and first), (large, two.fill(2) and second)])
    (target, place), (_, other), (_, small), (_, again) = made(1000), made(1000), made(10), made(1000)
    results = client.get([(here, place), (absent, other), (large, small), (here, again)])
    assert [result.status for result in results] == [Status.ok, Status.not_found, Status.short_buffer, Status.ok]
    assert target.holds(1)


def test_2_a_gpu_that_breaks_costs_its_item(gpu: StandIn, client: cairnkv.Client, made: Made, fresh: Fresh) -> None:
    key, lost = fresh(), fresh()
    source, named = made(1000)
    source.fill(1)
    gpu.fail("cuMemcpyDtoHAsync_v2", BROKEN)
    assert [one.status for one in client.put([(lost, named), (key, b"host")])] == [Status.bad_region, Status.ok]
    assert f"CUDA error {BROKEN}" in client.info()["last_error"]
    assert not client.exists([lost])[0]
    gpu.fail("cuMemcpyHtoDAsync_v2", BROKEN)
    _, place = made(4)
    assert client.get_one(key, place).status == Status.bad_region
    assert client.get_one(key, place).hit


def test_2_a_service_that_dies_is_a_batch_of_misses(
    service: HurtService, client: cairnkv.Client, made: Made, fresh: Fresh
) -> None:
    key, (source, named) = fresh(), made(1000)
    client.put_one(key, source.fill(1) and named)
    service.kill()
    target, place = made(1000)
    target.write(bytes(1000))
    assert client.get_one(key, place, deadline_ms=2000).status in (Status.disconnected, Status.unreachable)
    assert target.read() == bytes(1000)


# --- 3: deadlines with a fence ---------------------------------------------------------------------------


def test_3_a_call_returns_in_time_and_nothing_lands_afterwards(
    service: HurtService, client: cairnkv.Client, made: Made, fresh: Fresh
) -> None:
    key, size = fresh(), 4 << 20
    source, named = made(size)
    client.put_one(key, source.fill(5) and named)
    target, place = made(size)
    for _ in range(3):
        service.suspend()
        start = time.monotonic()
        result = client.get_one(key, place, deadline_ms=100)
        assert time.monotonic() - start < 5, "the call did not keep its deadline"
        assert result.status in (Status.timeout, Status.disconnected, Status.unreachable)
        target.write(bytes(size))
        service.resume()
        with cairnkv.connect(service.urls["tcp"]) as other:
            other.exists([fresh()])
        assert target.read() == bytes(size), "a late write landed in the caller's memory"
        until = time.monotonic() + 10
        while not client.get_one(key, place).hit:
            assert time.monotonic() < until
        assert target.holds(5)


def test_3_a_put_that_timed_out_is_exact_or_absent(
    service: HurtService, client: cairnkv.Client, made: Made, fresh: Fresh
) -> None:
    for round_ in range(3):
        key, size = fresh(), 2 << 20
        source, named = made(size)
        source.fill(round_)
        service.suspend()
        assert client.put_one(key, named, deadline_ms=50).status != Status.ok
        source.write(b"\xee" * size)  # the memory is the caller's again
        service.resume()
        until = time.monotonic() + 10
        while client.put_one(fresh(), b"x").status != Status.ok:
            assert time.monotonic() < until
        back = bytearray(size)
        if client.get_one(key, back).hit:
            assert _native.check_pattern(back, round_) == -1, "a put that timed out stored bytes nobody meant"


def test_3_gets_that_race_their_deadline_leave_no_mark(client: cairnkv.Client, made: Made, fresh: Fresh) -> None:
    key, size = fresh(), 1 << 20
    source, named = made(size)
    client.put_one(key, source.fill(5) and named)
    target, place = made(size)
    for _ in range(50):
        target.write(bytes(size))
        if client.get_one(key, place, deadline_ms=1).hit:
            assert target.holds(5)
            continue
        target.write(bytes(size))
        client.exists([key])
        assert target.read() == bytes(size)


def test_3_cancelled_is_cancelled(service: HurtService, client: cairnkv.Client, made: Made, fresh: Fresh) -> None:
    key, size = fresh(), 1 << 20
    source, named = made(size)
    client.put_one(cairnkv.raw_key(key[:16]), source.fill(5) and named)
    target, _ = made(size)
    target.write(bytes(size))
    service.suspend()
    session = client._connection.session
    operation = session.get([key[:16]], [(target.address, size, 0, target)], 0, 30_000)
    operation.cancel()
    assert operation.statuses == [Status.cancelled]
    service.resume()
    until = time.monotonic() + 10
    while not client.put_one(fresh(), b"x").ok:
        assert time.monotonic() < until
    assert target.read() == bytes(size)


def test_3_a_region_that_is_closed_ends_what_uses_it(
    service: HurtService, gpu: StandIn, client: cairnkv.Client, fresh: Fresh
) -> None:
    memory = GpuMemory(gpu, 1 << 20)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", GpuCopyWarning)
        region = client.register(memory)
    service.suspend()
    results: list[cairnkv.GetResult] = []
    get = threading.Thread(target=lambda: results.append(client.get_one(fresh(), region)), name="test-get")
    get.start()
    time.sleep(0.2)  # whether it waits by now or comes too late, it must not use the memory
    region.close()
    get.join()
    assert results[0].status in (Status.cancelled, Status.disconnected)
    service.resume()


# --- regions ---------------------------------------------------------------------------------------------


def test_a_region_says_how_its_blocks_travel(gpu: StandIn, client: cairnkv.Client, way: str, fresh: Fresh) -> None:
    memory = GpuMemory(gpu, 10_000, device=1).fill(4)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        region = client.register(memory)
        other = client.register(GpuMemory(gpu, 10_000))
    assert (region.address, region.nbytes, region.device, region.transfer) == (memory.address, 10_000, 1, "bounced")
    if way.startswith("rdma"):  # the device of the testbed is software, and knows no dma-buf
        assert "registers no dma-buf" in region.reason
        assert [warning.category for warning in told] == [GpuCopyWarning], "said once"
        assert region.reason in str(told[0].message) and told[0].filename == __file__
    else:
        assert region.reason == f"the service reaches no such memory over {way.partition('-')[0]}"
        assert not told, "nothing else was to be expected"
    shown = {row["address"]: row for row in client.info()["gpu_regions"]}
    assert shown[region.address] == {
        "address": memory.address, "nbytes": 10_000, "device": 1, "transfer": "bounced", "reason": region.reason
    }  # fmt: skip
    key = fresh()
    assert client.put_one(key, region).ok and client.get_one(key, other).hit
    with pytest.raises(BufferError, match="no host code looks into it"):
        memoryview(region)
    region.close()
    with pytest.raises(cairnkv.UsageError, match="the region is closed"):
        client.put_one(key, region)
    assert [row["address"] for row in client.info()["gpu_regions"]] == [other.address]


def test_memory_is_registered_once(gpu: StandIn, client: cairnkv.Client) -> None:
    memory = GpuMemory(gpu, 10_000)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", GpuCopyWarning)
        region = client.register(memory)
        with pytest.raises(cairnkv.UsageError, match="registered already"):
            client.register(memory)
        region.close()
        client.register(memory).close()


def test_an_event_loop(gpu: StandIn, service: HurtService, way: str, fresh: Fresh) -> None:
    async def work() -> None:
        async with await cairnkv.aconnect(service.urls[way.partition("-")[0]]) as client:
            blocks = [GpuMemory(gpu, 300_000).fill(seed) for seed in range(8)]
            keys = [fresh() for _ in blocks]
            await asyncio.gather(*(client.put_one(key, block) for key, block in zip(keys, blocks, strict=True)))
            places = [GpuMemory(gpu, 300_000, device=1) for _ in blocks]
            results = await asyncio.gather(*(client.get_one(key, at) for key, at in zip(keys, places, strict=True)))
            assert all(result.hit for result in results)
            assert all(place.holds(seed) for seed, place in enumerate(places))

    asyncio.run(work())
