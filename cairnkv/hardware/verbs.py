"""The limits of RDMA devices, asked of libibverbs itself.

By ctypes: a GPU host has no pyverbs, and the checklist also has to work where our native module does not. The structures are the
library's stable binary interface (infiniband/verbs.h): fields are only ever added at their ends.
"""

import ctypes
import os
from dataclasses import dataclass

LIBRARIES = ("libibverbs.so.1", "librdmacm.so.1")
WINDOW_TYPE_2A, WINDOW_TYPE_2B = 1 << 23, 1 << 24


class _DeviceAttributes(ctypes.Structure):
    """struct ibv_device_attr."""

    _fields_ = [
        ("fw_ver", ctypes.c_char * 64),
        ("node_guid", ctypes.c_uint64),
        ("sys_image_guid", ctypes.c_uint64),
        ("max_mr_size", ctypes.c_uint64),
        ("page_size_cap", ctypes.c_uint64),
        ("vendor_id", ctypes.c_uint32),
        ("vendor_part_id", ctypes.c_uint32),
        ("hw_ver", ctypes.c_uint32),
        ("max_qp", ctypes.c_int),
        ("max_qp_wr", ctypes.c_int),
        ("device_cap_flags", ctypes.c_uint),
        ("max_sge", ctypes.c_int),
        ("max_sge_rd", ctypes.c_int),
        ("max_cq", ctypes.c_int),
        ("max_cqe", ctypes.c_int),
        ("max_mr", ctypes.c_int),
        ("max_pd", ctypes.c_int),
        ("max_qp_rd_atom", ctypes.c_int),
        ("max_ee_rd_atom", ctypes.c_int),
        ("max_res_rd_atom", ctypes.c_int),
        ("max_qp_init_rd_atom", ctypes.c_int),
        ("max_ee_init_rd_atom", ctypes.c_int),
        ("atomic_cap", ctypes.c_int),
        ("max_ee", ctypes.c_int),
        ("max_rdd", ctypes.c_int),
        ("max_mw", ctypes.c_int),
        ("later", ctypes.c_char * 256),  # more than the structure has ever had
    ]


class _PortAttributes(ctypes.Structure):
    """The beginning of struct ibv_port_attr."""

    _fields_ = [
        ("state", ctypes.c_int),
        ("max_mtu", ctypes.c_int),
        ("active_mtu", ctypes.c_int),
        ("later", ctypes.c_char * 256),
    ]


@dataclass(frozen=True, slots=True)
class Limits:
    """What a device says of itself; mtus: active and largest MTU in bytes of every port, by its number."""

    max_qp: int
    max_mr: int
    max_mw: int
    max_qp_rd_atom: int
    max_qp_init_rd_atom: int
    windows: bool
    mtus: dict[int, tuple[int, int]]


def missing_libraries() -> list[str]:
    """Why each of the libraries that cannot be loaded cannot."""
    reasons = []
    for name in LIBRARIES:
        try:
            ctypes.CDLL(name)
        except OSError as error:
            reasons.append(str(error))
    return reasons


def limits_of_devices(ports: dict[str, list[int]]) -> dict[str, Limits | str]:
    """What each device says, or why it cannot be asked. ports: the numbers of the ports of every device, by its name.
    Raises OSError where the library is missing."""
    library = ctypes.CDLL(LIBRARIES[0], use_errno=True)
    library.ibv_get_device_list.restype = ctypes.c_void_p
    library.ibv_get_device_name.restype = ctypes.c_char_p
    library.ibv_open_device.restype = ctypes.c_void_p
    count = ctypes.c_int()
    listed = library.ibv_get_device_list(ctypes.byref(count))
    if not listed:
        return {name: f"the library lists no device: {os.strerror(ctypes.get_errno())}" for name in ports}
    found: dict[str, Limits | str] = dict.fromkeys(ports, "libibverbs has no driver for it: install ibverbs-providers")
    try:
        for device in ctypes.cast(listed, ctypes.POINTER(ctypes.c_void_p))[: count.value]:
            name = library.ibv_get_device_name(ctypes.c_void_p(device)).decode()
            found[name] = _ask(library, device, ports.get(name, []))
    finally:
        library.ibv_free_device_list(ctypes.c_void_p(listed))
    return found


def _ask(library: ctypes.CDLL, device: int, ports: list[int]) -> Limits | str:
    context = library.ibv_open_device(ctypes.c_void_p(device))
    if not context:
        return f"it cannot be opened: {os.strerror(ctypes.get_errno())}"
    try:
        said = _DeviceAttributes()
        if code := library.ibv_query_device(ctypes.c_void_p(context), ctypes.byref(said)):
            return f"it does not answer: {os.strerror(code)}"
        mtus = {}
        for port in ports:
            line = _PortAttributes()
            if library.ibv_query_port(ctypes.c_void_p(context), ctypes.c_uint8(port), ctypes.byref(line)) == 0:
                mtus[port] = (_mtu_bytes(line.active_mtu), _mtu_bytes(line.max_mtu))
        return Limits(
            max_qp=said.max_qp,
            max_mr=said.max_mr,
            max_mw=said.max_mw,
            max_qp_rd_atom=said.max_qp_rd_atom,
            max_qp_init_rd_atom=said.max_qp_init_rd_atom,
            windows=bool(said.device_cap_flags & (WINDOW_TYPE_2A | WINDOW_TYPE_2B)),
            mtus=mtus,
        )
    finally:
        library.ibv_close_device(ctypes.c_void_p(context))


def _mtu_bytes(code: int) -> int:
    """Of enum ibv_mtu: 1 is 256 bytes, 5 is 4096."""
    return 128 << code if 1 <= code <= 5 else 0
