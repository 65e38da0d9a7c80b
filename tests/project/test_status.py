"""One list of outcomes (native/wire/status.h); the numbers, exceptions and problem types in Python are the same list."""

import re
from pathlib import Path

from cairn_dpu import _native as service
from cairn_dpu.admin.problems import PROBLEMS
from cairnkv import _native as client
from cairnkv import errors
from cairnkv.status import Status

ROW = re.compile(r'X\((\w+),\s*(\d+),\s*(\d+),\s*"([^"]*)"\)')


def rows_of(root: Path) -> list[tuple[int, str, int, str]]:
    text = (root / "native" / "wire" / "status.h").read_text()
    return [(int(code), name, int(http), sentence) for name, code, http, sentence in ROW.findall(text)]


def test_both_modules_tell_the_header(root: Path) -> None:
    rows = rows_of(root)
    assert len(rows) > 20
    assert [row[0] for row in rows] == list(range(len(rows)))
    assert service.status_table() == rows
    assert client.status_table() == rows


def test_the_clients_numbers(root: Path) -> None:
    assert {status.name.lower(): status.value for status in Status} == {
        name: code for code, name, _, _ in rows_of(root)
    }
    for code, _, _, sentence in rows_of(root):
        assert Status(code).sentence == sentence


def test_the_clients_exceptions(root: Path) -> None:
    for code, name, _, sentence in rows_of(root):
        if name == "ok":
            continue
        error = errors.error_for(Status(code))
        assert type(error).__name__ == "".join(word.capitalize() for word in name.split("_"))
        assert (error.status, str(error)) == (Status(code), sentence)


def test_the_tree_drawn_in_errors_is_whole() -> None:
    drawn = errors.__doc__ or ""
    for name, value in vars(errors).items():
        if isinstance(value, type) and issubclass(value, Exception):
            assert re.search(rf"\b{name}\b", drawn), name


def test_the_services_problem_types(root: Path) -> None:
    for _, name, http, sentence in rows_of(root):
        if http < 400:
            assert name not in PROBLEMS
            continue
        problem = PROBLEMS[name]
        assert (problem.status, problem.title) == (http, sentence)
        assert problem.hint
