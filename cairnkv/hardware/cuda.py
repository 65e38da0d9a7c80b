"""What the CUDA driver says of the GPUs here, asked of libcuda itself: no CUDA toolkit is needed."""

import ctypes

# enum CUdevice_attribute
GPU_DIRECT_RDMA_SUPPORTED = 116
DMA_BUF_SUPPORTED = 124


def ask_gpus() -> list[tuple[bool, bool]] | str:
    """(GPUDirect RDMA, dma-buf) of every GPU, or why that cannot be told."""
    try:
        library = ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        return str(error)
    if code := library.cuInit(0):
        return f"the CUDA driver does not start: {_name_of(library, code)}"
    count = ctypes.c_int()
    if code := library.cuDeviceGetCount(ctypes.byref(count)):
        return f"the CUDA driver does not count its GPUs: {_name_of(library, code)}"
    return [
        (_attribute(library, GPU_DIRECT_RDMA_SUPPORTED, gpu), _attribute(library, DMA_BUF_SUPPORTED, gpu))
        for gpu in range(count.value)
    ]


def _attribute(library: ctypes.CDLL, attribute: int, gpu: int) -> bool:
    """False as well for a driver that is older than the attribute."""
    device, value = ctypes.c_int(), ctypes.c_int()
    if library.cuDeviceGet(ctypes.byref(device), gpu) != 0:
        return False
    return library.cuDeviceGetAttribute(ctypes.byref(value), attribute, device) == 0 and value.value != 0


def _name_of(library: ctypes.CDLL, code: int) -> str:
    name = ctypes.c_char_p()
    known = library.cuGetErrorName(code, ctypes.byref(name)) == 0 and name.value
    return name.value.decode() if known and name.value else f"error {code}"
