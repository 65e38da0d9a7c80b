"""Memory of GPUs as callers hand it over: tensors and arrays on a CUDA device, DLPack, `(address, nbytes, device)`.

It is transferred without a copy where a region is registered over it and the network card can reach it (`Region.transfer`),
else by way of pinned host memory. Nothing here looks into it.

Who calls synchronises: what writes the memory must be done before a put begins, what reads it must begin after the get has
returned, and nothing else may touch it in between. No stream of the caller's is waited for, with one exception, which is the
protocol's own: `__cuda_array_interface__` (version 3) may name a stream, and then whoever takes the memory waits for it. DLPack is
asked not to synchronise (stream -1), so that all ways of handing over one tensor mean the same.
"""

import math
from collections.abc import Callable
from typing import Any

from cairnkv import _native, dlpack
from cairnkv.arguments import shown
from cairnkv.errors import UsageError

ANY = -1
NUMBER_MOST = 2**31 - 1
CUDA_VERSION_LEAST = 2  # of __cuda_array_interface__: from it on a missing "strides" means C order

GpuMemory = tuple[int, int, int, object]
"""(address, nbytes, number of the GPU, who owns it): what the native client takes and keeps alive."""


def place(address: int, nbytes: int, gpu: int, owner: object, shown: str) -> GpuMemory:
    """The memory on its GPU, which is looked up where it is not known (ANY). Raises UsageError."""
    try:
        found = _native.gpu_of(address, nbytes, gpu)
    except ValueError as error:
        raise UsageError(f"{shown} cannot be used: {error}") from None
    return address, nbytes, found, owner


def number_of(device: object) -> int | None:
    """The GPU that the third of `(address, nbytes, device)` names: a number, "cuda:1", "cuda" (whichever it is on), a
    torch.device; None for the host. Raises UsageError."""
    if type(device) is int and 0 <= device <= NUMBER_MOST:
        return device
    try:
        name = str(device)
    except Exception:  # whatever a caller's __str__ raises
        name = ""
    kind, _, number = name.partition(":")
    if device is None or name == "cpu":
        return None
    if kind == "cuda" and not number:
        return ANY
    if kind == "cuda" and number.isdecimal() and len(number) < len(str(NUMBER_MOST)):
        return int(number)
    raise not_reached(f"memory on {shown(device)}")


def not_reached(what: str) -> UsageError:
    """For memory of devices other than NVIDIA's GPUs."""
    return UsageError(
        f"{what} is memory that this release does not reach: it knows the host's and that of NVIDIA GPUs (CUDA). AMD GPUs (ROCm) are "
        "not supported yet. Copy it to the host first, for example tensor.cpu()"
    )


def from_tensor(tensor: Any, shown: str) -> GpuMemory:
    """Of a torch tensor that is not on the CPU, lies in one stretch, and has at least one byte."""
    if tensor.device.type != "cuda":
        raise not_reached(f"a tensor on {tensor.device}")
    # PyTorch for ROCm calls its devices "cuda", too.
    kind = tensor.__dlpack_device__()[0]
    if kind not in dlpack.CUDA_DEVICES:
        raise not_reached(f"a tensor on {tensor.device} (DLPack device type {kind})")
    return place(
        tensor.data_ptr(), tensor.numel() * tensor.element_size(), number_of(str(tensor.device)) or 0, tensor, shown
    )


def from_cuda_interface(piece: Any, shown: str, wrong: Callable[[str], UsageError], writable: bool) -> GpuMemory | None:
    """Of an object with `__cuda_array_interface__`; None when it has no bytes."""
    interface = piece.__cuda_array_interface__
    if interface.get("version", 0) < CUDA_VERSION_LEAST or interface.get("mask") is not None:
        raise UsageError(f"{shown} shows its memory by an interface that is too old, or masks a part of it")
    address, read_only = interface["data"]
    if writable and read_only:
        raise wrong("read-only")
    shape, each = interface["shape"], int(interface["typestr"][2:])
    nbytes = math.prod(shape) * each
    if nbytes == 0:
        return None
    if interface.get("strides") is not None and not _in_c_order(shape, interface["strides"], each):
        raise wrong("scattered")
    memory = place(address, nbytes, ANY, piece, shown)
    if interface.get("stream") is not None:
        _wait(memory[2], interface["stream"], shown)
    return memory


def _in_c_order(shape: tuple[int, ...], strides: tuple[int, ...], each: int) -> bool:
    step = each
    for count, stride in zip(reversed(shape), reversed(strides), strict=True):
        if count > 1 and stride != step:
            return False
        step *= count
    return True


def _wait(gpu: int, stream: object, shown: str) -> None:
    if type(stream) is not int or stream <= 0:
        raise UsageError(f"{shown} names the stream {stream!r:.40}, which is none")
    try:
        _native.gpu_wait(gpu, stream)
    except ValueError as error:
        raise UsageError(f"{shown} cannot be used: {error}") from None
