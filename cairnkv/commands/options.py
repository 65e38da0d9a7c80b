"""What every sub-command shares: its options, how it connects, and how an error becomes one sentence and an exit code.

Exit codes: 0 ok, 1 failure, 2 usage, 3 not found, 4 denied, 5 conflict, 6 timeout, 130 interrupted, 141 nobody reads the
output (as the shell tells of a program that SIGPIPE ended).
"""

import errno
import functools
import os
import sys
import traceback
from collections.abc import Callable
from enum import IntEnum, StrEnum
from typing import Annotated, NoReturn, ParamSpec, TypeVar

import typer

from cairnkv.client import Client, connect
from cairnkv.config import FORMS
from cairnkv.errors import CairnError, ConnectError, InUseError, StatusError, UsageError
from cairnkv.status import Status

P = ParamSpec("P")
T = TypeVar("T")


class ExitCode(IntEnum):
    """What the exit status says (the same table for `cairn` and `cairn-dpu`)."""

    OK = 0
    FAILURE = 1
    USAGE = 2
    NOT_FOUND = 3
    DENIED = 4
    CONFLICT = 5
    TIMEOUT = 6
    INTERRUPTED = 130
    BROKEN_PIPE = 141


class OutputError(CairnError):
    """A result could not be written."""


class Output(StrEnum):
    """How to print the result."""

    table = "table"
    json = "json"


CODES = {
    Status.ok: ExitCode.OK,
    Status.exists: ExitCode.CONFLICT,
    Status.leased: ExitCode.CONFLICT,
    Status.not_found: ExitCode.NOT_FOUND,
    Status.corrupt: ExitCode.NOT_FOUND,
    Status.denied: ExitCode.DENIED,
    Status.timeout: ExitCode.TIMEOUT,
    Status.too_large: ExitCode.USAGE,
    Status.invalid: ExitCode.USAGE,
    Status.lease_too_long: ExitCode.USAGE,
    Status.group_too_large: ExitCode.USAGE,
}

_BY_KIND = {
    KeyboardInterrupt: ExitCode.INTERRUPTED,
    UsageError: ExitCode.USAGE,
    InUseError: ExitCode.CONFLICT,
    FileNotFoundError: ExitCode.NOT_FOUND,
    PermissionError: ExitCode.DENIED,
    FileExistsError: ExitCode.CONFLICT,
}

Server = Annotated[
    str | None,
    typer.Option(
        "--server", "-s", metavar="URL", show_default=False,
        help=f"{FORMS}. Default: $CAIRN_SERVERS.",
    ),
]  # fmt: skip
Tenant = Annotated[
    str | None,
    typer.Option(
        "--tenant", metavar="NAME", show_default=False, help="Whose keyspace. Default: $CAIRN_TENANT, or 'default'."
    ),
]
Deadline = Annotated[
    int | None,
    typer.Option(
        "--deadline",
        metavar="MS",
        min=1,
        show_default=False,
        help="Milliseconds a call may take. Default: $CAIRN_DEADLINE_MS, or 30000.",
    ),
]
OutputOption = Annotated[Output, typer.Option("--output", "-o", help="How to print the result.")]
KeysArgument = Annotated[list[str], typer.Argument(metavar="KEY…", help="One key or more.")]
LayoutOption = Annotated[
    int, typer.Option("--layout", metavar="ID", min=0, show_default=False, help="The layout's 64-bit number; 0: none.")
]


def exit_code(status: Status) -> ExitCode:
    """The exit code for a status."""
    return CODES.get(status, ExitCode.FAILURE)


def worst(statuses: list[Status]) -> ExitCode:
    """One exit code for many items: the first that is not ok; a failure counts before a miss."""
    codes = [exit_code(status) for status in statuses if status != Status.ok]
    serious = [code for code in codes if code is not ExitCode.NOT_FOUND]
    return next(iter(serious or codes), ExitCode.OK)


def open_client(server: str | None, tenant: str | None, deadline: int | None, name: str | None = None) -> Client:
    """A client as the options say. Raises CairnError. name: what its leases belong to; else the command's."""
    if not (server or os.environ.get("CAIRN_SERVERS")):
        raise UsageError(
            "no service is named: add --server URL or set CAIRN_SERVERS. With none at hand, --server local:/var/tmp/cairn "
            "starts a private one"
        )
    command = f"cairn {sys.argv[1] if len(sys.argv) > 1 else ''}".strip()
    return connect(server, tenant=tenant, deadline_ms=deadline, name=name or command)


def say(sentence: str) -> None:
    """A line for a person, on stderr."""
    sys.stderr.write(f"cairn: {sentence}\n")


def fail(sentence: str, code: ExitCode) -> NoReturn:
    """Ends the command."""
    say(sentence)
    raise typer.Exit(code)


def explain(error: BaseException) -> tuple[str, ExitCode]:
    """The sentence and the exit code of an error that ends a command."""
    if isinstance(error, ConnectError | StatusError) and not isinstance(error, InUseError):
        return str(error), exit_code(error.status)
    if isinstance(error, OSError):
        if error.errno == errno.ENOSPC and not error.filename:  # whoever writes a file names it
            return f"standard output: {error.strerror}", ExitCode.FAILURE
        named = error.filename and error.strerror
        return f"{error.filename}: {error.strerror}" if named else str(error), _code_of(error)
    if isinstance(error, CairnError | KeyboardInterrupt):
        return str(error) or "interrupted", _code_of(error)
    return f"internal error, please report it: {type(error).__name__}: {error}", ExitCode.FAILURE


def _code_of(error: BaseException) -> ExitCode:
    return next((code for kind, code in _BY_KIND.items() if isinstance(error, kind)), ExitCode.FAILURE)


def guarded(command: Callable[P, T]) -> Callable[P, T]:
    """No traceback reaches a person, unless CAIRN_DEBUG is set."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            try:
                return command(*args, **kwargs)
            finally:
                _flush()
        except (typer.Exit, typer.Abort, typer.BadParameter):
            raise
        except BrokenPipeError:
            raise typer.Exit(ExitCode.BROKEN_PIPE) from None  # whoever read our output has gone: nobody is left to tell
        except (Exception, KeyboardInterrupt) as error:
            if os.environ.get("CAIRN_DEBUG"):
                traceback.print_exception(error)
            sentence, code = explain(error)
            fail(sentence, code)

    return run


def _flush() -> None:
    """Writes what was printed, now, while it can still be told when that fails."""
    try:
        sys.stdout.flush()
    except OSError as error:
        # The interpreter must not try again at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            raise
        raise OutputError(f"standard output: {error.strerror}") from None
