"""The README's example is run as it stands there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

README = Path(__file__).parents[2] / "README.md"


def test_the_example_prints_what_the_readme_says(short_dir: Path) -> None:
    text = README.read_text()
    [example] = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    promised = re.search(r"It prints `([^`]+)`", text)
    assert promised
    here = example.replace("local:/var/tmp/cairn-readme", f"local:{short_dir}?size=256MiB")
    assert here != example, "the example no longer names the directory that this test replaces"
    done = subprocess.run([sys.executable, "-c", here], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, promised.group(1)), done.stderr


def test_the_shell_lines_are_commands_that_exist() -> None:
    from cairnkv.cli import app

    known = {info.name or getattr(info.callback, "__name__", "") for info in app.registered_commands}
    used = set(re.findall(r"^cairn (\w+)", README.read_text(), re.MULTILINE))
    assert used and used <= known
