"""Tensors of the real PyTorch, where it is installed."""

from __future__ import annotations

import os

import pytest

from cairnkv import UsageError
from cairnkv.testing import MemoryClient

if os.environ.get("CAIRN_TORCH_REQUIRED"):
    import torch
else:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int8", "bool", "float8_e4m3fn"])
def test_a_tensor_comes_back(dtype: str) -> None:
    client = MemoryClient()
    kept = torch.arange(64).to(getattr(torch, dtype)).reshape(4, 16)
    back = torch.zeros_like(kept)
    assert client.put_one("key", kept).nbytes == kept.numel() * kept.element_size()
    assert client.get_one("key", back).hit
    assert torch.equal(kept.view(torch.uint8), back.view(torch.uint8))


def test_what_is_scattered_is_refused() -> None:
    with pytest.raises(UsageError, match="does not lie in one stretch"):
        MemoryClient().put_one("key", torch.zeros(4, 4).T)


def test_a_lazy_view_is_refused() -> None:
    with pytest.raises(UsageError, match="lazy view"):
        MemoryClient().put_one("key", torch.ones(4, dtype=torch.complex64).conj())


def test_a_tensor_elsewhere_is_refused() -> None:
    with pytest.raises(UsageError, match="a tensor on meta is memory that this release does not reach"):
        MemoryClient().put_one("key", torch.zeros(4, device="meta"))
