"""What every command of `cairn-dpu` has in common: its options, and how it ends when something is wrong."""

import functools
import traceback
from collections.abc import Callable
from typing import Annotated, NoReturn, ParamSpec, TypeVar

import typer

from cairn_dpu import _native
from cairn_dpu.errors import ConfigError, ServiceError, explain
from cairn_dpu.logs import last_words

P = ParamSpec("P")
T = TypeVar("T")

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
            return command(*args, **kwargs)
        except (typer.Exit, typer.Abort):
            raise
        except (ServiceError, _native.CairnError, OSError, KeyboardInterrupt) as error:
            _fail(error, debug)
        except Exception as error:
            mistake = (
                f"this is a mistake of ours ({type(error).__name__}: {error}); please report it with what --debug adds"
            )
            _fail(ServiceError(mistake) if not debug else error, debug)

    return run


def check_output(output: str) -> None:
    """Raises ConfigError for what is no way to print."""
    if output not in ("table", "json"):
        raise ConfigError(f"--output: '{output}' is neither table nor json")
