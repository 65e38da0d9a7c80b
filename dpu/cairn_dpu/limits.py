"""What the system lets this process have: descriptors and memory. Looked at once, at the start, so that a limit that will
bite is a sentence then and not a failure under load."""

import logging
import os
import resource
from pathlib import Path

from cairn_dpu.errors import ConfigError
from cairn_dpu.quantities import describe_size

log = logging.getLogger("cairn_dpu.service")

DESCRIPTORS_KEPT = 320  # for drives, the admin API and files; native/transport/sockets.cc keeps them from links
DESCRIPTORS_OF_FILES = 48
DESCRIPTORS_MOST = 1024 * 1024  # more are of no use, and some containers have a limit of a billion
PROCESS_BYTES = 160 * 1024**2  # beside the slab: the interpreter, the web framework, a small index
_NO_LIMIT_BYTES = 2**62  # version 1 of control groups writes a number near 2^63 for none


def kept_descriptors(limit: int) -> int:
    """How many of so many descriptors no link of a client may have."""
    return min(DESCRIPTORS_KEPT, limit // 2)


def admin_connections_most() -> int:
    """How many of those the admin API may use for its connections."""
    return max(kept_descriptors(resource.getrlimit(resource.RLIMIT_NOFILE)[0]) - DESCRIPTORS_OF_FILES, 4)


def raise_descriptors(sessions_most: int) -> None:
    """Takes as many descriptors as the process may have. Warns when they are too few for the sessions."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS_MOST if hard == resource.RLIM_INFINITY else min(hard, DESCRIPTORS_MOST)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    room = soft - kept_descriptors(soft)
    if soft != resource.RLIM_INFINITY and room < sessions_most:
        log.warning(
            "there are descriptors for about %d connections of clients and not for sessions_most = %d; raise the limit of"
            " open files (%d now) with LimitNOFILE= of the unit, or ulimit -Hn",
            max(room - DESCRIPTORS_OF_FILES, 0),
            sessions_most,
            soft,
        )


def descriptors_short() -> bool:
    """Whether links are being refused because descriptors have run out: the lowest number that is free says so."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if limit == resource.RLIM_INFINITY:
        return False
    try:
        number = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return True
    os.close(number)
    return number >= limit - kept_descriptors(limit)


def memory_limit(root: Path = Path("/")) -> tuple[int, str] | None:
    """The least memory that a control group of this process allows, its parents included, and that group's folder; None
    where there is no limit. Both versions of control groups, mounted anywhere."""
    found: list[tuple[int, str]] = []
    for version, mount, folder in _memory_groups(root):
        name = "memory.max" if version == 2 else "memory.limit_in_bytes"
        inside = root / mount.lstrip("/") / folder.lstrip("/")
        for group in (inside, *inside.parents):
            if not group.is_relative_to(root / mount.lstrip("/")):
                break
            try:
                text = (group / name).read_text().strip()
            except OSError:
                continue
            if text.isdigit() and int(text) < _NO_LIMIT_BYTES:
                found.append((int(text), str(group)))
    return min(found, default=None)


def _memory_groups(root: Path) -> list[tuple[int, str, str]]:
    """(version, mount point, folder below it) of the groups that bound this process's memory."""
    try:
        groups = (root / "proc/self/cgroup").read_text().splitlines()
        mounts = (root / "proc/self/mountinfo").read_text().splitlines()
    except OSError:
        return []
    paths: dict[int, str] = {}
    for line in groups:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            paths[2] = path
        elif "memory" in controllers.split(","):
            paths[1] = path
    found = []
    for line in mounts:
        before, _, after = line.partition(" - ")
        fields, kind = before.split(), after.split()
        version = {"cgroup2": 2, "cgroup": 1}.get(kind[0] if kind else "", 0)
        if version not in paths or (version == 1 and "memory" not in kind[-1].split(",")):
            continue
        # A container sees its own group as the root of the mount.
        path = paths[version]
        folder = path.removeprefix(fields[3].rstrip("/")) if path.startswith(fields[3]) else "/"
        found.append((version, fields[4], folder))
    return found


def usable_memory(root: Path = Path("/")) -> int:
    """What the machine has, or less where a control group says so."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = memory_limit(root)
    return machine if limit is None else min(machine, limit[0])


def check_memory(slab: int, root: Path = Path("/")) -> None:
    """Raises ConfigError when the slab and the process do not fit the memory that it may have: the kernel would kill it."""
    limit = memory_limit(root)
    if limit is None or slab + PROCESS_BYTES <= limit[0]:
        return
    raise ConfigError(
        f"a slab of {describe_size(slab)} and {describe_size(PROCESS_BYTES)} for the process do not fit the memory limit of"
        f" its control group, {describe_size(limit[0])} ({limit[1]}): raise that limit (MemoryMax= of the unit, the memory"
        " limit of the container), or make the slab smaller; the least slab is 256 MiB"
    )
