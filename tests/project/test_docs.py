"""Documents say what the code does: settings, metrics, commands, words of the Makefile."""

import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from cairn_dpu import config, metrics

FENCE = re.compile(r"^```[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
REMARK = re.compile(r"\s#\s.*$")


def documents(root: Path) -> list[Path]:
    return sorted([*root.glob("*.md"), *(root / "docs").rglob("*.md")])


def test_the_settings(root: Path) -> None:
    wanted = config.markdown()
    assert (root / "docs" / "configuration.md").read_text() == wanted, (
        "run: .venv/bin/python -m cairn_dpu.config --markdown > docs/configuration.md"
    )


def test_the_metrics(root: Path) -> None:
    table = metrics.markdown_table()
    assert table in (root / "docs" / "metrics.md").read_text(), "the table of docs/metrics.md should be:\n" + table


def lines_of_code(root: Path) -> Iterator[tuple[Path, str]]:
    """Every line in a fenced block, and every `word` in the text, without remarks and prompts."""
    for document in documents(root):
        text = document.read_text()
        fenced = [line for block in FENCE.findall(text) for line in block.splitlines()]
        inline = re.findall(r"`([^`\n]+)`", FENCE.sub("", text))
        for line in [*fenced, *inline]:
            yield document.relative_to(root), REMARK.sub("", line.strip().removeprefix("$ ")).strip()


def test_the_words_after_make_exist(root: Path) -> None:
    words = set(re.findall(r"^([a-z-]+):", (root / "Makefile").read_text(), re.MULTILINE))
    for document, line in lines_of_code(root):
        found = re.match(r"make ((?:[a-z][a-z-]*)(?: [a-z][a-z-]*)*)$", line)
        if found:
            assert set(found.group(1).split()) <= words, f"{document}: {line}"


def commands_of(app: typer.Typer) -> set[str]:
    return {info.name or info.callback.__name__ for info in app.registered_commands if info.callback} | {
        group.name for group in app.registered_groups if isinstance(group.name, str)
    }


@pytest.mark.parametrize(("program", "package"), [("cairn-dpu", "cairn_dpu"), ("cairn", "cairnkv")])
def test_the_commands_exist(program: str, package: str, root: Path) -> None:
    app = importlib.import_module(f"{package}.cli").app
    commands = {name.replace("_", "-").strip("-") for name in commands_of(app)}
    assert commands
    for document, line in lines_of_code(root):
        if document.name == "CHANGELOG.md":
            continue
        found = re.match(rf"(?:sudo )?(?:\.venv/bin/)?{program} ([a-z]+)\b", line)
        if found:
            assert found.group(1) in commands, f"{document}: {line}"


def test_links_lead_somewhere(root: Path) -> None:
    for document in documents(root):
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", document.read_text()):
            if "://" not in target:
                assert (document.parent / target).exists(), f"{document.relative_to(root)}: {target}"


FORGIVING = {"test-fuzz", "test-testbed"}  # of make test: another word where it can be had at once


def test_every_make_word_has_a_line_of_help(root: Path) -> None:
    text = (root / "Makefile").read_text()
    phony = re.findall(r"^\.PHONY: (.+)$", text, re.MULTILINE)
    for word in " ".join(phony).split():
        assert re.search(rf"^{word}:.*  ## .+$", text, re.MULTILINE) or word in FORGIVING, word
