"""Every error becomes one sentence and the exit code of the table."""

import errno
from pathlib import Path

import pytest

from cairn_dpu import _native
from cairn_dpu.errors import (
    ConfigError,
    ConflictError,
    DeniedError,
    ExitCode,
    NotFoundError,
    ServiceError,
    explain,
    outcome_of,
)


def native(sentence: str, *, system_errno: int = 0, status: str = "ok") -> _native.CairnError:
    error = _native.CairnError(sentence)
    error.system_errno = system_errno
    error.status = {name: code for code, name, _, _ in _native.status_table()}[status]
    return error


def test_an_error_of_the_native_core_carries_its_outcome(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_bytes(b"precious".ljust(64 << 20, b"x"))
    with pytest.raises(_native.CairnError) as foreign:
        _native.inspect_drive(str(other))
    assert outcome_of(foreign.value) == "drive_foreign"
    assert str(foreign.value).startswith(str(other))
    with pytest.raises(_native.CairnError) as missing:
        _native.inspect_drive(str(tmp_path / "none"))
    assert (outcome_of(missing.value), missing.value.system_errno) == ("", errno.ENOENT)


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
        (native("in use", system_errno=errno.EWOULDBLOCK), "in use", ExitCode.CONFLICT),
        (native("foreign", status="drive_foreign"), "foreign", ExitCode.CONFLICT),
        (native("unknown", status="drive_unknown"), "unknown", ExitCode.NOT_FOUND),
        (native("damaged", status="drive_damaged"), "damaged", ExitCode.FAILURE),
        (native("late", status="timeout"), "late", ExitCode.TIMEOUT),
        (_native.CairnError(), "CairnError", ExitCode.FAILURE),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else str(value)[:12],
)
def test_explained(error: BaseException, sentence: str, code: ExitCode) -> None:
    assert explain(error) == (sentence, code)
