"""Turns what callers hold (arrays, tensors, buffers, addresses) into what the native client takes, without copying a byte.

Accepted as one piece of memory, in this order: anything with the buffer protocol (bytes, bytearray, memoryview, mmap, array,
numpy arrays, Region), numpy-like arrays by `__array_interface__` (dtypes the buffer protocol does not know, such as bfloat16),
torch tensors, objects with `__dlpack__`, `(address, nbytes)` and `(address, nbytes, device)`. A list or tuple of pieces is one
block in several extents, joined in order, on the host, on GPUs, or in part on each. numpy and torch are never imported here.

Memory on NVIDIA GPUs is taken from torch tensors, `__cuda_array_interface__`, DLPack, registered regions, and addresses with a
device: gpu.py, which also says who has to synchronise.

An address says nothing about who owns it: for `(address, nbytes)` the caller keeps the memory alive until the call returns.
"""

import ctypes
from typing import TYPE_CHECKING, Any, TypeAlias

from cairnkv import _native, dlpack, gpu
from cairnkv.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from typing_extensions import Buffer

    Piece: TypeAlias = Buffer | tuple[int, int] | tuple[int, int, object] | Any
    Memory: TypeAlias = Piece | Sequence[Piece]

LIMITS = _native.limits()
BLOCK_BYTES_MOST = LIMITS["block_bytes_most"]
ITEM_EXTENTS_MOST = LIMITS["item_extents_most"]


# What comes of objects whose __array_interface__, __cuda_array_interface__ or __dlpack__ is not what it should be.
_MALFORMED = (KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError, BufferError)

Prepared: TypeAlias = tuple[Any, int]
"""What the native client takes for one block (it keeps it alive while it needs it), and how many bytes it has."""


def prepare(memory: "Memory", *, writable: bool) -> Prepared:
    """What the native client takes for one block. Raises UsageError with what is wrong and what to do."""
    if isinstance(memory, list | tuple) and not _is_address(memory):
        return _prepare_extents(memory, writable)
    return _prepare_piece(memory, writable)


def prepare_block(memory: "Memory") -> Prepared:
    """`prepare` for a put."""
    return prepare(memory, writable=False)


def prepare_destination(memory: "Memory") -> Prepared:
    """`prepare` for a get."""
    return prepare(memory, writable=True)


def _prepare_extents(memory: "Sequence[Piece]", writable: bool) -> Prepared:
    if not 1 <= len(memory) <= ITEM_EXTENTS_MOST:
        raise UsageError(f"a block lies in 1 to {ITEM_EXTENTS_MOST} extents, not {len(memory)}")
    pieces = [_prepare_piece(piece, writable) for piece in memory]
    return [piece for piece, _ in pieces], sum(nbytes for _, nbytes in pieces)


def _is_address(memory: object) -> bool:
    return type(memory) is tuple and len(memory) in (2, 3) and all(type(part) is int for part in memory[:2])


def _prepare_piece(piece: Any, writable: bool) -> Prepared:
    try:
        return _take_piece(piece, writable)
    except UsageError:
        raise
    except _MALFORMED as error:
        raise UsageError(f"a {_kind(piece)} does not show its memory: {type(error).__name__}: {error}") from None


def _take_piece(piece: Any, writable: bool) -> Prepared:
    if _is_address(piece):
        return _from_address(piece)
    if isinstance(piece, str):
        raise UsageError("text is not memory: encode it first, for example text.encode()")
    if type(piece) is _native.Region and piece.device is not None:
        return _from_gpu_region(piece)
    if _is_tensor(piece):  # first: it has other faces, which it shows in some states only
        return _from_tensor(piece)
    if hasattr(piece, "__cuda_array_interface__"):
        return _from_cuda_interface(piece, writable)
    try:
        view = memoryview(piece)
    except (TypeError, ValueError, BufferError) as error:
        return _from_array(piece, writable, error)
    if not view.c_contiguous:
        raise _not_contiguous(piece)
    if writable and view.readonly:
        raise _read_only(piece)
    return view, view.nbytes


def _from_address(piece: tuple[Any, ...]) -> Prepared:
    address, nbytes = piece[:2]
    if not (0 < address < 1 << 64 and 0 <= nbytes < 1 << 63 and address + nbytes <= 1 << 64):
        raise UsageError(f"({address}, {nbytes}) is no (address, nbytes) of memory")
    number = gpu.number_of(piece[2]) if len(piece) == 3 else None
    if number is None:
        return (address, nbytes), nbytes
    return _on_gpu(address, nbytes, number, None, f"({address:#x}, {nbytes}, {piece[2]!s:.20})")


def _on_gpu(address: int, nbytes: int, number: int, owner: object, shown: str) -> Prepared:
    if nbytes == 0:
        return bytearray(), 0
    return gpu.place(address, nbytes, number, owner, shown), nbytes


def _from_gpu_region(region: _native.Region) -> Prepared:
    if region.nbytes == 0 or region.device is None:
        raise UsageError("the region is closed")
    return (region.address, region.nbytes, region.device, region), region.nbytes


def _from_cuda_interface(piece: Any, writable: bool) -> Prepared:
    def wrong(how: str) -> UsageError:
        return _read_only(piece) if how == "read-only" else _not_contiguous(piece)

    memory = gpu.from_cuda_interface(piece, f"a {_kind(piece)}", wrong, writable)
    return (bytearray(), 0) if memory is None else (memory, memory[1])


def _owned(address: int, nbytes: int, owner: object) -> Prepared:
    """The stretch as a buffer that keeps its owner alive."""
    if nbytes == 0:
        return bytearray(), 0
    stretch = (ctypes.c_char * nbytes).from_address(address)
    stretch.owner = owner  # type: ignore[attr-defined]
    return stretch, nbytes


def _from_array(piece: Any, writable: bool, error: Exception) -> Prepared:
    interface = getattr(piece, "__array_interface__", None)
    if isinstance(interface, dict):
        return _from_interface(piece, interface, writable)
    if hasattr(piece, "__dlpack__") and hasattr(piece, "__dlpack_device__"):
        return _from_dlpack(piece, writable)
    if isinstance(error, BufferError):
        raise UsageError(f"a {_kind(piece)} does not show its memory: {error}") from None
    raise UsageError(
        f"a {_kind(piece)} is not memory: pass a buffer (bytes, bytearray, memoryview, numpy array), a tensor, "
        "(address, nbytes), (address, nbytes, device), or a list of these"
    )


def _from_interface(piece: Any, interface: dict[str, Any], writable: bool) -> Prepared:
    if interface.get("strides") is not None:
        raise _not_contiguous(piece)
    address, read_only = interface["data"]
    if writable and read_only:
        raise _read_only(piece)
    return _owned(address, int(piece.nbytes), piece)


def _is_tensor(piece: Any) -> bool:
    return type(piece).__module__.partition(".")[0] == "torch" and hasattr(piece, "data_ptr")


def _from_tensor(tensor: Any) -> Prepared:
    if tensor.device.type not in ("cpu", "cuda"):
        raise gpu.not_reached(f"a tensor on {tensor.device}")
    if not tensor.is_contiguous():
        raise _not_contiguous(tensor)
    if tensor.is_conj() or tensor.is_neg():
        raise UsageError(
            "this tensor is a lazy view: its memory holds other values; call resolve_conj() or resolve_neg()"
        )
    nbytes = tensor.numel() * tensor.element_size()
    if tensor.device.type != "cpu" and nbytes > 0:
        return gpu.from_tensor(tensor, f"a tensor on {tensor.device}"), nbytes
    return _owned(tensor.data_ptr(), nbytes, tensor)


def _from_dlpack(exporter: Any, writable: bool) -> Prepared:
    device, number = exporter.__dlpack_device__()
    on_gpu = device in dlpack.CUDA_DEVICES
    if device not in dlpack.HOST_DEVICES and not on_gpu:
        raise gpu.not_reached(f"a {_kind(exporter)} on DLPack device type {int(device)}")
    try:
        stretch = dlpack.inspect(exporter, dlpack.DO_NOT_SYNCHRONISE if on_gpu else None)
    except (BufferError, ValueError, TypeError, RuntimeError) as error:
        raise UsageError(f"a {_kind(exporter)} does not show its memory: {error}") from None
    if not stretch.contiguous:
        raise _not_contiguous(exporter)
    if writable and stretch.read_only:
        raise _read_only(exporter)
    if on_gpu:
        return _on_gpu(stretch.address, stretch.nbytes, number, stretch.capsule, f"a {_kind(exporter)}")
    return _owned(stretch.address, stretch.nbytes, stretch.capsule)


def _kind(piece: object) -> str:
    return f"{type(piece).__module__}.{type(piece).__qualname__}".removeprefix("builtins.")


def _not_contiguous(piece: object) -> UsageError:
    return UsageError(
        f"this {_kind(piece)} does not lie in one stretch of memory (C order): pass its pieces as a list of extents, or a "
        "contiguous copy"
    )


def _read_only(piece: object) -> UsageError:
    return UsageError(f"a get writes into its destination, and this {_kind(piece)} is read-only")
