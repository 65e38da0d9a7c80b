"""The distributions as a user gets them: one package each, typed, licensed, and the client's wheel builds from its sdist."""

import configparser
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from email.parser import HeaderParser
from pathlib import Path

import pytest

pytestmark = [pytest.mark.wheels, pytest.mark.timeout(900)]

BUILD = "import sys; from scikit_build_core.build import build_sdist, build_wheel; print({}(sys.argv[1], {}))"
SCRIPTS = {"cairnkv": "cairn = cairnkv.__main__:main", "cairn_dpu": "cairn-dpu = cairn_dpu.__main__:main"}
HEAVY = {"fastapi", "uvicorn", "pydantic", "prometheus-client", "numpy", "starlette"}


def run_hook(hook: str, folder: Path, out: Path, settings: str) -> Path:
    """Builds with the backend itself, as pip would, but with what is installed here: no network."""
    done = subprocess.run(
        [sys.executable, "-c", BUILD.format(hook, settings), str(out)],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return out / done.stdout.splitlines()[-1]


@pytest.fixture(scope="session")
def wheels(root: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Both wheels, from the build folder of the editable installs: the flags are the same, so nothing is compiled twice."""
    out = tmp_path_factory.mktemp("wheels")
    settings = repr({"build-dir": str(root / "build" / "native"), "cmake.define.CAIRN_TESTS": "ON"})
    return {
        "cairnkv": run_hook("build_wheel", root, out, settings),
        "cairn_dpu": run_hook("build_wheel", root / "dpu", out, settings),
    }


@pytest.fixture(scope="session")
def sdist(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_hook("build_sdist", root, tmp_path_factory.mktemp("sdist"), "None")


def names_in(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


@pytest.mark.parametrize("package", ["cairnkv", "cairn_dpu"])
def test_a_wheel_holds_its_package_and_nothing_else(package: str, wheels: dict[str, Path], root: Path) -> None:
    names = names_in(wheels[package])
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not re.search(r"\.(dist-info|data)$", top)} == {package}
    inside = {name.removeprefix(f"{package}/") for name in names if name.startswith(f"{package}/")}
    assert {"py.typed", "_native.pyi", "__init__.py"} <= inside
    assert len([name for name in inside if re.fullmatch(r"_native\.[\w.-]*so", name)]) == 1
    source = root / {"cairnkv": "cairnkv", "cairn_dpu": "dpu/cairn_dpu"}[package]
    modules = {str(path.relative_to(source)) for path in source.rglob("*.py")}
    assert {name for name in inside if name.endswith(".py")} == modules
    assert not [name for name in names if "__pycache__" in name or name.endswith((".cc", ".h"))]
    assert [name for name in names if name.endswith("licenses/LICENSE")]


@pytest.mark.parametrize("package", ["cairnkv", "cairn_dpu"])
def test_a_wheels_description(package: str, wheels: dict[str, Path]) -> None:
    with zipfile.ZipFile(wheels[package]) as archive:
        [name] = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        described = HeaderParser().parsestr(archive.read(name).decode())
        entries = configparser.ConfigParser()
        entries.read_string(archive.read(name.replace("METADATA", "entry_points.txt")).decode())
    assert described["License-Expression"] == "Apache-2.0"
    assert described["Requires-Python"] == ">=3.11"
    assert [f"{key} = {value}" for key, value in entries["console_scripts"].items()] == [SCRIPTS[package]]
    needed = {
        re.split(r"[\s<>=!~;\[]", row)[0] for row in described.get_all("Requires-Dist", []) if "extra ==" not in row
    }
    assert needed == ({"rich", "typer"} if package == "cairnkv" else needed)
    assert package != "cairnkv" or not needed & HEAVY


def test_the_service_brings_its_unit(wheels: dict[str, Path]) -> None:
    assert [name for name in names_in(wheels["cairn_dpu"]) if name.endswith("lib/systemd/system/cairn-dpu.service")]


def test_the_client_carries_no_server(wheels: dict[str, Path], tmp_path: Path) -> None:
    """A GPU host gets neither the store nor io_uring."""
    needed = {}
    for package, wheel in wheels.items():
        with zipfile.ZipFile(wheel) as archive:
            [name] = [name for name in archive.namelist() if "_native." in name and name.endswith(".so")]
            library = archive.extract(name, tmp_path / package)
        listing = subprocess.run(["readelf", "-d", library], capture_output=True, text=True, check=True).stdout
        needed[package] = set(re.findall(r"\(NEEDED\).*\[([^\]]+)\]", listing))
    assert not [name for name in needed["cairnkv"] if "uring" in name]


def test_the_wheels_work_where_only_they_are(wheels: dict[str, Path], tmp_path: Path) -> None:
    for package, wheel in wheels.items():
        site = tmp_path / package
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(site)
        script = f"import sys; sys.path.insert(0, {str(site)!r}); import {package}, {package}._native as n; print(n.__file__)"
        done = subprocess.run([sys.executable, "-S", "-I", "-c", script], capture_output=True, text=True)
        assert done.stdout.startswith(str(site)), done.stderr


def test_the_sdist_holds_what_the_client_needs(sdist: Path, root: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    tops = {name.partition("/")[0] for name in names}
    assert tops <= {"cairnkv", "native", "pyproject.toml", "PKG-INFO", "LICENSE", "README.md", "CHANGELOG.md"}
    assert {"pyproject.toml", "native/CMakeLists.txt", "native/bindings/cairnkv.cc", "cairnkv/_native.pyi"} <= names
    assert not [name for name in names if name.endswith((".so", ".o", ".pyc", ".whl"))]


def test_the_sdist_builds_the_same_wheel(sdist: Path, wheels: dict[str, Path], tmp_path: Path) -> None:
    subprocess.run(["tar", "-xzf", sdist, "-C", tmp_path], check=True)
    [folder] = tmp_path.iterdir()
    rebuilt = run_hook("build_wheel", folder, tmp_path, "None")
    assert sorted(names_in(rebuilt)) == sorted(names_in(wheels["cairnkv"]))
