"""Every block of the README is pasted into a fresh shell, as a reader would."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
PORT = 9600  # the README's


class Block(NamedTuple):
    language: str
    text: str

    @property
    def is_set_up(self) -> bool:
        """Words for make, which builds and tests everything: CI runs those (tests/project/test_bare_machine.py)."""
        return all(line.startswith("make ") for line in self.text.splitlines())


BLOCKS = [Block(*found) for found in FENCED.findall(README)]
SHELL = [block for block in BLOCKS if block.language == "sh" and not block.is_set_up]
PYTHON = [block for block in BLOCKS if block.language == "python"]


@dataclass
class Checkout:
    """A folder with what a reader has who typed `make setup`. The README's places in /var/tmp are in here as well."""

    folder: Path

    def paste(self, text: str, settings: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """Into a bash without this one's environment, up to the first line that fails; waits for all that it started."""
        here = text.replace("/var/tmp", str(self.folder))
        environment = {"PATH": PATH, "HOME": str(self.folder), **(settings or {})}
        with subprocess.Popen(
            ["bash", "--norc", "--noprofile", "-e"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.folder,
            env=environment,
            start_new_session=True,
        ) as shell:
            try:
                out, err = shell.communicate(here, timeout=100)  # its output ends with the last that holds it
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(shell.pid, signal.SIGKILL)
        return subprocess.CompletedProcess(["bash"], shell.returncode, out, err)


@pytest.fixture
def checkout(short_dir: Path) -> Checkout:
    (short_dir / "README.md").write_text(README)
    (short_dir / ".venv").symlink_to(Path(sys.executable).parents[1])
    return Checkout(short_dir)


def test_every_block_is_one_that_these_tests_know() -> None:
    assert {block.language for block in BLOCKS} <= {"sh", "python", "text"}
    assert len(SHELL) == len(PYTHON) == 1
    assert [block.text for block in BLOCKS if block.is_set_up] == ["make demo\nmake test\n"]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


# What a reader lost: `cairn-dpu` was not on PATH, and the first put came before the service listened.
@pytest.mark.parametrize("block", SHELL)
def test_the_shell_block_stores_a_block_and_gets_it_back(block: Block, checkout: Checkout) -> None:
    from cairn_dpu.config import Config

    assert [str(url) for url in Config().listen] == [f"tcp://127.0.0.1:{PORT}"], "where the README expects the service"
    port = free_port()  # somebody else may have that one here
    settings = {"CAIRN_DPU_LISTEN": f"tcp://127.0.0.1:{port}", "CAIRN_DPU_ADMIN": "127.0.0.1:0"}
    done = checkout.paste(block.text.replace(f":{PORT}", f":{port}"), settings)
    assert done.returncode == 0, done.stderr + done.stdout
    assert "".join(README.splitlines(keepends=True)[:3]) in done.stdout
    assert "stored hello" in done.stdout
    assert re.search(r"^ok +round trip", done.stdout, re.MULTILINE)
    assert "Traceback" not in done.stderr
    assert (checkout.folder / "cairn-drive").stat().st_size == 2 << 30
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0, "the service still runs"


@pytest.mark.parametrize("block", PYTHON)
def test_the_example_prints_what_the_readme_says(block: Block, checkout: Checkout) -> None:
    promised = re.search(r"It prints `([^`]+)`", README)
    assert promised
    done = checkout.paste(f". .venv/bin/activate\npython - <<'EOF'\n{block.text}EOF\n")
    assert (done.returncode, done.stdout.strip()) == (0, promised.group(1)), done.stderr
    assert (checkout.folder / "cairn-readme" / "drive.cairn").stat().st_size == 1 << 30


def test_the_set_up_block_is_words_of_the_makefile() -> None:
    for block in (block for block in BLOCKS if block.is_set_up):
        for line in block.text.splitlines():
            done = subprocess.run(
                [*line.split(), "--dry-run"], cwd=ROOT, env={"PATH": PATH}, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, done.stderr


def test_the_shell_lines_are_commands_that_exist() -> None:
    from cairnkv.cli import app

    known = {info.name or getattr(info.callback, "__name__", "") for info in app.registered_commands}
    used = set(re.findall(r"^cairn (\w+)", README, re.MULTILINE))
    assert used and used <= known
