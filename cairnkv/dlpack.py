"""Reads where the memory of a DLPack capsule lies, without taking it over: while the capsule lives, its memory does.

Only what is needed to find a flat stretch of memory; the struct is DLPack's (dmlc/dlpack, dlpack.h, versions 0.x and 1.x).
"""

import ctypes
from typing import Any, NamedTuple

# DLDeviceType. What CUDA manages wanders between GPU and host; it is treated as the GPU's.
CPU, CUDA, CUDA_HOST, ROCM, ROCM_HOST, CUDA_MANAGED = 1, 2, 3, 10, 11, 13
HOST_DEVICES = (CPU, CUDA_HOST, ROCM_HOST)
CUDA_DEVICES = (CUDA, CUDA_MANAGED)
DO_NOT_SYNCHRONISE = -1  # as the stream that __dlpack__ of a CUDA device is given (Python array API standard)
_READ_ONLY = 1


class _Tensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


class _Managed(ctypes.Structure):
    _fields_ = (("tensor", _Tensor), ("manager", ctypes.c_void_p), ("deleter", ctypes.c_void_p))


class _ManagedVersioned(ctypes.Structure):
    _fields_ = (
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("manager", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
        ("flags", ctypes.c_uint64),
        ("tensor", _Tensor),
    )


class Stretch(NamedTuple):
    """Where the bytes lie. capsule keeps them alive."""

    address: int
    nbytes: int
    contiguous: bool
    read_only: bool
    capsule: object


_get_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_get_pointer.restype = ctypes.c_void_p
_get_pointer.argtypes = (ctypes.py_object, ctypes.c_char_p)
_is_valid = ctypes.pythonapi.PyCapsule_IsValid
_is_valid.restype = ctypes.c_int
_is_valid.argtypes = (ctypes.py_object, ctypes.c_char_p)


def inspect(exporter: Any, stream: int | None = None) -> Stretch:
    """The stretch behind an object with `__dlpack__`. stream: which the exporter is to synchronise with; None on a host
    device. Raises what the exporter raises, or ValueError."""
    options = {} if stream is None else {"stream": stream}
    try:
        capsule = exporter.__dlpack__(**options, max_version=(1, 0))
    except TypeError:  # an exporter from before version 1
        capsule = exporter.__dlpack__(**options)
    read_only = False
    if _is_valid(capsule, b"dltensor_versioned"):
        managed = _ManagedVersioned.from_address(_get_pointer(capsule, b"dltensor_versioned"))
        if managed.major != 1:
            raise ValueError(f"DLPack version {managed.major} is not known here")
        read_only = bool(managed.flags & _READ_ONLY)
        tensor = managed.tensor
    elif _is_valid(capsule, b"dltensor"):
        tensor = _Managed.from_address(_get_pointer(capsule, b"dltensor")).tensor
    else:
        raise ValueError("__dlpack__ returned no fresh DLPack capsule")
    shape = tensor.shape[: tensor.ndim]
    strides = tensor.strides[: tensor.ndim] if tensor.strides else None
    count, contiguous = _count(shape, strides)
    nbytes = (count * tensor.bits * tensor.lanes + 7) // 8
    return Stretch((tensor.data or 0) + tensor.byte_offset, nbytes, contiguous, read_only, capsule)


def _count(shape: list[int], strides: list[int] | None) -> tuple[int, bool]:
    """Elements in all, and whether they lie one after the other in C order."""
    count, contiguous = 1, True
    for at in range(len(shape) - 1, -1, -1):
        if strides is not None and shape[at] > 1 and strides[at] != count:
            contiguous = False
        count *= shape[at]
    return count, contiguous or count == 0
