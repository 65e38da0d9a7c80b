"""Memory of a GPU that there is not: the stand-in of NVIDIA's driver (native/testing/cuda_stand_in.cc), and the faces under which
callers hand such memory over. Its addresses cannot be touched by this process: host code that does ends it.

What a test with it shows of our side, it does not show of a GPU: that is tests/integration/test_cuda.py."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import pytest

from cairnkv import _native

LIBRARY = Path(__file__).resolve().parents[2] / "build" / "native" / "libcuda_stand_in.so"
DEVICES = 3
NOT_SUPPORTED = 801
BROKEN = 700


def real_driver() -> bool:
    """Whether this machine has NVIDIA's own, which the client would find first."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


class StandIn:
    """Loads it, under the name of the real one: from now on the client of this process finds it."""

    def __init__(self) -> None:
        if "_stand_in" not in globals() and real_driver():
            pytest.skip("a real NVIDIA driver is here: tests/integration/test_cuda.py tests with that")
        if not LIBRARY.exists():
            pytest.fail(f"{LIBRARY} is missing: cmake --build build/native --target cuda_stand_in")
        globals()["_stand_in"] = self
        self.library = ctypes.CDLL(str(LIBRARY))
        self.library.cuMemFree_v2.argtypes = (ctypes.c_uint64,)

    def allocate(self, nbytes: int, device: int = 0) -> int:
        """The address."""
        address, popped = ctypes.c_uint64(), ctypes.c_void_p()
        self.library.cuCtxPushCurrent_v2(ctypes.c_void_p(device + 1))
        code = self.library.cuMemAlloc_v2(ctypes.byref(address), ctypes.c_size_t(nbytes))
        self.library.cuCtxPopCurrent_v2(ctypes.byref(popped))
        assert code == 0, code
        return address.value

    def free(self, address: int) -> None:
        assert self.library.cuMemFree_v2(address) == 0

    def fail(self, name: str, code: int, times: int = 1) -> None:
        """The next calls of that function of the driver fail."""
        self.library.stand_in_fail(name.encode(), code, times)

    def calls(self, name: str) -> int:
        return int(self.library.stand_in_calls(name.encode()))


class GpuMemory:
    """Freed when it is no longer used. Shows itself as cupy's arrays do."""

    def __init__(self, stand_in: StandIn, nbytes: int, device: int = 0, **more: object) -> None:
        self.stand_in, self.nbytes, self.device = stand_in, nbytes, device
        self.address = stand_in.allocate(nbytes, device)
        self.__cuda_array_interface__ = {
            "shape": (nbytes,), "typestr": "|u1", "data": (self.address, False), "version": 3, "strides": None, **more
        }  # fmt: skip

    def __del__(self) -> None:
        if hasattr(self, "address"):
            self.stand_in.free(self.address)

    def write(self, data: bytes | bytearray, offset: int = 0) -> None:
        _native.gpu_write(self.device, self.address + offset, data)

    def read(self, offset: int = 0, nbytes: int | None = None) -> bytearray:
        data = bytearray(self.nbytes - offset if nbytes is None else nbytes)
        _native.gpu_read(self.device, self.address + offset, data)
        return data

    def fill(self, seed: int) -> GpuMemory:
        data = bytearray(self.nbytes)
        _native.fill_pattern(data, seed)
        self.write(data)
        return self

    def holds(self, seed: int) -> bool:
        return _native.check_pattern(self.read(), seed) == -1


# --- other faces of the same memory --------------------------------------------------------------------------


class AsTensor:
    """As a torch tensor shows itself, as far as it is looked at."""

    def __init__(self, memory: GpuMemory, *, rocm: bool = False, contiguous: bool = True) -> None:
        self.memory, self._rocm, self._contiguous = memory, rocm, contiguous

    class _Device:
        type = "cuda"

        def __init__(self, number: int) -> None:
            self.number = number

        def __str__(self) -> str:
            return f"cuda:{self.number}"

    @property
    def device(self) -> AsTensor._Device:
        return AsTensor._Device(self.memory.device)

    @property
    def __cuda_array_interface__(self) -> object:
        raise RuntimeError("Can't get __cuda_array_interface__ on Variable that requires grad.")

    def __dlpack_device__(self) -> tuple[int, int]:
        return (10 if self._rocm else 2, self.memory.device)

    def data_ptr(self) -> int:
        return self.memory.address

    def numel(self) -> int:
        return self.memory.nbytes // 2

    def element_size(self) -> int:
        return 2

    def is_contiguous(self) -> bool:
        return self._contiguous

    def is_conj(self) -> bool:
        return False

    def is_neg(self) -> bool:
        return False


AsTensor.__module__ = "torch"


class _DlTensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p), ("device_type", ctypes.c_int32), ("device_id", ctypes.c_int32), ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)), ("strides", ctypes.POINTER(ctypes.c_int64)), ("byte_offset", ctypes.c_uint64),
        ("manager", ctypes.c_void_p), ("deleter", ctypes.c_void_p),
    )  # fmt: skip


class AsDlpack:
    """Shows nothing but DLPack, of the old kind. streams: what it was asked to synchronise with."""

    def __init__(self, memory: GpuMemory, device_type: int = 2) -> None:
        self.memory, self._device_type = memory, device_type
        self.streams: list[object] = []

    def __dlpack_device__(self) -> tuple[int, int]:
        return (self._device_type, self.memory.device)

    def __dlpack__(self, *, stream: object = None) -> Any:
        self.streams.append(stream)
        shape = (ctypes.c_int64 * 1)(self.memory.nbytes - 8)
        self._tensor = _DlTensor(self.memory.address, 2, self.memory.device, 1, 1, 8, 1, shape, None, 8, None, None)
        self._shape = shape
        new = ctypes.pythonapi.PyCapsule_New
        new.restype, new.argtypes = ctypes.py_object, (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
        return new(ctypes.addressof(self._tensor), b"dltensor", None)
