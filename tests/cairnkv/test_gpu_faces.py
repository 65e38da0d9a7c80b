"""The faces under which memory of a GPU is handed over, with a stand-in of the driver: nothing here says anything about a real
GPU."""

from __future__ import annotations

import gc
import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any

import pytest
from gpu_stand_in import BROKEN, AsDlpack, AsTensor, GpuMemory, StandIn

from cairnkv import UsageError
from cairnkv.memory import prepare
from cairnkv.testing import MemoryClient


@pytest.fixture(scope="module")
def gpu() -> StandIn:
    return StandIn()


def test_every_face_is_the_same_memory(gpu: StandIn) -> None:
    memory = GpuMemory(gpu, 1000, device=1)
    faces: list[Any] = [memory, AsTensor(memory)]
    faces += [(memory.address, 1000, device) for device in (1, "cuda:1", "cuda", AsTensor(memory).device)]
    for face in faces:
        (address, nbytes, device, _), length = prepare(face, writable=True)
        assert (address, nbytes, device, length) == (memory.address, 1000, 1, 1000), face


@pytest.mark.parametrize("device_type", [2, 13])
def test_dlpack_is_asked_not_to_synchronise(gpu: StandIn, device_type: int) -> None:
    exporter = AsDlpack(GpuMemory(gpu, 1000), device_type)
    (address, nbytes, device, _), _ = prepare(exporter, writable=True)
    assert (address, nbytes, device) == (exporter.memory.address + 8, 992, 0)
    assert exporter.streams == [-1]


def test_the_stream_that_an_array_names_is_waited_for(gpu: StandIn) -> None:
    before = gpu.calls("cuStreamSynchronize")
    prepare(GpuMemory(gpu, 10), writable=False)
    assert gpu.calls("cuStreamSynchronize") == before
    prepare(GpuMemory(gpu, 10, stream=1), writable=False)
    assert gpu.calls("cuStreamSynchronize") == before + 1
    for wrong in (0, "main"):
        with pytest.raises(UsageError, match="names the stream"):
            prepare(GpuMemory(gpu, 10, stream=wrong), writable=False)
    gpu.fail("cuStreamSynchronize", BROKEN)
    with pytest.raises(UsageError, match=f"cannot wait for a stream of GPU 0: .*CUDA error {BROKEN}"):
        prepare(GpuMemory(gpu, 10, stream=1), writable=False)


def test_what_is_wrong_is_told(gpu: StandIn) -> None:
    memory = GpuMemory(gpu, 1000)
    read_only = GpuMemory(gpu, 8, data=(memory.address, True))
    scattered = GpuMemory(gpu, 8, shape=(4, 4), strides=(8, 1), data=(memory.address, False))
    wrong: list[tuple[object, str]] = [
        ((memory.address, 1001, 0), r"reach beyond the memory of GPU 0"),
        ((memory.address, 10, 2), r"lies on GPU 0, not on GPU 2"),
        ((memory.address, 10, 3), r"there is no GPU 3 here: the driver shows 3"),
        ((4096, 10, 0), r"0x1000 is no memory of a GPU"),
        (AsTensor(memory, rocm=True), r"AMD GPUs \(ROCm\) are not supported yet"),
        (AsTensor(memory, contiguous=False), "does not lie in one stretch"),
        (read_only, "is read-only"),
        (scattered, "does not lie in one stretch"),
        (GpuMemory(gpu, 8, version=1), "too old"),
        (GpuMemory(gpu, 8, mask=object()), "masks a part"),
    ]
    for face, sentence in wrong:
        with pytest.raises(UsageError, match=sentence):
            prepare(face, writable=True)
    assert prepare(read_only, writable=False)[1] == 8
    in_order = GpuMemory(gpu, 8, shape=(2, 1, 4), strides=(4, 99, 1))
    assert prepare(in_order, writable=True)[1] == 8


def test_nothing_has_no_bytes(gpu: StandIn) -> None:
    memory = GpuMemory(gpu, 8)
    for nothing in (GpuMemory(gpu, 8, shape=(4, 0)), (memory.address, 0, 0)):
        assert prepare(nothing, writable=True)[1] == 0


def test_what_is_prepared_keeps_its_owner_alive(gpu: StandIn) -> None:
    for face in (lambda memory: memory, AsTensor, AsDlpack):
        memory = GpuMemory(gpu, 1000)
        alive = weakref.ref(memory)
        prepared, _ = prepare(face(memory), writable=True)
        del memory
        gc.collect()
        if face is not AsDlpack:  # whose capsule keeps nothing alive here: it is the exporter's part
            assert alive() is not None
        del prepared
        gc.collect()
        assert alive() is None


def test_the_store_in_memory_takes_it_as_well(gpu: StandIn) -> None:
    client = MemoryClient()
    source, target = GpuMemory(gpu, 1000).fill(3), GpuMemory(gpu, 1000, device=1)
    region = client.register(source)
    assert (region.device, region.transfer, region.address) == (0, "bounced", source.address)
    assert client.put_one("key", source).nbytes == 1000
    assert client.get_one("key", [(target.address, 400, 1), (target.address + 400, 600, 1)]).hit
    assert target.holds(3)


def test_host_code_that_touches_such_memory_ends_its_process() -> None:
    """Else the tests with the stand-in would prove nothing."""
    code = (
        "import ctypes, sys; sys.path.insert(0, sys.argv[1]); from gpu_stand_in import StandIn; "
        "ctypes.string_at(StandIn().allocate(4096), 1)"
    )
    support = str(Path(__file__).resolve().parents[1] / "support")
    ended = subprocess.run([sys.executable, "-c", code, support], capture_output=True, check=False)
    assert ended.returncode == -11, ended.stderr
