"""Objects that look like memory somewhere else: what adapters hand over by mistake."""

from __future__ import annotations


class GpuArray:
    """As cupy shows itself; on no GPU that there is."""

    __cuda_array_interface__ = {"shape": (4,), "typestr": "<f4", "data": (4096, False), "version": 3}


class DlpackElsewhere:
    """As a tensor on an AMD GPU shows itself to DLPack, or on what the number names."""

    def __init__(self, device_type: int = 10) -> None:
        self._device_type = device_type

    def __dlpack__(self, **_: object) -> object:
        raise AssertionError("nobody may export memory to find out that it cannot be reached")

    def __dlpack_device__(self) -> tuple[int, int]:
        return (self._device_type, 0)


class DlpackOnly:
    """An exporter that shows nothing but DLPack: wraps a numpy array."""

    def __init__(self, array: object, *, old: bool = False) -> None:
        self._array, self._old = array, old

    def __dlpack__(self, **options: object) -> object:
        if self._old and options:
            raise TypeError("unexpected keyword argument 'max_version'")
        return self._array.__dlpack__(**options)  # type: ignore[attr-defined]

    def __dlpack_device__(self) -> tuple[int, int]:
        return (1, 0)


class InterfaceOnly:
    """An array whose dtype the buffer protocol does not know, such as bfloat16: shows `__array_interface__` alone."""

    def __init__(self, array: object) -> None:
        self.__array_interface__ = array.__array_interface__  # type: ignore[attr-defined]
        self.nbytes = array.nbytes  # type: ignore[attr-defined]
        self._array = array
