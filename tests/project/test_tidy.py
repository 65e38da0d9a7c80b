"""Small is normal, long is rare and deliberate; and some things do not belong in the tree at all."""

import ast
import re
from pathlib import Path

FILE_LINES_MOST = 500
FUNCTION_LINES_MOST = 60

# Files that may be longer, each with its reason.
LONG_FILES: dict[str, str] = {
    "native/testing/model_life.h": "one class: each step of the model beside what the oracle makes of it",
}
# Python functions that may be longer, as path:name, each with its reason.
LONG_FUNCTIONS: dict[str, str] = {
    "cairnkv/commands/replay.py:replay": "its signature is the command's options with their help; the body is short",
}

CODE = {".py", ".pyi", ".cc", ".h", ".sh"}
GENERATED = {
    "requirements/build.txt",
    "requirements/run.txt",
    "requirements/dev.txt",
    "requirements/bootstrap.txt",
    "LICENSE",
}
SELF = Path("tests/project/test_tidy.py")
# Names of machines and package hosts: a checkout works anywhere, with whatever mirror its machine uses.
FOREIGN = re.compile(
    r"(?<![\w./-])/work/|/opt/(wheels|pypi)|/root/\.|pypi\.org|pythonhosted|files\.python|debian\.org|ubuntu\.com/ubuntu"
)
UNFINISHED = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")
VAGUE = {"utils", "util", "common", "helpers", "misc"}


def text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return ""


def test_files_are_short(root: Path, files: tuple[Path, ...]) -> None:
    lengths = {str(path): text_of(root / path).count("\n") for path in files if path.suffix in CODE}
    too_long = {name: lines for name, lines in lengths.items() if lines > FILE_LINES_MOST and name not in LONG_FILES}
    assert not too_long, f"split these, or give a reason in LONG_FILES: {too_long}"
    assert not {name for name in LONG_FILES if lengths.get(name, 0) <= FILE_LINES_MOST}, "no longer long"


def test_functions_are_short(root: Path, files: tuple[Path, ...]) -> None:
    too_long = {}
    for path in files:
        if path.suffix != ".py":
            continue
        for node in ast.walk(ast.parse(text_of(root / path))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                # Without the signature: a command's is its table of options.
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > FUNCTION_LINES_MOST:
                    too_long[f"{path}:{node.name}"] = lines
    unknown = too_long.keys() - LONG_FUNCTIONS.keys()
    assert not unknown, (
        f"split these, or give a reason in LONG_FUNCTIONS: { {name: too_long[name] for name in unknown} }"
    )
    assert not LONG_FUNCTIONS.keys() - too_long.keys(), "no longer long"


def test_nothing_is_left_for_later(root: Path, files: tuple[Path, ...]) -> None:
    found = [
        f"{path}:{number}: {line.strip()}"
        for path in files
        if path != SELF and str(path) not in GENERATED
        for number, line in enumerate(text_of(root / path).splitlines(), 1)
        if UNFINISHED.search(line)
    ]
    assert not found, "finish it, or write an issue:\n" + "\n".join(found)


def test_nothing_names_a_machine_or_a_package_host(root: Path, files: tuple[Path, ...]) -> None:
    found = [
        f"{path}:{number}: {line.strip()}"
        for path in files
        if path != SELF
        for number, line in enumerate(text_of(root / path).splitlines(), 1)
        if FOREIGN.search(line)
    ]
    assert not found, "\n".join(found)


def test_headers_are_included_once(root: Path, files: tuple[Path, ...]) -> None:
    for path in files:
        if path.suffix == ".h":
            assert re.search(r"^#pragma once$", text_of(root / path), re.MULTILINE), path


def test_native_files_begin_by_saying_what_they_are_for(root: Path, files: tuple[Path, ...]) -> None:
    for path in files:
        if path.suffix == ".h" and path.parts[0] == "native":
            assert text_of(root / path).startswith("//"), path


def test_names_say_something(files: tuple[Path, ...]) -> None:
    for path in files:
        assert not VAGUE & {part.lower() for part in path.with_suffix("").parts}, path


def test_every_importable_name_begins_with_cairn(root: Path, files: tuple[Path, ...]) -> None:
    for path in files:
        if path.name == "__init__.py":
            top = path.parent
            while (root / top.parent / "__init__.py").exists():
                top = top.parent
            assert top.name.startswith("cairn"), path


def test_lines_end_as_they_should(root: Path, files: tuple[Path, ...]) -> None:
    for path in files:
        text = text_of(root / path)
        if text and path.suffix in CODE | {".md", ".toml", ".txt"}:
            assert text.endswith("\n"), path
            assert "\r" not in text, path
        if path.suffix in CODE:
            assert not re.search(r"[ \t]+$", text, re.MULTILINE), f"{path} has blanks at the end of a line"


def test_the_rules_themselves() -> None:
    """A rule that cannot fail is no rule."""
    assert UNFINISHED.search("# " + "TO" + "DO: later")
    assert FOREIGN.search("cd " + "/wo" + "rk/main")
    assert FOREIGN.search("https://" + "pypi" + ".org/simple")
    assert not FOREIGN.search("https://example/work/flow")
