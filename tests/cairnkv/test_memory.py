"""What callers hold becomes what the native client takes, without a copy; what cannot is told why."""

from __future__ import annotations

import array
import ctypes
import gc
import mmap
import subprocess
import sys
import weakref
from typing import Any

import numpy as np
import pytest
from foreign_memory import DlpackElsewhere, DlpackOnly, GpuArray, InterfaceOnly

from cairnkv import UsageError
from cairnkv.memory import ITEM_EXTENTS_MOST, prepare


def address_of(memory: Any) -> int:
    """Where a prepared piece lies."""
    if isinstance(memory, tuple):
        return int(memory[0])
    return int(np.frombuffer(memory, np.uint8).ctypes.data)


DTYPES = ["u1", "<f2", "<f4", ">f8", "<i8", "c16", "?", "S5", "M8[s]", "V3", [("a", "i4"), ("b", "f8")]]


@pytest.mark.parametrize("dtype", DTYPES)
def test_arrays_of_every_dtype_are_taken_in_place(dtype: Any) -> None:
    kept = np.zeros((3, 4), dtype=dtype)
    memory, nbytes = prepare(kept, writable=True)
    assert nbytes == kept.nbytes
    assert address_of(memory) == kept.ctypes.data


@pytest.mark.parametrize("made", [bytearray(10), memoryview(bytearray(10)), mmap.mmap(-1, 10), array.array("d", [1.0])])
def test_other_buffers(made: Any) -> None:
    memory, nbytes = prepare(made, writable=True)
    assert nbytes == memoryview(made).nbytes
    assert address_of(memory) == address_of(made)


def test_a_slice_is_taken_where_it_lies() -> None:
    whole = np.arange(100, dtype=np.int32)
    memory, nbytes = prepare(whole[10:20], writable=True)
    assert (address_of(memory), nbytes) == (whole.ctypes.data + 40, 40)


@pytest.mark.parametrize(
    "scattered", [np.zeros((4, 4))[:, 1], np.zeros((4, 4)).T, np.zeros(10)[::2], memoryview(bytearray(10))[::2]]
)
def test_what_is_not_in_one_stretch_is_refused(scattered: Any) -> None:
    with pytest.raises(UsageError, match="does not lie in one stretch"):
        prepare(scattered, writable=False)


@pytest.mark.parametrize("constant", [b"bytes", memoryview(b"bytes"), np.frombuffer(b"bytes", np.uint8)])
def test_a_destination_must_be_writable(constant: Any) -> None:
    assert prepare(constant, writable=False)[1] == 5
    with pytest.raises(UsageError, match="is read-only"):
        prepare(constant, writable=True)


def test_an_address() -> None:
    assert prepare((4096, 10), writable=True) == ((4096, 10), 10)
    for wrong in [(0, 10), (-1, 10), (4096, -1), (1 << 64, 1)]:
        with pytest.raises(UsageError, match="no \\(address, nbytes\\)"):
            prepare(wrong, writable=True)


def test_extents_are_joined_in_order() -> None:
    parts = [bytearray(3), np.zeros(4, np.int16), (4096, 5)]
    memory, nbytes = prepare(parts, writable=True)
    assert nbytes == 16
    assert [address_of(piece) for piece in memory] == [address_of(parts[0]), parts[1].ctypes.data, 4096]
    assert prepare(tuple(parts), writable=True)[1] == 16


@pytest.mark.parametrize("count", [0, ITEM_EXTENTS_MOST + 1])
def test_there_are_only_so_many_extents(count: int) -> None:
    with pytest.raises(UsageError, match=f"1 to {ITEM_EXTENTS_MOST} extents, not {count}"):
        prepare([bytearray(1)] * count, writable=True)


@pytest.mark.parametrize("wrong", [None, 5, object(), [[bytearray(1)]], {"a": 1}, [1, 2, 3]])
def test_what_is_no_memory(wrong: Any) -> None:
    with pytest.raises(UsageError, match="is not memory"):
        prepare(wrong, writable=False)


def test_text_is_told_to_be_encoded() -> None:
    with pytest.raises(UsageError, match="encode it first"):
        prepare("text", writable=False)


@pytest.mark.parametrize("elsewhere", [DlpackElsewhere(), DlpackElsewhere(8), (4096, 10, "hip:0"), (4096, 10, -1)])
def test_memory_of_other_devices_is_not_reached(elsewhere: Any) -> None:
    with pytest.raises(UsageError, match=r"is memory that this release does not reach.*AMD GPUs \(ROCm\)"):
        prepare(elsewhere, writable=False)


@pytest.mark.parametrize("nowhere", [GpuArray(), (4096, 10, 0), (4096, 10, "cuda"), (4096, 10, "cuda:0")])
def test_memory_of_a_gpu_that_is_not_here(nowhere: Any) -> None:
    with pytest.raises(UsageError, match="cannot be used: "):
        prepare(nowhere, writable=False)


def test_without_a_driver_it_is_told_what_is_missing() -> None:
    code = "import cairnkv.memory as m\ntry: m.prepare((4096, 10, 0), writable=False)\nexcept ValueError as e: print(e)"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    if "libcuda.so.1" not in told:
        pytest.skip(f"there is a driver here, which says: {told}")
    assert told.startswith(
        "(0x1000, 10, 0) cannot be used: GPU memory cannot be used here: NVIDIA's driver is not installed"
    )


def test_an_address_with_the_host_for_a_device() -> None:
    for host in ("cpu", None):
        assert prepare((4096, 10, host), writable=True) == ((4096, 10), 10)


@pytest.mark.parametrize("old", [False, True])
def test_dlpack_on_the_cpu(old: bool) -> None:
    kept = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    memory, nbytes = prepare(DlpackOnly(kept[1:], old=old), writable=True)
    assert (address_of(memory), nbytes) == (kept[1:].ctypes.data, 48)


def test_dlpack_says_when_it_is_scattered_or_read_only() -> None:
    with pytest.raises(UsageError, match="does not lie in one stretch"):
        prepare(DlpackOnly(np.zeros((4, 4))[:, 1:3]), writable=False)
    constant = np.zeros(4)
    constant.flags.writeable = False
    assert prepare(DlpackOnly(constant), writable=False)[1] == 32
    with pytest.raises(UsageError, match="is read-only"):
        prepare(DlpackOnly(constant), writable=True)
    with pytest.raises(UsageError, match="does not show its memory"):
        prepare(DlpackOnly(constant, old=True), writable=False)


def test_dtypes_that_buffers_do_not_know() -> None:
    kept = np.zeros((2, 8), np.uint16)
    memory, nbytes = prepare(InterfaceOnly(kept), writable=True)
    assert (address_of(memory), nbytes) == (kept.ctypes.data, 32)
    with pytest.raises(UsageError, match="does not lie in one stretch"):
        prepare(InterfaceOnly(kept.T), writable=True)
    kept.flags.writeable = False
    with pytest.raises(UsageError, match="is read-only"):
        prepare(InterfaceOnly(kept), writable=True)


def test_what_is_prepared_keeps_its_owner_alive() -> None:
    owner = np.zeros(100, np.uint8)
    alive = weakref.ref(owner)
    for kind in (lambda array: array, DlpackOnly, InterfaceOnly):
        memory, _ = prepare(kind(owner), writable=True)
        assert alive() is not None
        ctypes.memset(address_of(memory), 7, 100)
        del memory
    assert owner.tolist() == [7] * 100
    memory, _ = prepare(InterfaceOnly(owner), writable=True)
    del owner
    gc.collect()
    assert alive() is not None
    del memory
    gc.collect()
    assert alive() is None


def test_empty_memory_has_no_bytes() -> None:
    for nothing in (bytearray(), np.zeros(0), DlpackOnly(np.zeros(0)), InterfaceOnly(np.zeros(0))):
        assert prepare(nothing, writable=True)[1] == 0
