"""What every command of `cairn-dpu` has in common: its options, and how it ends when something is wrong."""

import functools
import os
import sys
import traceback
from collections.abc import Callable
from typing import Annotated, NoReturn, ParamSpec, TypeVar

import typer

from cairn_dpu import _native
from cairn_dpu.errors import ConfigError, ExitCode, ServiceError, explain
from cairn_dpu.logs import last_words

P = ParamSpec("P")
T = TypeVar("T")

NO_THREAD = (
    "cannot start a thread: raise the limit of tasks, pids.max of the control group (TasksMax= of the unit, --pids-limit of"
    " the container) or of processes of the user (ulimit -u, LimitNPROC=)"
)
NO_MEMORY = "there is no memory left: raise the limit of address space (ulimit -v) or of the control group, or make the slab smaller"
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Output = Annotated[str, typer.Option("-o", "--output", metavar="table|json", help="How to print the result.")]


def _fail(error: BaseException, debug: bool) -> NoReturn:
    sentence, code = explain(error)
    if debug:
        traceback.print_exception(error)
    last_words(f"cairn-dpu: {sentence}\n")
    raise typer.Exit(code)


def guarded(command: Callable[P, T]) -> Callable[P, T]:
    """Turns every error a person can cause or meet into one sentence on stderr and the right exit code."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        debug = bool(kwargs.get("debug"))
        try:
            try:
                return command(*args, **kwargs)
            finally:
                _flush()
        except (typer.Exit, typer.Abort):
            raise
        except BrokenPipeError:
            raise typer.Exit(ExitCode.BROKEN_PIPE) from None  # whoever read our output has gone: nobody is left to tell
        except (ServiceError, _native.CairnError, OSError, KeyboardInterrupt) as error:
            _fail(error, debug)
        except RuntimeError as error:
            if "start new thread" not in str(error):
                _fail(_mistake(error), debug)
            _fail(ServiceError(NO_THREAD), debug)
        except MemoryError:
            _fail(ServiceError(NO_MEMORY), debug)
        except Exception as error:
            _fail(_mistake(error) if not debug else error, debug)

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
        raise ServiceError(f"standard output: {error.strerror}") from None


def _mistake(error: Exception) -> ServiceError:
    return ServiceError(
        f"this is a mistake of ours ({type(error).__name__}: {error}); please report it with what --debug adds"
    )


def check_output(output: str) -> None:
    """Raises ConfigError for what is no way to print."""
    if output not in ("table", "json"):
        raise ConfigError(f"--output: '{output}' is neither table nor json")
