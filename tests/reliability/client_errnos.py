"""Which errno is tried on which system call of a client's process, beside what syscall_errnos.py knows."""

from __future__ import annotations

from syscall_errnos import PASSING, ROWS, Row

CLIENT_ROWS = (
    Row(("socket",), ("EMFILE", "ENFILE", "ENOMEM", "ENOBUFS", "EPERM", "EAFNOSUPPORT"), "makes a descriptor"),
    Row(
        ("connect",),
        ("EINTR", "EAGAIN", "ECONNREFUSED", "ETIMEDOUT", "ENETUNREACH", "EADDRNOTAVAIL", "EPERM", "ENOMEM"),
        "reaches a service; EAGAIN: its queue of connections is full just now",
    ),
    Row(
        ("sendmsg", "sendto"),
        ("EINTR", "EAGAIN", "ECONNRESET", "EPIPE", "ENOBUFS", "ENOMEM", "EPERM"),
        "says something; a firewall that is changed says EPERM",
        turns=3,
    ),
    Row(
        ("recvmsg", "recvfrom"),
        ("EINTR", "EAGAIN", "ECONNRESET", "ETIMEDOUT", "ENOMEM"),
        "hears something",
        turns=2,
    ),
    Row(
        ("poll", "ppoll"),
        ("EINTR", "EAGAIN", "ENOMEM", "EINVAL"),
        "waits; EINVAL: below a lower limit of files",
        turns=2,
    ),
    Row(("write", "writev"), ("EINTR", "EAGAIN", "EIO", "ENOMEM"), "wakes a thread by its event", turns=2),
    Row(("read",), ("EINTR", "EAGAIN", "EIO", "ENOMEM"), "takes an event in, or a file of the resolver", turns=2),
    Row(("eventfd2", "epoll_create1"), ("ENOMEM", "EMFILE", "ENFILE", "ENODEV", "EPERM"), "makes a descriptor"),
    Row(
        ("setsockopt", "getsockopt", "getsockname", "getpeername"),
        ("ENOMEM", "ENOBUFS", "EPERM", "ENOPROTOOPT"),
        "options are wishes",
    ),
    Row(
        ("clone", "clone3"),
        ("EAGAIN", "ENOMEM", "EPERM"),
        "makes a thread, under a limit of processes",
        noticed=("EAGAIN",),
    ),
    Row(
        ("prctl", "sched_yield", "clock_nanosleep", "nanosleep"), ("EINTR", "EPERM"), "names a thread; pauses", turns=1
    ),
    Row(("fcntl",), ("EINVAL", "EPERM", "ENOMEM"), "looks at a descriptor"),
    Row(("rt_sigaction",), ("EPERM",), "Python's own"),
)
# What the C library cannot do without and ends the process for (futex); what cannot fail; what gives back, for the
# kernel does it whatever it says, and strace does not.
LEFT_OUT = (
    "close", "exit", "exit_group", "futex", "getpid", "getppid", "gettid", "getpriority", "madvise", "mprotect", "munmap",
    "restart_syscall", "rseq", "rt_sigprocmask", "rt_sigreturn", "sched_getaffinity", "set_robust_list", "wait4",
)  # fmt: skip
# Where one failure of these kinds may be told, although the call might have been made again: of names and threads.
NOTICED = {("mmap", "EAGAIN"), ("clone3", "EAGAIN"), ("clone", "EAGAIN")}


def row_of(call: str) -> Row:
    for row in (*CLIENT_ROWS, *ROWS):
        if call in row.calls:
            return row
    return Row((call,), ("EIO", "ENOMEM", "EPERM", "EINTR"), "nobody has thought about it yet")


def errnos_of(call: str, ordinal: int, *, every: bool) -> tuple[str, ...]:
    """Those to try on the nth such call."""
    row = row_of(call)
    if row.turns is None or every:
        return row.errnos
    first = ordinal * row.turns
    return tuple(row.errnos[(first + i) % len(row.errnos)] for i in range(row.turns))


def may_be_noticed(call: str, name: str) -> bool:
    """Whether one such failure may be told to a caller."""
    return name not in PASSING or (call, name) in NOTICED
