"""Which errno is tried on which system call. What a call can return stands in its manual page; the reason is why a user
of ours may meet it. Calls that no row names are new: they get every errno, until somebody has thought about them."""

from __future__ import annotations

import errno
from dataclasses import dataclass

ALL = ("EIO", "ENOSPC", "ENOMEM", "EMFILE", "EPERM", "ENODEV", "ETIMEDOUT", "EINTR", "EAGAIN")
# Nothing was done, and the same call may succeed when it is made again.
PASSING = ("EINTR", "EAGAIN")


@dataclass(frozen=True)
class Row:
    calls: tuple[str, ...]
    errnos: tuple[str, ...]
    why: str
    # Made for every request or turn. Its sites are alike, so they take turns: each gets so many of these errnos.
    turns: int | None = None
    # Said once, it may end the life (with a sentence) although it is one of PASSING.
    noticed: tuple[str, ...] = ()


ROWS = (
    Row(
        ("open", "openat", "openat2"),
        ("EIO", "ENOSPC", "ENOMEM", "EMFILE", "EPERM", "ENODEV", "ETIMEDOUT", "EINTR"),
        "creates and opens the drive: on any medium, local or not, full or gone, as any user, with any limit",
    ),
    Row(
        ("stat", "lstat", "fstat", "newfstatat", "statx"),
        ("EIO", "ENOMEM", "EPERM", "ENODEV", "ETIMEDOUT"),
        "reads the inode from the same medium",
    ),
    Row(
        ("ioctl",),
        ("EIO", "ENOMEM", "EPERM", "ENODEV", "ETIMEDOUT"),
        "asks a device for its size",
    ),
    Row(
        ("flock", "fcntl"),
        ("EIO", "ENOMEM", "EPERM", "EINTR", "EAGAIN"),
        "locks take kernel memory, and go over the network on some file systems; EAGAIN: somebody else has it",
        noticed=("EAGAIN",),
    ),
    Row(
        ("fallocate", "ftruncate"),
        ("EIO", "ENOSPC", "ENOMEM", "EPERM", "ENODEV", "ETIMEDOUT", "EINTR", "EOPNOTSUPP"),
        "gives the file its blocks; EOPNOTSUPP: the file system cannot, and the C library writes zeros instead",
    ),
    Row(
        ("io_uring_setup", "io_uring_register"),
        ("ENOMEM", "EMFILE", "EPERM", "EINTR"),
        "rings take locked memory and a descriptor, and are forbidden in many containers",
    ),
    Row(
        ("io_uring_enter",),
        ("EINTR", "EAGAIN", "EIO", "ENOMEM", "EPERM", "ENODEV", "ETIMEDOUT"),
        "submits: EAGAIN when the kernel has no memory for requests; the others by a filter of system calls or a fault",
        turns=4,
    ),
    Row(
        ("eventfd2", "epoll_create1", "timerfd_create", "memfd_create", "pipe2", "socket"),
        ("ENOMEM", "EMFILE", "EPERM", "ENODEV"),
        "makes a descriptor; ENODEV where the kernel cannot mount what it comes from",
    ),
    Row(
        ("mmap", "mremap", "mprotect"),
        ("ENOMEM", "EPERM", "EAGAIN"),
        "the slab, the rings, the heap; EAGAIN when too much memory is locked",
        noticed=("EAGAIN",),
    ),
    Row(("brk",), ("ENOMEM",), "the heap, which then goes elsewhere"),
    Row(("heap",), ("ENOMEM",), "brk and mmap together: the heap can get no more, wherever it asks"),
    Row(("madvise",), ("EIO", "ENOMEM", "EPERM", "EAGAIN"), "asks for huge pages, which is a wish"),
    Row(
        ("getrandom",),
        ("EIO", "EPERM", "EINTR", "EAGAIN"),
        "identities and nonces; filters of system calls forget it",
    ),
    Row(
        ("read", "pread64", "poll", "ppoll", "epoll_wait", "epoll_pwait", "select", "pselect6"),
        ("EIO", "EINTR", "EAGAIN", "ENOMEM"),
        "waits for a drive's event",
        turns=1,
    ),
    Row(("pwrite64",), ("EIO", "ENOSPC", "EINTR"), "the C library, where the file system cannot allocate"),
)
# What cannot fail, or is part of another call (restart_syscall); the harness's own word to us (write). What gives back,
# munmap and close: the kernel does it whatever it says, and strace, which says something in the place of the call, does
# not.
LEFT_OUT = ("close", "exit", "exit_group", "munmap", "restart_syscall", "rt_sigreturn", "write", "writev")
# A call that fails by what it returns, not by an errno: the C library sees that the heap has not grown.
RETURNED = {"brk": 0}


def row_of(call: str) -> Row:
    for row in ROWS:
        if call in row.calls:
            return row
    return Row((call,), ALL, "nobody has thought about it yet")


def errnos_of(call: str, ordinal: int, *, every: bool) -> tuple[str, ...]:
    """Those to try on the nth such call."""
    row = row_of(call)
    if row.turns is None or every:
        return row.errnos
    first = ordinal * row.turns
    return tuple(row.errnos[(first + i) % len(row.errnos)] for i in range(row.turns))


def may_be_noticed(call: str, name: str) -> bool:
    """Whether one such failure may end a life."""
    return name not in PASSING or name in row_of(call).noticed


def strerrors() -> dict[str, int]:
    return {name: getattr(errno, name) for row in ROWS for name in (*row.errnos, *ALL)}
