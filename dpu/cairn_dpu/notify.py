"""What systemd wants to hear (sd_notify): one datagram to the socket it names. Without systemd nothing happens."""

import os
import socket


def notify(state: str) -> None:
    """Sends `state`, such as `READY=1`. A manager that does not listen is no error of ours, and is not waited for."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path:
        return
    address = "\0" + path[1:] if path.startswith("@") else path
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
        try:
            sender.sendto(state.encode(), socket.MSG_DONTWAIT, address)
        except OSError:
            return


def watchdog_seconds() -> float | None:
    """How often to send `WATCHDOG=1` (half of what systemd allows); None: not asked for."""
    limit, process = os.environ.get("WATCHDOG_USEC", ""), os.environ.get("WATCHDOG_PID", "")
    if not limit.isdigit() or int(limit) == 0 or (process and process != str(os.getpid())):
        return None
    return int(limit) / 2_000_000
