"""What a shell may hold that changes how Python, or a program of ours, behaves; no test runs with it. A test that passed
because of such a variable fails on a machine that has none: one passed only where PYTHONUNBUFFERED was set."""

from __future__ import annotations

import re
import signal
from collections.abc import MutableMapping

OF_A_SHELL = re.compile(
    r"PYTHON\w+"  # but for PYTHON, make's word for the interpreter
    r"|CAIRN_(SERVERS|TENANT|TOKEN|DEADLINE_MS|DEBUG|DPU_\w+)"
    r"|COLUMNS|LINES|NO_COLOR|FORCE_COLOR|CLICOLOR\w*|TTY_\w+|TYPER_\w+|_TYPER_\w+"
    r"|LANG|LANGUAGE|LC_\w+"
    r"|NOTIFY_SOCKET|WATCHDOG_\w+|XDG_RUNTIME_DIR"
    r"|MAKEFLAGS|MFLAGS|MAKELEVEL|MAKEOVERRIDES"
    r"|GTEST_\w+|ASAN_OPTIONS|UBSAN_OPTIONS|TSAN_OPTIONS"
)


# A shell starts what it runs in the background with SIGINT ignored, and nohup with SIGHUP; a program that is started by
# one that ignores a signal ignores it as well, and cannot be interrupted by a test.
OF_A_TERMINAL = (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGTERM)


def hear_signals() -> None:
    """So that what tests start does what it does when a person starts it."""
    for number in OF_A_TERMINAL:
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


def clear(environment: MutableMapping[str, str]) -> None:
    """Leaves what says where things are and where packages come from (PATH, HOME, TMPDIR, proxies, certificates), and what
    tells the tests themselves what to do (CI, CAIRN_TESTBED…, CAIRN_…_REQUIRED)."""
    for name in [name for name in environment if OF_A_SHELL.fullmatch(name)]:
        del environment[name]
