"""Every failure of the service that a person can meet, and the one place where it becomes a sentence and an exit code.

ServiceError                 1  something failed; the sentence says what, on what, and what to do
├── ConfigError              2  a setting, a flag or a file is wrong
├── NotFoundError            3  the named drive or file does not exist
├── DeniedError              4  the operating system does not allow it
└── ConflictError            5  something is there already, or in use

The native service's CairnError and the system's OSError are translated here as well (`explain`). A CairnError carries the
code of the outcome it stands for (`status`, native/wire/status.h) and the errno behind it, each 0 when there is none.
"""

import errno
from enum import IntEnum

from cairn_dpu import _native


class ExitCode(IntEnum):
    """What the command's exit status says (the same table for `cairn` and `cairn-dpu`)."""

    OK = 0
    FAILURE = 1
    USAGE = 2
    NOT_FOUND = 3
    DENIED = 4
    CONFLICT = 5
    TIMEOUT = 6
    INTERRUPTED = 130
    BROKEN_PIPE = 141


class ServiceError(Exception):
    """args[0] is a whole sentence for a person."""

    exit_code = ExitCode.FAILURE


class ConfigError(ServiceError):
    """A setting, a flag or the configuration file is wrong."""

    exit_code = ExitCode.USAGE


class NotFoundError(ServiceError):
    """The named drive or file does not exist."""

    exit_code = ExitCode.NOT_FOUND


class DeniedError(ServiceError):
    """The operating system does not allow it."""

    exit_code = ExitCode.DENIED


class ConflictError(ServiceError):
    """Something is there already, or in use."""

    exit_code = ExitCode.CONFLICT


_BY_ERRNO = {
    errno.ENOENT: ExitCode.NOT_FOUND,
    errno.ENODEV: ExitCode.NOT_FOUND,
    errno.ENXIO: ExitCode.NOT_FOUND,
    errno.EACCES: ExitCode.DENIED,
    errno.EPERM: ExitCode.DENIED,
    errno.EROFS: ExitCode.DENIED,
    errno.EBUSY: ExitCode.CONFLICT,
    errno.EWOULDBLOCK: ExitCode.CONFLICT,
    errno.EEXIST: ExitCode.CONFLICT,
    errno.EADDRINUSE: ExitCode.CONFLICT,
    errno.ETIMEDOUT: ExitCode.TIMEOUT,
}


_BY_HTTP = {
    403: ExitCode.DENIED,
    404: ExitCode.NOT_FOUND,
    409: ExitCode.CONFLICT,
    504: ExitCode.TIMEOUT,
}
_OUTCOMES = {code: (name, http) for code, name, http, _ in _native.status_table()}


def outcome_of(error: _native.CairnError) -> str:
    """The name of the outcome in the native list; empty when the error stands for none of them."""
    return _OUTCOMES[error.status][0] if error.status in _OUTCOMES and error.status else ""


def explain(error: BaseException) -> tuple[str, ExitCode]:
    """The sentence and the exit code for an error that ends a command."""
    if isinstance(error, KeyboardInterrupt):
        return "interrupted", ExitCode.INTERRUPTED
    if isinstance(error, ServiceError):
        return str(error), error.exit_code
    if isinstance(error, OSError):
        if error.errno == errno.ENOSPC and not error.filename:  # whoever writes a file names it
            return f"standard output: {error.strerror}", ExitCode.FAILURE
        what = f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error)
        return what, _BY_ERRNO.get(error.errno or 0, ExitCode.FAILURE)
    sentence = str(error) or type(error).__name__
    if not isinstance(error, _native.CairnError):
        return sentence, ExitCode.FAILURE
    by_outcome = _BY_HTTP.get(_OUTCOMES.get(error.status, ("", 0))[1], ExitCode.FAILURE)
    return sentence, _BY_ERRNO.get(error.system_errno, by_outcome)
