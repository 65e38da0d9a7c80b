"""There is one version: native/CMakeLists.txt. Whatever else tells a version tells this one."""

import re
import tomllib
from importlib import metadata
from pathlib import Path

import cairn_dpu._native
import cairnkv


def version_of(root: Path) -> str:
    found = re.search(r'set\(CAIRN_VERSION "([^"]+)"', (root / "native" / "CMakeLists.txt").read_text())
    assert found
    return found.group(1)


def test_everything_tells_the_same_version(root: Path) -> None:
    version = version_of(root)
    assert re.fullmatch(r"\d+\.\d+\.\d+((a|b|rc)\d+)?", version)
    told = {
        "cairnkv": metadata.version("cairnkv"),
        "cairnkv.__version__": cairnkv.__version__,
        "cairnkv._native": cairnkv._native.version(),
        "cairn-dpu": metadata.version("cairn-dpu"),
        "cairn_dpu._native": cairn_dpu._native.version(),
    }
    assert set(told.values()) == {version}, told


def test_the_version_stands_in_one_place(root: Path) -> None:
    for file in ("pyproject.toml", "dpu/pyproject.toml"):
        table = tomllib.loads((root / file).read_text())
        assert "version" not in table["project"]
        assert table["project"]["dynamic"] == ["version"]


def test_the_changelog_knows_the_version(root: Path) -> None:
    headings = re.findall(r"^## (.+)$", (root / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert version_of(root) in headings[0]
