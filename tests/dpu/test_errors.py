"""Every error becomes one sentence and the exit code of the table."""

import errno

import pytest

from cairn_dpu import _native
from cairn_dpu.errors import ConfigError, ConflictError, DeniedError, ExitCode, NotFoundError, ServiceError, explain


@pytest.mark.parametrize(
    ("error", "sentence", "code"),
    [
        (ServiceError("it broke"), "it broke", ExitCode.FAILURE),
        (ConfigError("wrong"), "wrong", ExitCode.USAGE),
        (NotFoundError("gone"), "gone", ExitCode.NOT_FOUND),
        (DeniedError("no"), "no", ExitCode.DENIED),
        (ConflictError("busy"), "busy", ExitCode.CONFLICT),
        (KeyboardInterrupt(), "interrupted", ExitCode.INTERRUPTED),
        (FileNotFoundError(errno.ENOENT, "No such file", "/x"), "/x: No such file", ExitCode.NOT_FOUND),
        (PermissionError(errno.EACCES, "Permission denied", "/x"), "/x: Permission denied", ExitCode.DENIED),
        (OSError("strange"), "strange", ExitCode.FAILURE),
        (_native.CairnError("cannot open /x"), "cannot open /x", ExitCode.FAILURE),
        (_native.CairnError("in use", errno.EWOULDBLOCK), "in use", ExitCode.CONFLICT),
        (_native.CairnError(), "CairnError", ExitCode.FAILURE),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else str(value)[:12],
)
def test_explained(error: BaseException, sentence: str, code: ExitCode) -> None:
    assert explain(error) == (sentence, code)
