"""README, set-up and CI mean the same bare machine: what a person is told works there is what CI runs there."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import bare_root

NEEDS = re.compile(r"^On ((?:Debian \d+(?: or )?)+) with (.+):$", re.MULTILINE)
CI = ".ci/run"


def words_of_ci(root: Path, function: str) -> set[str]:
    """The words for make that CI's function runs."""
    body = re.search(rf"^{function}\(\) {{\n(.*?)^}}", (root / CI).read_text(), re.MULTILINE | re.DOTALL)
    assert body, f"{CI} has no {function}()"
    return set(re.findall(r"^\s*step make ([a-z-]+)", body.group(1), re.MULTILINE))


def test_the_readme_names_what_ci_runs_on(root: Path) -> None:
    told = NEEDS.search((root / "README.md").read_text())
    assert told, "README.md no longer says what it needs"
    assert told.group(1).split(" or ") == list(bare_root.SUITES.values())
    assert re.split(r", | and ", told.group(2)) == list(bare_root.PACKAGES)
    ran = re.findall(r"--suite (\w+) -- .*\.ci/run (\w+)", (root / CI).read_text())
    assert ran == [("bookworm", "all"), ("trixie", "some")]
    assert [suite for suite, _ in ran] == list(bare_root.SUITES)


def test_the_words_that_the_readme_begins_with_are_run(root: Path) -> None:
    [block] = re.findall(r"^```sh\n((?:make .*\n)+)```$", (root / "README.md").read_text(), re.MULTILINE)
    words = {line.split()[1] for line in block.splitlines()}
    assert words <= words_of_ci(root, "all")
    assert words_of_ci(root, "all") >= {"demo", "check", "test", "reliability"}
    assert words_of_ci(root, "some") == {"demo", "check", "test-native", "test-python"}


def test_nothing_claims_a_system_that_nobody_ran(root: Path, files: tuple[Path, ...]) -> None:
    claims = [
        f"{path}:{number}: {line.strip()}"
        for path in files
        if path.suffix in (".md", "") and path.name in ("README.md", "CONTRIBUTING.md", "Makefile")
        for number, line in enumerate((root / path).read_text().splitlines(), 1)
        for name in re.findall(r"(?:Debian|Ubuntu|Fedora|RHEL|Rocky|openSUSE|Alpine)(?: \d+(?:\.\d+)?)?", line)
        if name not in bare_root.SUITES.values()
    ]
    assert not claims, f"CI runs {', '.join(bare_root.SUITES.values())} only:\n" + "\n".join(claims)


def test_whoever_cannot_make_a_root_is_told_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert "needs root" in bare_root.why_not()
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setenv("PATH", "/nowhere")
    assert "needs apt" in bare_root.why_not()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((), "COMMAND"),
        (("--copy", "README.md", "--", "true"), "--copy is FILE:PATH"),
        (("--copy", "README.md:/etc/passwd", "--", "true"), "PATH is relative"),
        (("--copy", "README.md:../x", "--", "true"), "PATH is relative"),
        (("--copy", "/nowhere:x", "--", "true"), "there is no file /nowhere"),
        (("--suite", "jammy", "--", "true"), "jammy"),
    ],
)
def test_wrong_words_are_refused(words: tuple[str, ...], told: str, root: Path) -> None:
    command = [sys.executable, str(root / "tools" / "bare_root.py"), *words]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root)
    assert done.returncode == 2
    assert told in done.stderr


def test_what_a_killed_run_left_is_removed_and_what_runs_is_not(tmp_path: Path) -> None:
    for name in ("root.bookworm.1", "root.trixie.2"):
        (tmp_path / name / "etc").mkdir(parents=True)
        (tmp_path / f"{name}.lock").touch()
    with bare_root.locked(tmp_path / "root.trixie.2.lock"):
        bare_root.remove_what_was_left(tmp_path)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["root.trixie.2", "root.trixie.2.lock"]
    bare_root.remove_what_was_left(tmp_path)
    assert not list(tmp_path.iterdir())
