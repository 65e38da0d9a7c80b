"""Turns what callers hold (arrays, tensors, buffers, addresses) into what the native client takes, without copying a byte.

Accepted as one piece of memory, in this order: anything with the buffer protocol (bytes, bytearray, memoryview, mmap, array,
numpy arrays, Region), numpy-like arrays by `__array_interface__` (dtypes the buffer protocol does not know, such as bfloat16),
torch tensors on the CPU, objects with `__dlpack__` on the CPU, and `(address, nbytes)`. A list or tuple of pieces is one
block in several extents, joined in order. numpy and torch are never imported here.

An address says nothing about who owns it: for `(address, nbytes)` the caller keeps the memory alive until the call returns.
"""

import ctypes
from typing import TYPE_CHECKING, Any, TypeAlias

from cairnkv import _native, dlpack
from cairnkv.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from typing_extensions import Buffer

    Piece: TypeAlias = Buffer | tuple[int, int] | Any
    Memory: TypeAlias = Piece | Sequence[Piece]

LIMITS = _native.limits()
BLOCK_BYTES_MOST = LIMITS["block_bytes_most"]
ITEM_EXTENTS_MOST = LIMITS["item_extents_most"]
_NO_GPU = (
    "is GPU memory, which this release cannot reach: that comes with the RDMA transport. Copy it to the host first, "
    "for example tensor.cpu()"
)


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
    return type(memory) is tuple and len(memory) == 2 and all(type(part) is int for part in memory)


def _prepare_piece(piece: Any, writable: bool) -> Prepared:
    if _is_address(piece):
        return _from_address(piece)
    if isinstance(piece, str):
        raise UsageError("text is not memory: encode it first, for example text.encode()")
    if hasattr(piece, "__cuda_array_interface__"):
        raise UsageError(f"a {_kind(piece)} {_NO_GPU}")
    try:
        view = memoryview(piece)
    except (TypeError, ValueError, BufferError) as error:
        return _from_array(piece, writable, error)
    if not view.c_contiguous:
        raise _not_contiguous(piece)
    if writable and view.readonly:
        raise _read_only(piece)
    return view, view.nbytes


def _from_address(piece: tuple[int, int]) -> Prepared:
    address, nbytes = piece
    if not (0 < address < 1 << 64 and 0 <= nbytes < 1 << 63):
        raise UsageError(f"({address}, {nbytes}) is no (address, nbytes) of memory")
    return piece, nbytes


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
    if type(piece).__module__.partition(".")[0] == "torch" and hasattr(piece, "data_ptr"):
        return _from_tensor(piece)
    if hasattr(piece, "__dlpack__") and hasattr(piece, "__dlpack_device__"):
        return _from_dlpack(piece, writable)
    if isinstance(error, BufferError):
        raise UsageError(f"a {_kind(piece)} does not show its memory: {error}") from None
    raise UsageError(
        f"a {_kind(piece)} is not memory: pass a buffer (bytes, bytearray, memoryview, numpy array), a CPU tensor, "
        "(address, nbytes), or a list of these"
    )


def _from_interface(piece: Any, interface: dict[str, Any], writable: bool) -> Prepared:
    if interface.get("strides") is not None:
        raise _not_contiguous(piece)
    address, read_only = interface["data"]
    if writable and read_only:
        raise _read_only(piece)
    return _owned(address, int(piece.nbytes), piece)


def _from_tensor(tensor: Any) -> Prepared:
    if tensor.device.type != "cpu":
        raise UsageError(f"a tensor on {tensor.device} {_NO_GPU}")
    if not tensor.is_contiguous():
        raise _not_contiguous(tensor)
    if tensor.is_conj() or tensor.is_neg():
        raise UsageError(
            "this tensor is a lazy view: its memory holds other values; call resolve_conj() or resolve_neg()"
        )
    nbytes = tensor.numel() * tensor.element_size()
    return _owned(tensor.data_ptr(), nbytes, tensor)


def _from_dlpack(exporter: Any, writable: bool) -> Prepared:
    device = exporter.__dlpack_device__()[0]
    if device not in dlpack.HOST_DEVICES:
        raise UsageError(f"a {_kind(exporter)} {_NO_GPU}")
    try:
        stretch = dlpack.inspect(exporter)
    except (BufferError, ValueError, TypeError, RuntimeError) as error:
        raise UsageError(f"a {_kind(exporter)} does not show its memory: {error}") from None
    if not stretch.contiguous:
        raise _not_contiguous(exporter)
    if writable and stretch.read_only:
        raise _read_only(exporter)
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
