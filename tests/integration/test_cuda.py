"""Blocks in the memory of a real NVIDIA GPU, by PyTorch: run by hand on a machine that has both, see docs/gpu-memory.md.

CAIRN_CUDA_REQUIRED=1 makes what would be skipped fail. CAIRN_TEST_RDMA_ADDRESS names the address of an RDMA device, over which
transfers are then tried as well, and CAIRN_CUDA_DIRECT_REQUIRED=1 insists on that they need no copy."""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hurt_service import HurtService

import cairnkv
from cairnkv import GpuCopyWarning, Status

REQUIRED = bool(os.environ.get("CAIRN_CUDA_REQUIRED"))
RDMA_HOST = os.environ.get("CAIRN_TEST_RDMA_ADDRESS") or os.environ.get("CAIRN_TESTBED_ADDRESS")
DIRECT_REQUIRED = bool(os.environ.get("CAIRN_CUDA_DIRECT_REQUIRED"))

if REQUIRED:
    import torch

    assert torch.cuda.is_available(), "CAIRN_CUDA_REQUIRED is set, and PyTorch finds no GPU"
else:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    if not torch.cuda.is_available():
        pytest.skip("there is no CUDA GPU here", allow_module_level=True)

WAYS = ["tcp", "shm", *(["rdma"] if RDMA_HOST else [])]


@pytest.fixture(scope="module")
def service() -> Iterator[HurtService]:
    with tempfile.TemporaryDirectory(prefix="cairn-") as folder:
        started = HurtService(Path(folder), size="1GiB", slab="512MiB", admin="off", rdma_host=RDMA_HOST)
        started.start()
        yield started
        started.kill()


@pytest.fixture(params=WAYS)
def client(service: HurtService, request: pytest.FixtureRequest) -> Iterator[cairnkv.Client]:
    with cairnkv.connect(service.urls[request.param]) as opened:
        yield opened


@pytest.fixture
def fresh() -> Callable[[], bytes]:
    return lambda: os.urandom(20)


def register(client: cairnkv.Client, memory: Any) -> cairnkv.Region:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", GpuCopyWarning)
        return client.register(memory)


def noise(*shape: int, dtype: str = "bfloat16") -> Any:
    made = torch.randn(*shape, device="cuda").to(getattr(torch, dtype))
    torch.cuda.synchronize()  # the caller's part: what writes the memory is done before the call
    return made


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float8_e4m3fn"])
@pytest.mark.parametrize("shape", [(1, 3), (16, 1024), (2, 16, 8, 128, 128)])
def test_a_tensor_comes_back(
    client: cairnkv.Client, fresh: Callable[[], bytes], shape: tuple[int, ...], dtype: str
) -> None:
    key, kept = fresh(), noise(*shape, dtype=dtype)
    back = torch.zeros_like(kept)
    torch.cuda.synchronize()
    assert client.put_one(key, kept).status == Status.ok
    assert client.get_one(key, back).hit
    assert torch.equal(kept.view(torch.uint8), back.view(torch.uint8))


def test_pages_of_a_registered_cache_by_their_addresses(client: cairnkv.Client, fresh: Callable[[], bytes]) -> None:
    pages = noise(32, 512 * 1024)
    region = register(client, pages)
    print(f"transfer over {client.info()['transport']}: {region.transfer}; {region.reason or 'no copy'}")
    if DIRECT_REQUIRED and client.info()["transport"] == "rdma":
        assert region.transfer == "direct", region.reason
    prefix, each = fresh(), pages[0].numel() * pages.element_size()
    keys = [prefix + bytes([number]) for number in range(32)]
    items = [(key, (pages[at].data_ptr(), each)) for at, key in enumerate(keys)]
    assert {result.status for result in client.put(items)} == {Status.ok}
    kept = pages.clone()
    pages.zero_()
    torch.cuda.synchronize()
    assert all(result.hit for result in client.get(items))
    assert torch.equal(kept, pages)
    region.close()


def test_dlpack_and_the_array_interface(client: cairnkv.Client, fresh: Callable[[], bytes]) -> None:
    class OnlyDlpack:
        def __init__(self, tensor: Any) -> None:
            self.tensor = tensor

        def __dlpack_device__(self) -> Any:
            return self.tensor.__dlpack_device__()

        def __dlpack__(self, **options: Any) -> Any:
            return self.tensor.__dlpack__(**options)

    class OnlyInterface:
        def __init__(self, tensor: Any) -> None:
            self.tensor = tensor
            self.__cuda_array_interface__ = tensor.__cuda_array_interface__

    key, kept = fresh(), noise(1000, dtype="float32")
    back = torch.zeros_like(kept)
    torch.cuda.synchronize()
    assert client.put_one(key, OnlyDlpack(kept)).ok
    assert client.get_one(key, OnlyInterface(back)).hit
    assert torch.equal(kept, back)


def test_host_memory_that_cuda_has_pinned(client: cairnkv.Client, fresh: Callable[[], bytes]) -> None:
    key, kept = fresh(), torch.randn(1000).pin_memory()
    back = torch.zeros(1000).pin_memory()
    assert client.put_one(key, kept).ok and client.get_one(key, back).hit
    assert torch.equal(kept, back)


def test_a_call_from_the_middle_of_other_work(client: cairnkv.Client, fresh: Callable[[], bytes]) -> None:
    """Work of other streams goes on, and what was current before a call is so afterwards."""
    busy, side = noise(2048, 2048, dtype="float32"), torch.cuda.Stream()
    key, kept = fresh(), noise(1 << 20)
    with torch.cuda.stream(side):
        for _ in range(20):
            busy = busy @ busy.T / 2048
        assert client.put_one(key, kept).ok
        assert torch.cuda.current_stream() == side and torch.cuda.current_device() == 0
    side.synchronize()
    back = torch.zeros_like(kept)
    torch.cuda.synchronize()
    assert client.get_one(key, back).hit and torch.equal(kept, back)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="it takes two GPUs")
def test_from_one_gpu_to_another(client: cairnkv.Client, fresh: Callable[[], bytes]) -> None:
    key, kept = fresh(), noise(1 << 20)
    back = torch.zeros(1 << 20, dtype=torch.bfloat16, device="cuda:1")
    torch.cuda.synchronize("cuda:1")
    assert client.put_one(key, kept).ok and client.get_one(key, back).hit
    assert torch.equal(kept.cpu(), back.cpu())
