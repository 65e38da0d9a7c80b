"""The error tree and the statuses it stands for. (tests/project/test_status.py compares both with the native list.)"""

from __future__ import annotations

import pytest

from cairnkv import (
    CairnError,
    ClosedError,
    ConnectError,
    GetResult,
    InUseError,
    ItemResult,
    PutResult,
    Status,
    StatusError,
    UsageError,
    errors,
)
from cairnkv._native import status_table
from cairnkv.results import ITEM_RESULTS

FAILURES = [status for status in Status if status != Status.ok]


def test_statuses_are_the_native_list() -> None:
    assert [(status.value, status.name, status.sentence) for status in Status] == [
        (code, name, sentence) for code, name, _, sentence in status_table()
    ]


@pytest.mark.parametrize("status", FAILURES)
def test_every_failure_has_its_class(status: Status) -> None:
    error = errors.error_for(status)
    assert type(error).__name__ == "".join(word.capitalize() for word in status.name.split("_"))
    assert isinstance(error, StatusError) and error.status is status
    assert str(error) == status.sentence


def test_the_tree() -> None:
    assert issubclass(UsageError, ValueError)
    for child, parent in [(ConnectError, CairnError), (UsageError, CairnError), (StatusError, CairnError)]:
        assert issubclass(child, parent)
    assert issubclass(InUseError, ConnectError) and issubclass(ClosedError, UsageError)


def test_the_drawing_is_the_tree() -> None:
    drawn = errors.__doc__ or ""
    classes = {
        name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, CairnError)
    }
    assert classes <= set(drawn.replace("(", " ").split())


@pytest.mark.parametrize("status", Status)
def test_raise_for_status(status: Status) -> None:
    for result in (ItemResult(status), GetResult(status), PutResult(status)):
        fine = status == Status.ok or (isinstance(result, PutResult) and status == Status.exists)
        assert result.ok is bool(result) is fine
        if fine:
            assert result.raise_for_status() is result
            continue
        with pytest.raises(type(errors.error_for(status))):
            result.raise_for_status()


def test_results_are_small_values() -> None:
    assert GetResult(Status.ok, 5, 9) == GetResult(Status.ok, 5, 9) != GetResult(Status.ok, 5, 8)
    assert GetResult(Status.ok) != PutResult(Status.ok)
    assert len({GetResult(Status.ok, 5, 9), GetResult(Status.ok, 5, 9)}) == 1
    assert repr(GetResult(Status.ok, 5, 9)) == "GetResult(ok, nbytes=5, sequence=9)"
    assert repr(ItemResult(Status.not_found)) == "ItemResult(not_found)"
    assert not hasattr(GetResult(Status.ok), "__dict__")
    assert [result.status for result in ITEM_RESULTS] == list(Status)


def test_what_a_result_says() -> None:
    assert GetResult(Status.ok).hit and not GetResult(Status.corrupt).hit
    assert PutResult(Status.exists).existed and not PutResult(Status.ok).existed
